"""Rule tokenize_data: turn one audited data set into token ids, once, for every arm.

    python scripts/tokenize_data.py --job '{"rule": "tokenize_data", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --data config/data/sft.jsonl --kind sft \
        --output results/demo/tokens/sft.parquet --audit results/demo/tokens/sft.audit.json --manifest ...
"""

from __future__ import annotations

import argparse

from arms.data.tokens import COMPLETIONS, encode_rows, load_tokenizer, take_in_turn
from arms.job.files import atomic_path, exit_with_message, read_jsonl, write_json
from arms.job.manifest import Job, add_job_arguments
from arms.memory.ladder import add_rung_argument, longest_row


def main() -> None:
    """Read rows, tokenise them, write ids and an audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    add_rung_argument(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model (only its tokenizer is read)")
    parser.add_argument("--data", required=True, help="JSON Lines file")
    parser.add_argument("--kind", required=True, choices=sorted(COMPLETIONS), help="which columns the rows have")
    parser.add_argument("--output", required=True, help="token ids, parquet")
    parser.add_argument("--audit", required=True, help="what was found, JSON")
    args = parser.parse_args()
    job = Job(args)

    import pandas

    columns = dict.fromkeys(["id", "category", "prompt", *COMPLETIONS[args.kind]], str)
    tokenizer = load_tokenizer(args.model)
    chosen = take_in_turn(read_jsonl(args.data, columns), job.settings["rows"])
    settings = {**job.settings, "max_length": longest_row(args.rung, job.settings["max_length"])}
    rows, audit = encode_rows(chosen, args.kind, tokenizer, settings, args.data)
    with atomic_path(args.output) as temporary:
        pandas.DataFrame(rows).to_parquet(temporary, index=False)
    write_json(args.audit, audit)
    lengths = ", ".join(f"{name} {q['median']} (at most {q['max']})" for name, q in audit["tokens"].items())
    job.say(f"{audit['kept']} of {audit['rows']} rows kept; median tokens: {lengths}")
    overlong = audit["overlong"]
    if overlong["rows"]:
        sides = ", ".join(f"{side} {count}" for side, count in overlong["by_side"].items())
        job.say(
            f"{len(overlong['rows'])} rows are longer than {settings['max_length']} tokens ({sides}): "
            f"{audit['rows'] - audit['kept']} left out, {sum(overlong['cut'].values())} completions cut"
        )
    job.finish(
        inputs={"model": args.model, "data": args.data, **{path: path for path in args.rung}},
        outputs={"tokens": args.output, "audit": args.audit},
        rows=audit["kept"],
    )


if __name__ == "__main__":
    exit_with_message(main)
