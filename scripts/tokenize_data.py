"""Rule tokenize_data: turn one audited data set into token ids, once, for every arm.

    python scripts/tokenize_data.py --job '{"rule": "tokenize_data", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --data results/demo/data/sft.parquet --kind sft \
        --tokens results/demo/tokens/sft.parquet --audit results/demo/tokens/sft.audit.json --manifest ...
"""

from __future__ import annotations

from arms.data.rows import read_checked
from arms.data.templates import check_answer
from arms.data.tokens import COMPLETIONS, encode_rows, load_tokenizer, take_in_turn
from arms.job.files import atomic_path, exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.memory.ladder import longest_row


def main() -> None:
    """Read rows, tokenise them, write ids and an audit."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model (only its tokenizer is read)")
    parser.input("data", help="checked table of its rows, or a file in its layout")
    parser.input("rung", nargs="+", default=[], help="what fits into memory (rule probe_memory): may shorten the rows")
    parser.output("tokens", help="token ids, parquet (output)")
    parser.output("audit", help="what was found, JSON (output)")
    parser.add_argument("--kind", required=True, choices=sorted(COMPLETIONS), help="which columns the rows have")
    args = parser.parse_args()
    job = Job(args)

    import pandas

    tokenizer = load_tokenizer(args.model)
    chosen = take_in_turn(list(read_checked(args.data, args.kind)), job.settings["rows"])
    settings = {**job.settings, "max_length": longest_row(args.rung, job.settings["max_length"])}
    rows, audit = encode_rows(chosen, args.kind, tokenizer, settings, args.data)
    with atomic_path(args.tokens) as temporary:
        pandas.DataFrame(rows).to_parquet(temporary, index=False)
    write_json(args.audit, audit)
    if warning := check_answer(tokenizer, settings):
        job.say(warning)
    lengths = ", ".join(f"{name} {q['median']} (at most {q['max']})" for name, q in audit["tokens"].items())
    job.say(f"{audit['kept']} of {audit['rows']} rows kept; median tokens: {lengths}")
    overlong = audit["overlong"]
    if overlong["rows"]:
        sides = ", ".join(f"{side} {count}" for side, count in overlong["by_side"].items())
        job.say(
            f"{len(overlong['rows'])} rows are longer than {settings['max_length']} tokens ({sides}): "
            f"{audit['rows'] - audit['kept']} left out, {sum(overlong['cut'].values())} completions cut"
        )
    job.finish(rows=audit["kept"])


if __name__ == "__main__":
    exit_with_message(main)
