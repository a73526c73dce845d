"""Rule tokenize_task: turn what a task asks into token ids, once, for every arm.

    python scripts/tokenize_task.py --job '{"rule": "tokenize_task", "wildcards": {"task": "T"}, "settings": {}}' \
        --model results/demo/model/model.json --requests results/demo/tasks/T.requests.parquet \
        --tokens results/demo/tasks/T.tokens.parquet --manifest ...

A request that does not fit the model stops the study here, before anything is trained.
"""

from __future__ import annotations

from pathlib import Path

from arms.data.requests import REQUESTS, TOKENS, item_id, read_rows, write_rows
from arms.data.task_tokens import TaskEncoder
from arms.data.tokens import load_tokenizer
from arms.job.files import UserError, exit_with_message, read_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import counted
from arms.model.architecture import row_limit


def main() -> None:
    """Read requests, tokenise them, write ids."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model (only its tokenizer and config are read)")
    parser.input("requests", help="what the task asks")
    parser.output("tokens", help="token ids, parquet (output)")
    parser.add_argument("--threads", type=int, default=1, help="not used: texts are tokenised one by one")
    args = parser.parse_args()
    job = Job(args)

    from transformers import AutoConfig

    name, own_end = job.wildcards["task"], read_json(args.model)["tokenizer"]["own_eos_token"]
    limit = row_limit(AutoConfig.from_pretrained(str(Path(args.model).parent / "weights"), local_files_only=True))
    encoder = TaskEncoder(load_tokenizer(args.model), own_end, limit and limit[0])
    kept, rows = ("until", "max_new_tokens"), []
    for row in counted(job, read_rows(args.requests, REQUESTS), "requests tokenised"):
        try:
            ids = encoder.tokens(row)
        except UserError as error:
            raise UserError(f"evaluation.tasks.{name}: {error}") from None
        key = f"{item_id(name, row['task'], row['doc_id'])}/{row['idx']}"
        rows.append({"id": key, **ids, **{column: row[column] for column in kept}})
    write_rows(args.tokens, rows, TOKENS)
    longest = max(len(row["prompt_ids"]) + len(row["answer_ids"] or ()) for row in rows)
    job.say(f"{len(rows)} requests, at most {longest} tokens; {encoder.cut} cut from the left to fit the model")
    job.finish(requests=len(rows), longest=longest, cut=encoder.cut)


if __name__ == "__main__":
    exit_with_message(main)
