"""Plan before you train: the chance of GO, HOLD and NO-GO of every design, under the very rule that will decide.

    %(prog)s --metric accuracy --margin 0.03 --design 3x200
    %(prog)s --plan out/plan.json --scores out/scores --prompts-file out/prompts.parquet --difference 0.05

The first rests on guesses (--seed-sd and the others; a yes/no score unless --sd is given), the second on how a pilot's
scores vary. Neither asks how large the pilot's differences were: --difference is the one that the study should find
(default: the margin, the smallest that matters). SEEDSxPROMPTS of --design is what you have in mind.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .files import ContractError, read_json, write_text
from .forecast import ENOUGH, UNLIMITED, Chances, Model, Rule, chances, with_differences
from .pilot import guessed_model, pilot_model, rule_of
from .plan import Plan, read_plan
from .question import Question, read_question
from .rule import SEEDS_FOR_CLAIMS
from .tables import record_table, write_table
from .words import amount

SEEDS, PROMPTS = (3, 5, 8, 10), (50, 100, 200, 300, 500, 1000)
Hours = Callable[[int, int], float]
Draw = Callable[[Sequence["Prospect"], "Assumptions", Path], Sequence[str]]


@dataclass(frozen=True)
class Prospect:
    """The chances of one design: a row of the table power.

    scope: that its claims are about. p_decided: of GO or NO-GO. p_gain, p_cost, p_signs: that each component of GO
    holds, alone. gpu_hours: None where no run tells.
    """

    n_seeds: int
    n_prompts: int
    n_clusters: int
    scope: str
    p_go: float
    p_hold: float
    p_no_go: float
    p_decided: float
    p_gain: float
    p_cost: float
    p_signs: float
    gpu_hours: float | None


@dataclass(frozen=True)
class Assumptions:
    """What the chances rest on. model: its means hold the true differences. design: (seeds, prompts) in mind."""

    model: Model
    rule: Rule
    words: str
    design: tuple[int, int] | None
    cluster_size: float


def main(
    arguments: Sequence[str] | None = None,
    *,
    prog: str = "paired power",
    question: Question | None = None,
    draw: Draw | None = None,
    hours: Hours | None = None,
) -> None:
    """The command; ContractError for input that makes no sense. hours: (seeds, prompts) -> GPU hours of such a study.

    question, draw: as in `compare.main`; draw gets the rows.
    """
    args = parse_arguments(arguments, prog, question)
    if question is None:
        question = read_question(read_json(args.question), where=args.question) if args.question else Question()
    of = assume(args, make_plan(args, question))
    rows = prospects(of, args.seeds, args.prompts, hours)
    text = f"{sentence(rows, of)} {of.words}"
    print(f"{table_text(rows, of)}\n\n{text}")
    if args.output:
        folder = Path(args.output)
        table = record_table(Prospect, rows, "n_seeds", "n_prompts")
        for suffix in ("parquet", "csv"):
            write_table(table, folder / f"power.{suffix}")
        write_text(folder / "power.md", f"{text}\n\n{table_text(rows, of)}\n")
        figures = draw(rows, of, folder) if draw else []
        print(f"\n{folder}: {', '.join(['power.md', *figures, 'power.parquet', 'power.csv'])}")


def parse_arguments(arguments: Sequence[str] | None, prog: str, question: Question | None) -> argparse.Namespace:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", metavar="FILE", help="the analysis plan: a JSON file, or the JSON itself")
    parser.add_argument("--metric", default="metric", help="without a plan: name of the primary metric")
    parser.add_argument("--margin", type=_positive, help="without a plan: smallest difference that matters")
    parser.add_argument("--alpha", type=float, default=0.05, help="without a plan (default: 0.05)")
    parser.add_argument("--scope", choices=("method", "checkpoint"), default="method", help="without a plan")
    parser.add_argument("--pool-seed-variance", action="store_true", help="without a plan: trained arms share one")
    parser.add_argument(
        "--pairwise", action="store_true", help="without a plan: net win rates of answers judged in pairs"
    )
    parser.add_argument("--difference", type=_positive, help="true gain to be found (default: the margin)")
    parser.add_argument("--cost-difference", type=float, default=0.0, help="true difference of what must not be worse")
    parser.add_argument("--scores", nargs="+", metavar="PATH", help="a pilot's scores, of this plan; see compare")
    parser.add_argument("--prompts-file", metavar="FILE", help="prompts.parquet of these scores")
    parser.add_argument("--seed-sd", type=float, help="SD over seeds of an arm's mean (default: the pilot's, or 0.03)")
    parser.add_argument("--sd", type=_positive, help="guess: SD of single scores (default: yes/no scores at --rate)")
    parser.add_argument("--rate", type=float, default=0.5, help="guess: rate of yes (default: 0.5)")
    parser.add_argument("--same-prompt", type=float, default=0.3, help="guess: correlation of two arms on a prompt")
    parser.add_argument("--same-arm", type=float, default=0.4, help="guess: the same of two seeds of one arm")
    parser.add_argument("--cluster-size", type=float, default=1.0, help="prompts that share a source, on average")
    parser.add_argument("--cluster-correlation", type=float, help="of their difficulty (default: the pilot's, or 0.5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="the grid (default: 3 5 8 10)")
    parser.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS), help="the grid (default: 50 ... 1000)")
    parser.add_argument("--design", type=_design, metavar="SEEDSxPROMPTS", help="the design in mind, such as 3x200")
    parser.add_argument("--output", metavar="DIR", help="where table, figure and sentence go (default: only printed)")
    if question is None:
        parser.add_argument("--question", metavar="FILE", help="arms, contrasts, rule and words, a JSON object")
    args = parser.parse_args(arguments)
    if bool(args.scores) != bool(args.prompts_file) or (args.scores and not args.plan):
        parser.error("--scores, --prompts-file and --plan belong together")
    if args.plan and (args.margin or args.pairwise):
        parser.error("--margin and --pairwise make a plan; --plan has it already")
    if not 0 <= args.same_prompt <= args.same_arm <= 1 or not 0 < args.rate < 1:
        parser.error("correlations are between 0 and 1, --same-prompt at most --same-arm, and --rate within 0 and 1")
    if min(args.seeds) < 1 or min(args.prompts) < 2 * args.cluster_size or args.cluster_size < 1:
        parser.error("--seeds must be 1 or more, --prompts at least two clusters, --cluster-size 1 or more")
    return args


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _design(text: str) -> tuple[int, int]:
    seeds, _, prompts = text.partition("x")
    if not (seeds.isdecimal() and prompts.isdecimal() and int(seeds) > 0 and int(prompts) > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not SEEDSxPROMPTS, such as 3x200")
    return int(seeds), int(prompts)


def make_plan(args: argparse.Namespace, question: Question) -> Plan:
    """The plan of --plan, or of the flags that stand for one; two models where no question names arms."""
    if args.plan:
        given = json.loads(args.plan) if args.plan.lstrip().startswith("{") else read_json(args.plan)
        return read_plan(given, where="--plan", question=question)
    kind = "pairwise" if args.pairwise else "continuous" if args.sd else "binary"
    metrics = {args.metric: {"kind": kind, "higher_is_better": True, "margin": args.margin, "role": "primary"}}
    contrasts = {} if question.contrasts else {"contrasts": {"tuned - base": {"tuned": 1, "base": -1}}}
    return read_plan(
        {
            **contrasts, "metrics": metrics, "primary_metric": args.metric, "alpha": args.alpha,
            "primary_scope": args.scope, "pool_seed_variance": args.pool_seed_variance,
        },
        where="the flags", question=question,
    )  # fmt: skip


def assume(args: argparse.Namespace, plan: Plan) -> Assumptions:
    """Model and rule, from guesses or a pilot; the true differences are those of the flags."""
    metric, named = plan.metrics[plan.primary_metric], plan.question.rule
    gain = named.gain if named else plan.primary_contrasts[0]
    if named and not {named.gain, named.cost} <= set(plan.contrasts):
        raise ContractError(f"--plan: the rule decides by {named.gain} and {named.cost}, which the plan does not hold")
    difference = args.difference or metric.margin
    if difference is None:
        raise ContractError(
            f"no difference to find: the plan has no margin of {metric.name}. Give it one (without, nothing ends in "
            "GO), or a --difference"
        )
    rule = rule_of(plan)
    points = metric.shares
    if args.scores:
        model, source = pilot_model(plan, args.scores, args.prompts_file, args.seed_sd), "variances of the pilot"
    else:
        variance, source = args.sd**2 if args.sd else args.rate * (1 - args.rate), "variances guessed"
        seed_sd = 0.03 if args.seed_sd is None else args.seed_sd
        correlation = 0.5 if args.cluster_correlation is None else args.cluster_correlation
        model = guessed_model(
            plan, variance=variance, seed_sd=seed_sd,
            same_prompt=args.same_prompt, same_arm=args.same_arm, correlation=correlation,
        )  # fmt: skip
    if args.cluster_correlation is not None:
        model = replace(model, correlation=args.cluster_correlation)
    model = with_differences(model, rule, difference, args.cost_difference)
    judged = metric.kind == "pairwise"
    sd = amount(float(np.sqrt(model.seed.diagonal().max())) / (2 if judged else 1), points, signed=False)
    told = f"{gain} truly {amount(difference, points)}"
    if named:
        told += f", {named.cost} {amount(args.cost_difference, points)}"
    margin = "none" if metric.margin is None else amount(metric.margin, points, signed=False)
    of_what = "an arm's share of wins" if judged else "an arm"
    words = f"Assumed: {told}; margin {margin}; seed SD of {of_what} {sd}; {source}; guardrails, if any, hold."
    return Assumptions(model, rule, words, args.design, args.cluster_size)


def of_design(of: Assumptions, n_seeds: int, n_prompts: int) -> Chances:
    """The chances of a number of seeds and prompts."""
    clusters = max(2, round(n_prompts / of.cluster_size))
    return chances(of.model, of.rule, n_prompts, n_seeds, n_clusters=clusters)


def prospects(of: Assumptions, seeds: Sequence[int], prompts: Sequence[int], hours: Hours | None) -> list[Prospect]:
    """Every design of the grid, and the one in mind."""
    designs = {(s, n) for s in seeds for n in prompts} | ({of.design} if of.design else set())
    rows = []
    for n_seeds, n_prompts in sorted(designs):
        found = of_design(of, n_seeds, n_prompts)
        rows.append(
            Prospect(
                n_seeds, n_prompts, max(2, round(n_prompts / of.cluster_size)),
                "method" if of.rule.method and n_seeds >= SEEDS_FOR_CLAIMS else "checkpoint",
                found.go, found.hold, found.no_go, found.decided, found.gain_superior, found.cost_noninferior,
                found.seeds_agree, None if hours is None else hours(n_seeds, n_prompts),
            )
        )  # fmt: skip
    return rows


def sentence(rows: Sequence[Prospect], of: Assumptions) -> str:
    """What decides, what never does, and what the design in mind does."""
    parts = []
    if of.design:
        own = next(row for row in rows if (row.n_seeds, row.n_prompts) == of.design)
        parts.append(
            f"{_seeds(own.n_seeds)} x {own.n_prompts} prompts end in GO in {own.p_go:.0%}, HOLD in {own.p_hold:.0%}, "
            f"NO-GO in {own.p_no_go:.0%} of such studies (claims about the "
            f"{'recipe' if own.scope == 'method' else 'checkpoints'})."
        )
    enough = [row for row in rows if row.p_decided >= ENOUGH]
    if enough:
        best = min(enough, key=lambda row: (row.gpu_hours or 0, row.n_seeds, row.n_prompts))  # training costs most
        first = f"{_seeds(best.n_seeds)} x {best.n_prompts} prompts decide in {best.p_decided:.0%} of such studies"
    else:
        best = max(rows, key=lambda row: row.p_decided)
        first = (
            f"no design here decides in {ENOUGH:.0%} of such studies: the best, {_seeds(best.n_seeds)} x "
            f"{best.n_prompts} prompts, does in {best.p_decided:.0%}"
        )
    never = [s for s in sorted({row.n_seeds for row in rows}) if of_design(of, s, UNLIMITED).decided < ENOUGH]
    if never:
        first += f"; {', '.join(map(str, never[:-1]))}{' and ' if never[1:] else ''}{_seeds(never[-1])} never do"
    return " ".join([*parts, first[0].upper() + first[1:] + "."])


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


def table_text(rows: Sequence[Prospect], of: Assumptions) -> str:
    """The chance that each design decides (GO + NO-GO), as a table: seeds down, prompts across."""
    prompts = sorted({row.n_prompts for row in rows})
    cells = {(row.n_seeds, row.n_prompts): f"{row.p_decided:.0%}" for row in rows}
    lines = [
        "| decides (GO or NO-GO) | " + " | ".join(f"{n} prompts" for n in prompts) + " |",
        "|---|" + "---|" * len(prompts),
    ]
    for n_seeds in sorted({row.n_seeds for row in rows}):
        marks = [cells.get((n_seeds, n), "") + (" (yours)" if (n_seeds, n) == of.design else "") for n in prompts]
        lines.append(f"| {_seeds(n_seeds)} | " + " | ".join(marks) + " |")
    hours = [row for row in rows if row.gpu_hours is not None]
    if hours:
        lines += ["", "GPU hours: " + "; ".join(f"{r.n_seeds} x {r.n_prompts} {r.gpu_hours:.3g}" for r in hours) + "."]
    return "\n".join(lines)
