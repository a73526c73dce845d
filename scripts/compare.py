"""Compare the arms: paired statistics with error control from score tables, as tables, words and a decision.

    python scripts/compare.py --plan plan.json --scores results/scores --prompts results/eval/prompts.parquet \
        --output results/stats

In the workflow the plan is the job's settings (--job) and a manifest is left; alone, --plan names a JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from arms.files import UserError, atomic_path, exit_with_message, read_json, write_json
from arms.manifest import Job


def parse_arguments() -> argparse.Namespace:
    """The program's flags; either --job with --manifest, or --plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = parser.add_mutually_exclusive_group(required=True)
    plan.add_argument("--plan", metavar="FILE", help="the analysis plan, a JSON object (standalone use)")
    plan.add_argument("--job", type=json.loads, metavar="JSON", help="the workflow's job; its settings are the plan")
    parser.add_argument(
        "--lock", metavar="envs/stats.yaml", help="the pins that the versions found are checked against"
    )
    parser.add_argument("--manifest", metavar="PATH", help="where the manifest of this job goes (with --job)")
    parser.add_argument(
        "--gates", nargs="*", default=[], metavar="FILE", help="checks that had to pass first; only recorded"
    )
    parser.add_argument(
        "--scores",
        required=True,
        nargs="+",
        metavar="PATH",
        help="a folder of metric=<name>/part-*.parquet, or those files (then no other file is read)",
    )
    parser.add_argument("--prompts", required=True, metavar="FILE", help="prompts.parquet: category, cluster, split")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the tables go")
    parser.add_argument("--plan-lock", metavar="FILE", help="the record of freeze_plan.py")
    args = parser.parse_args()
    if bool(args.job) != bool(args.manifest):
        parser.error("--job and --manifest go together")
    return args


def main() -> None:
    """Read, analyse, write."""
    args = parse_arguments()
    job = Job(args) if args.job else None
    say = job.say if job else print
    from paired.contract import ContractError, find_scores, read_plan, read_prompts
    from paired.contrasts import analyse

    settings = job.settings if job else read_json(args.plan)
    where = "the plan in the job's settings" if job else args.plan
    try:
        plan = read_plan(settings, where=where)
        changes = plan_changes(plan, args.plan_lock) if args.plan_lock else None
        files = find_scores(args.scores, plan)
        study = analyse(plan, args.scores, read_prompts(args.prompts), plan_changes=changes, say=say)
    except ContractError as error:
        raise UserError(str(error)) from None
    outputs = write_study(study, Path(args.output))
    say(study.decision["headline"])
    say(f"decision: {study.decision['decision']}{' (exploratory)' if changes else ''}")
    if job:
        job.finish(
            inputs={
                **{f"{metric}/{path.name}": path for metric, paths in files.items() for path in paths},
                "prompts": args.prompts,
                "plan_lock": args.plan_lock,
            },
            outputs=outputs,
            decision=study.decision["decision"],
            headline=study.decision["headline"],
            plan_sha256=plan.sha256,
            hypotheses=study.tables["contrasts"].num_rows,
        )


def plan_changes(plan, record: str) -> list[str]:
    """What was changed in the plan after scores existed, from the record of freeze_plan.py."""
    from paired.contract import require_frozen

    found = read_json(record)
    if not {"sha256", "changes"} <= set(found):
        raise UserError(f"{record}: is not a record of freeze_plan.py")
    require_frozen(plan, found["sha256"], where=record)
    return found["changes"]


def write_study(study, folder: Path) -> dict[str, Path]:
    """Each table as parquet and csv, and decision.json; the bytes depend on nothing but the results."""
    import pyarrow.parquet as pq

    outputs = {}
    for name, table in study.tables.items():
        path = folder / f"{name}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        mirror = path.with_suffix(".csv")
        frame = table.to_pandas()
        for column in frame.columns[[str(field.type).startswith("list") for field in table.schema]]:
            frame[column] = [None if cell is None else ";".join(map(str, cell)) for cell in frame[column]]
        for column in frame.columns[[str(field.type) == "int64" for field in table.schema]]:
            frame[column] = frame[column].astype("Int64")
        with atomic_path(mirror) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
        outputs |= {f"{name}_parquet": path, f"{name}_csv": mirror}
    outputs["decision"] = folder / "decision.json"
    write_json(outputs["decision"], study.decision)
    return outputs


if __name__ == "__main__":
    exit_with_message(main)
