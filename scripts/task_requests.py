"""Rule task_requests: what lm-evaluation-harness asks in a task, and whether it can grade the answers.

    python scripts/task_requests.py --job '{"rule": "task_requests", "wildcards": {"task": "T"}, "settings": {...}}' \
        --files facts.yaml facts.jsonl --requests T.requests.parquet --heldout T.items.parquet --manifest ...

Both files are described in arms/data/requests.py.
"""

from __future__ import annotations

from collections import defaultdict

from arms.data.requests import ITEMS, REQUESTS, write_rows
from arms.job.files import UserError, exit_with_message
from arms.job.manifest import Job
from arms.job.program import JobParser


def main() -> None:
    """Ask, grade empty answers to see that it can be done, write."""
    parser = JobParser(__doc__)
    parser.input("files", nargs="*", default=[], help="a task of the user's own: its YAML, then all that it names")
    parser.output("requests", help="what the task asks, parquet (output)")
    parser.output("heldout", help="its items as held-out rows, parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    from arms.data import harness

    lm = harness.Asked()
    results = harness.run(job.settings, args.files, lm)
    name, facts = job.settings["name"], harness.facts(results)
    refuse_one_choice(name, lm.requests, results["configs"])
    parts = set()  # of items that a metric grades in parts
    for metric in job.settings["metric"]:
        parts |= {found[:3] for found in harness.values(results, name, metric) if found[2] is not None}
        harness.check_direction(results, job.settings, metric)

    write_rows(args.requests, [{**row, "few_shot": few_shot(facts, row)} for row in lm.requests], REQUESTS)
    items = {(task, sample["doc_id"]): sample for task, samples in results["samples"].items() for sample in samples}
    rows = [harness.listed(name, task, sample) for (task, _), sample in sorted(items.items())]
    rows += [harness.listed(name, task, items[task, doc_id], part) for task, doc_id, part in sorted(parts)]
    write_rows(args.heldout, rows, ITEMS)
    job.say(f"{len(lm.requests)} requests of {len(items)} items; lm-evaluation-harness {facts['lm_eval']}")
    job.finish(**facts)


def few_shot(facts: dict, row: dict) -> int:
    """How many examples a request has before its question."""
    return facts["tasks"][row["task"]]["few_shot"]


def refuse_one_choice(name: str, requests: list[dict], configs: dict) -> None:
    """UserError for an item of a choice task that has nothing to choose from."""
    choices = defaultdict(set)
    for row in requests:
        if configs[row["task"]]["output_type"] == "multiple_choice" and row["context"]:
            choices[row["task"], row["doc_id"]].add((row["context"], row["continuation"]))
    for (task, doc_id), found in choices.items():
        if len(found) < 2:
            raise UserError(
                f"evaluation.tasks.{name}: item {doc_id} of {task} has one choice ({next(iter(found))[1]!r}), so every "
                "model is right; correct the data, or the task's doc_to_choice"
            )


if __name__ == "__main__":
    exit_with_message(main)
