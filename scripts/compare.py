"""Compare models: paired statistics with error control, as tables, a forest plot, a paragraph of words and a decision.

    python scripts/compare.py --lm-eval base=logs/base tuned=logs/tuned --metric acc --output out
    python scripts/compare.py --inspect base=base.eval tuned=tuned.eval --metric match --output out
    python scripts/compare.py --table scores.csv --metric accuracy --output out
    python scripts/compare.py --plan plan.json --scores results/scores --prompts results/prompts.parquet --output out

Logs and a plain table are first written to OUTPUT in the form of the data contract, with an analysis plan (plan.json)
unless --plan gives one. In the workflow the plan is the job's settings (--job) and a manifest is left.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from arms.job.files import UserError, atomic_path, exit_with_message, read_json, write_json, write_text
from arms.job.manifest import Job


def parse_arguments() -> argparse.Namespace:
    """The program's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    logs = {"nargs": "+", "metavar": "NAME[:SEED]=PATH"}
    source.add_argument("--lm-eval", help="per model or seed, the folder of lm_eval --output_path", **logs)
    source.add_argument("--inspect", help="per model or seed, an .eval or .json log of inspect_ai", **logs)
    source.add_argument("--table", metavar="FILE", help="csv or parquet: arm, prompt_id, metric, value, ...")
    source.add_argument(
        "--scores",
        nargs="+",
        metavar="PATH",
        help="a folder of metric=<name>/part-*.parquet, or those files (then no other file is read)",
    )
    parser.add_argument("--metric", nargs="+", default=[], help="of logs or table: the primary metric, then others")
    parser.add_argument("--margin", type=float, help="smallest difference of the primary metric that matters")
    parser.add_argument("--own-prompts", action="store_true", help="models may get an item in words of their own")
    plan = parser.add_mutually_exclusive_group()
    plan.add_argument("--plan", metavar="FILE", help="the analysis plan, a JSON object")
    plan.add_argument("--job", type=json.loads, metavar="JSON", help="the workflow's job; its settings are the plan")
    parser.add_argument("--plan-lock", metavar="FILE", help="the record of freeze_plan.py")
    parser.add_argument("--lock", metavar="envs/stats.yaml", help="pins that the versions found are checked against")
    parser.add_argument("--manifest", metavar="PATH", help="where the manifest of this job goes (with --job)")
    parser.add_argument("--gates", nargs="*", default=[], metavar="FILE", help="checks that had to pass; only recorded")
    parser.add_argument("--prompts", metavar="FILE", help="prompts.parquet of --scores: category, cluster, split")
    parser.add_argument("--runs", metavar="FILE", help="runs.parquet: arm, train_seed, parent_sha256 (shared parents)")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results go")
    args = parser.parse_args()
    if bool(args.job) != bool(args.manifest):
        parser.error("--job and --manifest go together")
    if args.scores and not (args.prompts and (args.plan or args.job)):
        parser.error("--scores needs --prompts and --plan")
    if args.scores and (args.metric or args.margin or args.own_prompts):
        parser.error("--metric, --margin and --own-prompts belong to logs and tables; --scores has a plan")
    if args.plan and (args.metric or args.margin):
        parser.error("--metric and --margin make a plan; --plan has them already")
    return args


def main() -> None:
    """Read, analyse, write."""
    args = parse_arguments()
    job = Job(args) if args.job else None
    say = job.say if job else print
    from paired.contract import ContractError, find_scores, read_plan, read_prompts, shared_parents
    from paired.contrasts import analyse

    try:
        settings = job.settings if job else read_json(args.plan) if args.plan else None
        notes: list[str] = []
        if not args.scores:
            settings, notes = read_logs(args, settings)
        plan = read_plan(settings, where="the plan in the job's settings" if job else args.plan or "the plan")
        changes = plan_changes(plan, args.plan_lock) if args.plan_lock else None
        files = find_scores(args.scores, plan)
        study = analyse(plan, args.scores, read_prompts(args.prompts), plan_changes=changes, say=say)
        if args.runs and (shared := shared_parents(args.runs)):
            study.decision["banner"] = " ".join([*filter(None, [study.decision["banner"]]), *shared])
    except ContractError as error:
        raise UserError(str(error)) from None
    outputs = write_study(study, Path(args.output))
    if job:
        say(study.decision["headline"])
        say(f"decision: {study.decision['decision']}{' (exploratory)' if changes else ''}")
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
    else:
        write_summary(study, plan.contrasts, Path(args.output), notes, say)


def read_logs(args: argparse.Namespace, plan: dict | None) -> tuple[dict, list[str]]:
    """(plan, what a reader should know) of logs or a table, which are written to the output in the contract's form."""
    from paired import logs

    if args.table:
        runs = logs.read_table(args.table)
    else:
        runs = logs.read_runs("lm-eval" if args.lm_eval else "inspect", args.lm_eval or args.inspect)
    notes = logs.check_runs(runs, args.own_prompts)
    metrics = logs.choose_metrics(runs, list((plan or {}).get("metrics", args.metric)))
    if plan is None:
        plan = logs.make_plan(runs, metrics, args.margin)
        write_json(Path(args.output) / "plan.json", plan)
    logs.write_contract(runs, metrics, Path(args.output))
    args.scores = [Path(args.output) / "scores" / f"metric={metric}/part-0.parquet" for metric in metrics]
    args.prompts = Path(args.output) / "prompts.parquet"
    return plan, notes


def write_summary(study, contrasts: dict, folder: Path, notes: list[str], say) -> None:
    """summary.md and the forest plot beside the tables, for use without the workflow."""
    from paired.summary import write_up

    text = write_up(study, contrasts, notes)
    write_text(folder / "summary.md", text)
    say("\n" + text)
    # Loaded by name, so that the figures' code is no part of what decides the workflow's statistics (code_digest).
    forest = importlib.import_module("display.forest")
    forest.save_forest(study.tables["contrasts"].to_pandas(), study.decision, folder)
    say(f"{folder}: summary.md, forest.png, forest.svg, tables as csv and parquet")


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
