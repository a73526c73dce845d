"""Compare models: paired statistics with error control, as tables, a paragraph of words and a decision.

    %(prog)s --lm-eval base=logs/base tuned=logs/tuned --metric acc --output out
    %(prog)s --inspect base=base.eval tuned=tuned.eval --metric match --output out
    %(prog)s --table scores.csv --metric accuracy --output out
    %(prog)s --pairwise judgements.csv --output out
    %(prog)s --plan plan.json --scores results/scores --prompts results/prompts.parquet --output out

Logs and a plain table are first written to OUTPUT in the form of the data contract, with an analysis plan (plan.json)
unless --plan gives one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .additions import analyse_all
from .analysis import Analysis
from .files import read_json, write_json, write_text
from .freeze import changes_on_record, late_additions
from .inputs import contract, preferences, read_runs
from .inputs.runs import Grouping, Run, check_runs
from .inputs.table import read_table
from .plan import SCOPES, read_plan
from .prompts import read_prompts, shared_parents
from .question import Question, read_question
from .summary import write_up
from .tables import write_tables

PLANNING, READING = ("margin", "scope", "continuous"), ("own_prompts", "category", "cluster")
MISPLACED = (  # flag, the flags that it excludes, why
    ("scores", ("metric", *PLANNING, *READING), "belongs to logs and tables; --scores has a plan"),
    ("plan", PLANNING, "makes a plan; --plan has one already"),
    ("table", READING, "is about logs; a table has columns"),
    ("pairwise", ("continuous", *READING), "is about scores; pairwise outcomes have columns of their own"),
)
Draw = Callable[[Analysis, Path], Sequence[str]]


def main(
    arguments: Sequence[str] | None = None,
    *,
    prog: str = "paired compare",
    freeze: str = "paired freeze",
    question: Question | None = None,
    draw: Draw | None = None,
) -> None:
    """The command; ContractError for input that cannot be compared.

    prog, freeze: how messages call this command and the other. question: what the study asks, instead of --question.
    draw: makes figures of an analysis in a folder and returns their names.
    """
    args = parse_arguments(arguments, prog, question)
    if question is None:
        question = read_question(read_json(args.question), where=args.question) if args.question else Question()
    given = read_json(args.plan) if args.plan else None
    notes: list[str] = []
    if not args.scores:
        given, notes = read_logs(args, given, question)
    plan = read_plan(given, where=args.plan or "the plan", question=question)
    changes = changes_on_record(plan.sha256, args.plan_lock, program=freeze) if args.plan_lock else None
    caveats = shared_parents(args.runs) if args.runs else []
    analysis = analyse_all(
        plan,
        args.scores,
        read_prompts(args.prompts),
        plan_changes=changes,
        late=late_additions(args.plan_lock) if args.plan_lock else [],
        caveats=caveats,
        common_seeds=args.common_seeds,
        say=print,
    )
    folder = Path(args.output)
    write_tables(analysis.tables, analysis.decision, folder)
    text = write_up(analysis, notes)
    write_text(folder / "summary.md", text)
    print("\n" + text)
    figures = draw(analysis, folder) if draw else []
    print(f"{folder}: {', '.join(['summary.md', *figures, 'tables as csv and parquet'])}")


def parse_arguments(arguments: Sequence[str] | None, prog: str, question: Question | None) -> argparse.Namespace:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    logs_help = {
        "--lm-eval": "per model or seed, the folder of lm_eval --output_path",
        "--inspect": "per model or seed, an .eval or .json log of inspect_ai",
    }
    for flag, text in logs_help.items():
        source.add_argument(flag, nargs="+", metavar="NAME[:SEED]=PATH", help=text)
    source.add_argument("--pairwise", metavar="FILE", help="csv or parquet: arm_a, arm_b, prompt_id, winner, ...")
    source.add_argument("--table", metavar="FILE", help="csv or parquet: arm, prompt_id, metric, value, ...")
    source.add_argument(
        "--scores",
        nargs="+",
        metavar="PATH",
        help="a folder of metric=<name>/part-*.parquet, or those files (then no other file is read)",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        default=[],
        help="of logs or table: the primary one, then others; with --plan: unplanned. --metric=-x if it is called -x",
    )
    parser.add_argument("--margin", type=float, help="smallest difference of the primary metric that matters")
    parser.add_argument("--scope", choices=SCOPES, help="of the primary claims; default: method where there are seeds")
    parser.add_argument(
        "--continuous",
        nargs="+",
        action="extend",
        default=[],
        metavar="METRIC",
        help="no yes/no, though mostly 0 and 1",
    )
    parser.add_argument("--category", default="task", metavar="FIELD", help="of an item's document; also task, group")
    parser.add_argument("--cluster", metavar="FIELD", help="what items share (a passage): such a field, task or group")
    parser.add_argument("--own-prompts", action="store_true", help="models may get an item in words of their own")
    parser.add_argument("--plan", metavar="FILE", help="the analysis plan, a JSON object")
    parser.add_argument("--plan-lock", metavar="FILE", help="the record of the plan, made before the scores")
    parser.add_argument("--prompts", metavar="FILE", help="prompts.parquet of --scores: category, cluster, split")
    parser.add_argument(
        "--common-seeds", action="store_true", help="use the training seeds that all models have; the summary says so"
    )
    parser.add_argument("--runs", metavar="FILE", help="runs.parquet: arm, train_seed, parent_sha256 (shared parents)")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results go")
    if question is None:
        parser.add_argument("--question", metavar="FILE", help="arms, contrasts, rule and words, a JSON object")
    args = parser.parse_args(arguments)
    if args.scores and not (args.prompts and args.plan):
        parser.error("--scores needs --prompts and --plan")
    for source_flag, names, why in MISPLACED:
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != parser.get_default(name)]
        if getattr(args, source_flag) and given:
            parser.error(f"{', '.join(given)}: {why}")
    return args


def read_logs(args: argparse.Namespace, given: dict | None, question: Question) -> tuple[dict, list[str]]:
    """(plan, what a reader should know) of logs or a table, which are written to the output in the contract's form."""
    planned = None if given is None else read_plan(given, where=args.plan, question=question)
    chosen, folder = [*(planned.metrics if planned else ()), *args.metric], Path(args.output)
    judgements = preferences.read_preferences(args.pairwise) if args.pairwise else None
    runs = [] if args.pairwise else _read_runs(args)
    if judgements is not None:
        metrics, notes = preferences.choose(judgements, chosen), []
        arms: Iterable[str] = judgements.arms
        plan = given or preferences.plan_for(judgements, metrics, args.margin, args.scope)
    else:
        notes = check_runs(runs, args.own_prompts, args.common_seeds, planned.train_seeds if planned else None)
        metrics = contract.choose_metrics(runs, chosen)
        arms = [run.arm for run in runs]
        plan = given or contract.make_plan(runs, metrics, args.margin, args.scope, args.continuous)
    checked = planned or read_plan(plan, where="the plan", question=question)
    contract.check_arms(arms, checked, args.plan or "the plan")
    if judgements is not None:
        preferences.write(judgements, metrics, folder)
    else:
        contract.check_values(runs, checked.metrics)
        contract.write_contract(runs, metrics, folder)
    if given is None:
        write_json(folder / "plan.json", plan)
    args.scores = [folder / "scores" / f"metric={metric}/part-0.parquet" for metric in metrics]
    args.prompts = folder / "prompts.parquet"
    return plan, notes


def _read_runs(args: argparse.Namespace) -> list[Run]:
    if args.table:
        return read_table(args.table)
    grouping = Grouping(args.category, args.cluster)
    return read_runs("lm-eval" if args.lm_eval else "inspect", args.lm_eval or args.inspect, grouping)
