"""Put the analysis plan on record before any score exists, and every later change of it.

    %(prog)s --plan plan.json --scores results/scores --output plan.lock.json

The plan that counts as registered is the last one recorded while no score file existed. If the present one is another,
the record is marked exploratory, and so is every comparison that is made with it (--plan-lock). Going back to the
registered plan takes the mark away; the history keeps all plans.

Additions, contrasts of arms that a plan adds to those of the study, may come later: they change nothing of the study.
The record says which of them are late, and only they are exploratory. One that was registered may not change or go.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .files import ContractError, read_json, sha256_json, well_formed, write_json


def main(arguments: Sequence[str] | None = None, *, prog: str = "paired freeze") -> None:
    """The command; ContractError for a plan or a record that cannot be read."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", required=True, metavar="FILE", help="the analysis plan, a JSON object")
    parser.add_argument("--scores", required=True, metavar="DIR", help="folder of metric=<name>/part-*.parquet")
    parser.add_argument("--output", required=True, metavar="FILE", help="the record, JSON; kept and added to")
    args = parser.parse_args(arguments)
    print(summary(freeze(read_json(args.plan), Path(args.scores), Path(args.output))))


def freeze(plan: dict, scores: Path, output: Path) -> dict:
    """Add the present plan to the record in `output`, which may not exist yet; returns the record (see `updated`)."""
    with well_formed(f"{output}: is not a record of this command; restore it, or name another file"):
        history = read_json(output)["history"] if output.exists() else []
        record = updated(history, plan, any(scores.glob("metric=*/part-*.parquet")))
    write_json(output, record)
    return record


def summary(record: dict) -> str:
    """The record in one line."""
    state = "EXPLORATORY: " + "; ".join(record["changes"]) if record["exploratory"] else "registered before any score"
    late = f"; additions after scores existed: {', '.join(record['late'])}" if record.get("late") else ""
    return f"plan {record['sha256'][:12]}: {state}{late}"


def updated(history: list[dict], plan: dict, scores_existed: bool) -> dict:
    """The record with the present plan: {plan, sha256, exploratory, changes, history}; with additions also late.

    history: entries {plan, sha256, scores_existed}, oldest first; one is added when the plan is not the last one's.
    Scores that existed once have been seen, even if they were deleted since.
    """
    sha256 = sha256_json(plan)
    if not history or history[-1]["sha256"] != sha256:
        seen = scores_existed or any(entry["scores_existed"] for entry in history)
        history = [*history, {"plan": plan, "sha256": sha256, "scores_existed": seen}]
    registered = [entry["plan"] for entry in history if not entry["scores_existed"]]
    before = dict(registered[-1].get("additions", {})) if registered else {}
    late = sorted(set(plan.get("additions", {})) - set(before))
    if not registered:
        changes = ["no plan was on record before the first scores"]
    else:
        kept = {name: weights for name, weights in plan.get("additions", {}).items() if name not in late}
        changes = differences({**registered[-1], "additions": before}, {**plan, "additions": kept})
    record = {"plan": plan, "sha256": sha256, "exploratory": bool(changes), "changes": changes, "history": history}
    return {**record, "late": late} if "additions" in plan else record


def differences(old: object, new: object, key: str = "") -> list[str]:
    """What differs between two JSON values, one line a key: "alpha: 0.05 → 0.01"."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted({*old, *new}):
            found += differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        return found
    return [] if old == new else [f"{key}: {json.dumps(old)} → {json.dumps(new)}"]


def late_additions(record: str | Path) -> list[str]:
    """The additions of a record of this command that were put there after scores existed."""
    return list(read_json(record).get("late", []))


def changes_on_record(sha256: str, record: str | Path, *, program: str = "paired freeze") -> list[str]:
    """What was changed in the plan after the first scores existed; none, if it is the registered one.

    sha256: of the present plan. record: a file of this command, which messages call `program`. Raises ContractError
    unless the present plan is the one that is on record.
    """
    found = read_json(record)
    if not (isinstance(found.get("sha256"), str) and isinstance(found.get("changes"), list)):
        raise ContractError(f"{record}: is not a record of {program}")
    if sha256 != found["sha256"]:
        raise ContractError(
            f"{record}: the analysis plan has sha256 {sha256[:12]}..., the one on record {found['sha256'][:12]}...; "
            f"restore the plan, or put the change on record with {program} (the results are then exploratory)"
        )
    return found["changes"]
