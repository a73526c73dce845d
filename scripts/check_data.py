"""Rule check_data: check one data file before anything is trained, describe it, and write its rows in one layout.

    python scripts/check_data.py --job '{"rule": "check_data", "wildcards": {"data": "pairs"}, "settings": {}}' \
        --sources '{"sft": "config/data/sft.jsonl", "pairs": "config/data/preferences.jsonl", ...}' \
        --data config/data/preferences.jsonl --rows results/demo/data/pairs.parquet \
        --audit results/demo/data/pairs.audit.json --manifest ...

Bad rows stop the study, and so do held-out prompts that are trained on or cannot be graded, and fewer rows than a
batch. A job about training data also reads the held-out files; one about held-out data looks into the checked tables of
what is trained on. Each writes the table of its own file alone, and only that file makes it run again. Training waits
for all of them. Nothing is mended or dropped.
"""

from __future__ import annotations

import json
from pathlib import Path

from arms.data.checks import Checker
from arms.data.graders import Graders
from arms.data.summary import summary_of, suspicion_words, warnings
from arms.job.files import exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from study.datasets import DATA, HELDOUT, UNTRAINED


def main() -> None:
    """Read all, compare, describe and write one."""
    parser = JobParser(__doc__)
    parser.input("data", nargs="*", default=[], help="the files of the data set that this job is about")
    parser.input("beside", nargs="*", default=[], recorded=False, help="the held-out files, which are looked at")
    parser.input("trained", nargs="*", default=[], recorded=False, help="checked tables of the training data")
    parser.output("rows", help="its rows in the layout of a checked table, parquet (output)")
    parser.output("audit", help="what was found, as JSON (output)")
    parser.input("graders", default=None, recorded=False, help="Python file with the graders of held-out prompts")
    parser.add_argument("--sources", type=json.loads, required=True, metavar="JSON", help="every data set: where it is")
    parser.add_argument("--least", type=json.loads, default={}, metavar="JSON", help="rows that training needs")
    args = parser.parse_args()
    job = Job(args)

    name = job.wildcards["data"]
    trained = {Path(path).stem: path for path in args.trained}
    with Graders(args.graders) as graders:
        checker = Checker(args.sources, trained, args.least, graders, job)
        checker.read_all(name, args.rows)
    table, near = checker.tables[name], checker.near()
    told = (
        []
        if name in UNTRAINED
        else warnings(table, [checker.tables[other] for other in HELDOUT if other in checker.tables], near)
    )
    told += checker.source.notes()
    summary, portrait = summary_of(table), checker.portrait.describe(table, args.rows)
    found = checker.source.facts(table.ids.tobytes())
    write_json(args.audit, {"schema": 3, **summary, "near_duplicates": near, "warnings": told, **portrait, **found})
    for line in [*words(DATA[name], summary), *checker.source.facts_in_words()]:
        job.say(line)
    job.say(f"no held-out prompt is trained on; {len(near)} are near-duplicates")
    told += [suspicion_words(table, entry) for entry in portrait["suspicions"]]
    for warning in told:
        job.say(f"warning: {warning}")
    job.finish(rows=len(table), warnings=len(told), **found)


def words(kind: str, summary: dict) -> list[str]:
    """What the log says of good rows."""
    found = [f"{summary['rows']} rows in {len(summary['categories'])} categories, no bad row"]
    if kind == "sft":
        lengths = summary["characters"]["completion"]
        found.append(f"completions: median {lengths['median']:.0f} characters, at most {lengths['max']:.0f}")
    if kind == "pairs":
        found.append(
            f"the longer answer is the chosen one in {summary['longer_wins']:.0%} of the pairs; "
            f"{summary['share_first_word_differs']:.0%} differ in the first word"
        )
    return found


if __name__ == "__main__":
    exit_with_message(main)
