"""The decision: gates that every study must pass, then GO, HOLD or NO-GO (docs/statistics.md, 1.11).

GO is an intersection-union test (Berger 1982): it needs every one of its components, so each is tested at the plan's
alpha and none is adjusted for the others. What is adjusted are the claims about contrasts (`families`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .estimate import OVERALL, hypothesis_id
from .families import Claim, scope_of, verdict
from .intervals import MarginTests
from .plan import Plan
from .question import Question, Rule
from .rule import SEEDS_FOR_CLAIMS, seeds_that_agree

MOST_MISSING = 0.02
MOST_MISSING_GAP = 0.01
NO_RULE = "no rule was given, so there is no GO or NO-GO to decide"


@dataclass(frozen=True)
class ScoreFacts:
    """What the decision must know about the scores of one metric.

    seeds: that all arms have. dropped_seeds: arm -> those left out. identical: pairs of arms with the same outputs.
    missing: arm -> share of its outputs that are missing.
    """

    metric: str
    seeds: tuple[int, ...]
    dropped_seeds: dict[str, tuple[int, ...]]
    identical: list[tuple[str, str]]
    missing: dict[str, float]


@dataclass(frozen=True)
class Guardrail:
    """A metric that must not get worse: p of being no worse by the margin, and of being worse by more."""

    name: str
    p_noninferior: float | None
    p_harm: float | None


@dataclass(frozen=True)
class Decision:
    """result: None where the plan holds no contrast to decide by. scope: that the primary claims are about.

    reasons: why, in words. open: of HOLD, the deciding claims that are inconclusive. primary: claims of the primary
    family by contrast. gates: name -> passed; notes: what failed. banner: what limits every claim.
    """

    result: str | None
    reasons: list[str]
    open: list[Claim]
    primary: dict[str, Claim]
    scope: str
    gates: dict[str, bool]
    notes: list[str]
    banner: str | None


def decide(
    plan: Plan, claims: Sequence[Claim], facts: Mapping[str, ScoreFacts], plan_changes: Sequence[str] | None
) -> Decision:
    """The decision of a study. facts: by metric. plan_changes: as in `analysis.analyse`."""
    by_id = {claim.hypothesis.id: claim for claim in claims}

    def overall(metric: str, contrast: str) -> Claim | None:
        return by_id.get(hypothesis_id(metric, contrast, "overall", OVERALL))

    found = {name: overall(plan.primary_metric, name) for name in plan.primary_contrasts}
    primary = {name: claim for name, claim in found.items() if claim is not None}
    used = next((claim.scope.name for claim in primary.values()), plan.primary_scope)
    n_seeds = max(1, len(facts[plan.primary_metric].seeds))
    gates, notes = check_gates(facts, plan_changes)
    result, reasons, unsettled = None, [NO_RULE], []
    scope = scope_of("primary", n_seeds, plan)
    rule = plan.question.rule
    if rule is not None:
        reasons = [f"the plan does not hold {rule.gain} and {rule.cost}, so there is no GO or NO-GO to decide"]
        gain, cost = overall(plan.primary_metric, rule.gain), overall(plan.primary_metric, rule.cost)
        if gain is not None and cost is not None:
            gain_verdict, _ = on_its_own(gain, scope)
            p_cost = on_its_own(cost, scope)[1].noninferior
            guarded = [name for name, metric in plan.metrics.items() if metric.role == "guardrail"]
            guards = [
                Guardrail(name, (tests := on_its_own(claim, scope)[1]).noninferior, tests.harm)
                for name in guarded
                if (claim := overall(name, rule.gain)) is not None
            ]
            agree = gain.finding.inference.same_sign
            result, reasons = apply_rule(plan.question, gates, gain_verdict, p_cost, guards, n_seeds, agree, plan.alpha)
            if result != "INVALID" and gain_verdict != gain.verdict:
                reasons = [*reasons, _unlike_claim(gain, gain_verdict)]
            if result == "HOLD":
                missing = (gain_verdict != "superior", p_cost is None or p_cost > plan.alpha)
                pairs = zip((gain, cost), missing, strict=True)
                unsettled = [claim for claim, lacks in pairs if lacks and claim.verdict == "inconclusive"]
    return Decision(result, reasons, unsettled, primary, used, gates, notes, make_banner(plan, used, n_seeds, facts))


def on_its_own(claim: Claim, scope: str) -> tuple[str, MarginTests]:
    """(verdict, tests against the margin) of a claim's data in one scope at the plan's alpha, adjusted for nothing."""
    metric, found = claim.hypothesis.metric, claim.finding.inference.scope(scope)
    tests = MarginTests() if metric.margin is None else found.margin_tests(metric.margin, metric.higher_is_better)
    return verdict(claim.finding.gain, found.p, tests.tost, claim.plan.alpha), tests


def _unlike_claim(gain: Claim, alone: str) -> str:
    """Why the decision rests on another verdict than the claim about its contrast."""
    return (
        f"the decision needs all of its tests at once, so none is adjusted for the others, and "
        f"{gain.hypothesis.contrast} is {alone.replace('_', ' ')}; as one of {gain.adjusted.n_tests} claims of its own "
        f"it is adjusted, and {gain.verdict.replace('_', ' ')}"
    )


def apply_rule(
    question: Question,
    gates: dict[str, bool],
    gain_verdict: str,
    cost_p_noninferior: float | None,
    guardrails: Sequence[Guardrail],
    n_seeds: int,
    seeds_same_sign: int,
    alpha: float = 0.05,
) -> tuple[str, list[str]]:
    """(decision, reasons): INVALID, NO-GO, GO or HOLD by the question's rule, which must not be None.

    gates: name -> passed. gain_verdict: of the contrast that must be superior, on its own. cost_p_noninferior: of the
    one that must not be worse by the margin; None without a margin. seeds_same_sign: of the first contrast.
    """
    rule = question.rule
    assert rule is not None, "a question without a rule decides nothing"
    failed = [name for name in gates if not gates[name]]
    if failed:
        return "INVALID", [f"gate {name} failed" for name in failed]
    if gain_verdict.removesuffix("_negligible") == "inferior":
        return "NO-GO", [f"{rule.treatment} makes the primary metric worse ({rule.gain})"]
    if gain_verdict == "equivalent":
        return "NO-GO", [f"{rule.treatment} makes no difference that matters ({rule.gain} is equivalent)"]
    harmed = [guard for guard in guardrails if guard.p_harm is not None and guard.p_harm <= alpha]
    if harmed:
        return "NO-GO", [f"guardrail {guard.name} got worse by more than its margin" for guard in harmed]
    reasons = []
    if gain_verdict != "superior":
        reasons.append(f"{rule.gain} ({rule.treatment}) is {gain_verdict.replace('_', ' ')}")
    if cost_p_noninferior is None or cost_p_noninferior > alpha:
        reasons.append(_cost_is_open(question, rule, cost_p_noninferior))
    for guard in guardrails:
        if guard.p_noninferior is None or guard.p_noninferior > alpha:
            reasons.append(f"guardrail {guard.name} is not shown to be safe")
    needed = seeds_that_agree(n_seeds)
    if seeds_same_sign < needed:
        reasons.append(f"only {seeds_same_sign} of {n_seeds} seeds agree in sign on {rule.gain} ({needed} needed)")
    if reasons:
        return "HOLD", reasons
    ours, other = _sides_of_cost(question, rule)
    safe = f"no guardrail is hurt ({', '.join(guard.name for guard in guardrails)}), " if guardrails else ""
    return "GO", [
        f"{question.outcome(question.contrasts[rule.gain], True)} ({rule.gain}), {ours} is not worse than {other} by "
        f"the margin ({rule.cost}), {safe}and {seeds_same_sign} of {n_seeds} seeds agree in sign on {rule.gain}"
    ]


def _cost_is_open(question: Question, rule: Rule, p: float | None) -> str:
    shown = "has no margin to be tested against" if p is None else f"p = {p:.3g}"
    ours, other = _sides_of_cost(question, rule)
    return f"{rule.cost}: {ours} is not shown to be at least as good as {other} ({shown})"


def _sides_of_cost(question: Question, rule: Rule) -> list[str]:
    """The two arms of the contrast that must not be worse."""
    weights = question.contrasts[rule.cost]
    return [next(question.term(arm, weights) for arm, k in weights.items() if k * sign > 0) for sign in (1, -1)]


def check_gates(
    facts: Mapping[str, ScoreFacts], plan_changes: Sequence[str] | None
) -> tuple[dict[str, bool], list[str]]:
    """(gate -> passed, what failed): outputs are there, arms differ, and the plan is the registered one."""
    notes = []
    for metric, own in sorted(facts.items()):
        worst, gap = max(own.missing.values()), max(own.missing.values()) - min(own.missing.values())
        if worst > MOST_MISSING or gap > MOST_MISSING_GAP + 1e-12:
            shown = ", ".join(f"{arm} {rate:.1%}" for arm, rate in own.missing.items())
            notes.append(f"coverage: missing outputs of {metric}: {shown}")
    covered = not notes
    identical = [f"{own.metric}: {one} and {other}" for own in facts.values() for one, other in own.identical]
    notes += [f"distinct_outputs: the same generations in {pair}" for pair in identical]
    notes += [f"plan_hash: after scores existed, {change}" for change in plan_changes or ()]
    # Leakage is a contract error: scores of a prompt that is not held out never get this far.
    gates = {"coverage": covered, "distinct_outputs": not identical, "no_leakage": True}
    return gates if plan_changes is None else gates | {"plan_hash": not plan_changes}, notes


def make_banner(plan: Plan, used: str, n_seeds: int, facts: Mapping[str, ScoreFacts]) -> str | None:
    """What limits every claim of the study, in sentences. used: the scope of the primary claims."""
    parts = []
    if used != plan.primary_scope:
        parts.append(
            f"The plan asks for claims about the recipe, which need {SEEDS_FOR_CLAIMS} training seeds; there "
            f"{'is' if n_seeds == 1 else 'are'} {n_seeds}. All claims are about these checkpoints only."
        )
    elif n_seeds == 1:
        parts.append("One run of each: all claims are about these checkpoints only.")
    planned = set(plan.train_seeds or ())
    if absent := planned.difference(*(own.seeds for own in facts.values())):
        parts.append(f"Planned training seeds without scores: {', '.join(map(str, sorted(absent)))}.")
    return " ".join(parts) or None
