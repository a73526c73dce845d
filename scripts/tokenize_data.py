"""Rule tokenize_data: turn one audited data set into token ids, once, for every arm.

    python scripts/tokenize_data.py --job '{"rule": "tokenize_data", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --data results/demo/data/sft.parquet --kind sft \
        --tokens results/demo/tokens/sft.parquet --audit results/demo/tokens/sft.audit.json --manifest ...

Training waits for the tokens of what it trains on alone, so that another held-out row is no reason to train again; that
job also tokenises the held-out rows, and stops before training if one of them is too long or has a special token.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from arms.data.encoding import COMPLETIONS, Encoder, take_in_turn
from arms.data.leakage import digest, normalise
from arms.data.sources import read_checked
from arms.data.token_rows import write_tokens
from arms.data.tokens import load_tokenizer
from arms.data.turns import not_held_out
from arms.job.files import exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import counted
from arms.memory.ladder import longest_row
from study.datasets import DATA

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main() -> None:
    """Read rows, tokenise them, write ids and an audit."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model (only its tokenizer is read)")
    parser.input("data", help="checked table of its rows, or a file in its layout")
    parser.input("rung", nargs="+", default=[], help="what fits into memory (rule probe_memory): may shorten the rows")
    parser.output("tokens", help="token ids, parquet (output)")
    parser.output("audit", help="what was found, JSON (output)")
    parser.add_argument("--kind", required=True, choices=sorted(COMPLETIONS), help="which columns the rows have")
    parser.input("beside", nargs="*", default=[], recorded=False, help="checked held-out tables, to look at")
    parser.input("checked", nargs="*", default=[], recorded=False, help="checked tables of all data: these come first")
    parser.add_argument(
        "--ahead",
        type=json.loads,
        default={},
        metavar="JSON",
        help="the rows of each that are used: {data set: number}",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads, or processes, of the tokenizer")
    args = parser.parse_args()
    job = Job(args)
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(args.threads)}

    tokenizer = load_tokenizer(args.model)
    for path in args.beside:
        look_ahead(path, args.ahead.get(Path(path).stem), tokenizer, job.settings)
    settings = {**job.settings, "max_length": longest_row(args.rung, job.settings["max_length"])}
    encoder = Encoder(args.kind, tokenizer, settings, args.data)
    categories = (row["category"] for row in read_checked(args.data, args.kind))
    chosen = take_in_turn(read_checked(args.data, args.kind), settings["rows"], categories)
    if settings.get("assistant_turns") == "all":
        prompts = (row["prompt"] for path in args.beside for row in read_checked(path, DATA[Path(path).stem]))
        chosen = not_held_out(chosen, {digest(normalise(prompt)) for prompt in prompts})
    make = partial(encoder_of, args.model, args.kind, settings, args.data)
    write_tokens(args.tokens, encoder.tables(counted(job, chosen, "rows tokenised"), args.threads, make))
    audit = encoder.audit()
    write_json(args.audit, audit)
    for told in audit["template"]:
        job.say(told)
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


def encoder_of(model: str, kind: str, settings: dict, source: str) -> Encoder:
    """The encoder of a process beside this one, whose tokenizer has no threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Encoder(kind, load_tokenizer(model), settings, source)


def look_ahead(path: str, limit: int | None, tokenizer: PreTrainedTokenizerBase, settings: dict) -> None:
    """UserError for held-out rows whose tokens would stop the study once everything is trained."""
    kind = DATA[Path(path).stem]
    encoder = Encoder(kind, tokenizer, {**settings, "on_overlong": "error"}, path)
    categories = (row["category"] for row in read_checked(path, kind))
    for _ in encoder.rows(take_in_turn(read_checked(path, kind), limit, categories)):
        pass


if __name__ == "__main__":
    exit_with_message(main)
