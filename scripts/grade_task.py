"""Rule grade_task: one run's scores of a task by one metric, as lm-evaluation-harness grades its answers.

    python scripts/grade_task.py --job '{"rule": "grade_task", "wildcards": {"metric": "T.acc", "run": "base"}, ...}' \
        --files facts.yaml facts.jsonl --requests T.requests.parquet --answers base/T.answers.parquet \
        --scores "scores/metric=T.acc/part-base.parquet" --manifest ...

The harness asks again and gets the answers that are there; its own filters and metrics grade them. An answer that never
ended keeps its grade and has the status `truncated`.
"""

from __future__ import annotations

from arms.data.requests import ANSWERS, REQUESTS, item_id, read_rows
from arms.data.score_table import write_scores
from arms.job.files import UserError, exit_with_message, sha256_bytes
from arms.job.manifest import Job
from arms.job.program import JobParser
from study.runs import Run


def main() -> None:
    """Replay, grade, write."""
    parser = JobParser(__doc__)
    parser.input("files", nargs="*", default=[], help="a task of the user's own: its YAML, then all that it names")
    parser.input("requests", help="what the task asked")
    parser.input("answers", help="the run's answers")
    parser.output("scores", help="metric=<task.metric>/part-<run>.parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    from arms.data import harness

    name, _, metric = job.settings["metric"].partition(".")
    requests, answers = read_rows(args.requests, REQUESTS), read_rows(args.answers, ANSWERS)
    lm = harness.Asked([(row["logp"], row["greedy"]) if row["text"] is None else row["text"] for row in answers])
    results = harness.run(job.settings, args.files, lm)
    asked = [{column: value for column, value in row.items() if column != "few_shot"} for row in requests]
    if lm.requests != asked:
        raise UserError(
            f"evaluation.tasks.{name}: the harness asks something else than {args.requests} holds; has its data set "
            "changed in the cache, or does it draw at random? Delete that file and run again"
        )
    written = {(row["task"], row["doc_id"]): answer for row, answer in zip(requests, answers, strict=True)}
    rows = []
    for task, doc_id, part, value in harness.values(results, name, metric):
        answer = written[task, doc_id]
        digest = None if answer["text"] is None else sha256_bytes(answer["text"].encode("utf-8"))
        item = harness.part_id(item_id(name, task, doc_id), part)
        rows.append((item, 0, value, answer["status"] or "ok", digest))
    write_scores(args.scores, Run.parse(job.wildcards["run"]), rows)
    mean = sum(row[2] for row in rows) / len(rows)
    job.say(f"{job.settings['metric']} {mean:.3f} of {len(rows)} items")
    job.finish(mean=mean, items=len(rows), lm_eval=harness.facts(results)["lm_eval"])


if __name__ == "__main__":
    exit_with_message(main)
