"""Rule freeze_plan: put the analysis plan on record before any score exists, and every later change of it.

    python scripts/freeze_plan.py --plan plan.json --scores results/scores --output plan.lock.json

The plan that counts as registered is the last one recorded while no score file existed. If the present one is another,
the record is marked exploratory, and so is everything that compare.py (--plan-lock) makes with it. Going back to the
registered plan takes the mark away; the history keeps all plans. In the workflow the plan is the job's settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from arms.job.files import canonical_json, exit_with_message, read_json, sha256_bytes, write_json
from arms.job.manifest import Job


def main() -> None:
    """Read the record, add the present plan, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = parser.add_mutually_exclusive_group(required=True)
    plan.add_argument("--plan", metavar="FILE", help="the analysis plan, a JSON object (standalone use)")
    plan.add_argument("--job", type=json.loads, metavar="JSON", help="the workflow's job; its settings are the plan")
    parser.add_argument("--lock", metavar="envs/stats.yaml", help="pins that the versions found are checked against")
    parser.add_argument("--manifest", metavar="PATH", help="where the manifest of this job goes (with --job)")
    parser.add_argument("--scores", required=True, metavar="DIR", help="folder of metric=<name>/part-*.parquet")
    parser.add_argument("--output", required=True, metavar="FILE", help="the record, JSON; kept and added to")
    args = parser.parse_args()
    if bool(args.job) != bool(args.manifest):
        parser.error("--job and --manifest go together")
    job = Job(args) if args.job else None

    output = Path(args.output)
    history = read_json(output)["history"] if output.exists() else []
    seen = any(Path(args.scores).glob("metric=*/part-*.parquet"))
    record = updated(history, job.settings if job else read_json(args.plan), seen)
    write_json(output, record)
    state = "EXPLORATORY: " + "; ".join(record["changes"]) if record["exploratory"] else "registered before any score"
    (job.say if job else print)(f"plan {record['sha256'][:12]}: {state}")
    if job:
        job.finish(inputs={}, outputs={"plan": output}, exploratory=record["exploratory"], plans=len(record["history"]))


def updated(history: list[dict], plan: dict, scores_existed: bool) -> dict:
    """The record with the present plan: {plan, sha256, exploratory, changes, history}.

    history: entries {plan, sha256, scores_existed}, oldest first; one is added when the plan is not the last one's.
    Scores that existed once have been seen, even if they were deleted since.
    """
    sha256 = sha256_bytes(canonical_json(plan).encode())
    if not history or history[-1]["sha256"] != sha256:
        seen = scores_existed or any(entry["scores_existed"] for entry in history)
        history = [*history, {"plan": plan, "sha256": sha256, "scores_existed": seen}]
    registered = [entry for entry in history if not entry["scores_existed"]]
    if not registered:
        changes = ["no plan was on record before the first scores"]
    else:
        changes = differences(registered[-1]["plan"], plan)
    return {"plan": plan, "sha256": sha256, "exploratory": bool(changes), "changes": changes, "history": history}


def differences(old: object, new: object, key: str = "") -> list[str]:
    """What differs between two JSON values, one line a key: "alpha: 0.05 → 0.01"."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted({*old, *new}):
            found += differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        return found
    return [] if old == new else [f"{key}: {json.dumps(old)} → {json.dumps(new)}"]


if __name__ == "__main__":
    exit_with_message(main)
