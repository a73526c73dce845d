"""What the data checks share: their files, what held-out rows must be beside any training data, and what is told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from arms.data.audit import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    SFT_COLUMNS,
    Table,
    check_leakage,
    near_duplicates,
    summary_of,
    warnings,
)
from arms.data.grading import check_instructions
from arms.job.files import write_json
from arms.job.manifest import Job
from arms.job.program import JobParser

HELDOUT = ("heldout_pairs", "heldout_prompts")
# input of a check: (columns of its rows, help)
FILES: dict[str, tuple[dict[str, type], str]] = {
    "sft": (SFT_COLUMNS, "training rows: id, prompt, completion, category"),
    "pairs": (PAIR_COLUMNS, "training pairs: id, prompt, chosen, rejected, category, negative"),
    "heldout_pairs": (PAIR_COLUMNS, "pairs that no arm is trained on"),
    "heldout_prompts": (PROMPT_COLUMNS, "prompts that no arm is trained on, with IFEval instructions"),
}


def check_parser(doc: str | None, *training: str) -> JobParser:
    """The command line of a check of the files `training`, each beside the held-out ones."""
    parser = JobParser(doc)
    for name in (*training, *HELDOUT):
        parser.input(name, help=FILES[name][1])
    parser.output("audit", help="what was found, as JSON (output)")
    return parser


def read_files(args: argparse.Namespace, *names: str) -> list[Table]:
    """The tables that the arguments name, each checked row by row; UserError as `Table` raises it."""
    return [Table(getattr(args, name), FILES[name][0]) for name in names]


def compare_with_heldout(training: Iterable[Table], heldout: list[Table]) -> list[dict]:
    """Near-duplicates of the held-out prompts (the pairs' and the prompts' table) among the training rows.

    Raises UserError if a held-out prompt is trained on, or cannot be graded: better now than after training.
    """
    training = list(training)
    for table in training:
        check_leakage(table, heldout)
    check_instructions(heldout[1].rows, heldout[1].path)
    return [entry for table in training for other in heldout for entry in near_duplicates(table, other)]


def check_training_rows(
    doc: str | None, name: str, check_rows: Callable[[Table], None], words: Callable[[dict], list[str]]
) -> None:
    """The whole program that checks one training file, `name`, before anything is trained on it.

    check_rows: refuses rows of this kind. words: what the log says of their summary.
    """
    args = check_parser(doc, name).parse_args()
    job = Job(args)
    (training,) = read_files(args, name)
    check_rows(training)
    heldout = read_files(args, *HELDOUT)
    near = compare_with_heldout([training], heldout)
    summary, told = summary_of(training), warnings(training, heldout, near)
    write_json(args.audit, {"schema": 1, name: summary, "near_duplicates": near, "warnings": told})
    for line in words(summary):
        job.say(line)
    job.say(f"no held-out prompt is trained on; {len(near)} are near-duplicates")
    for warning in told:
        job.say(f"warning: {warning}")
    job.finish(rows=summary["rows"], warnings=len(told))
