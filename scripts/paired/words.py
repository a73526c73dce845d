"""Words: the verdict of a claim as a sentence, the answer of the study as one, and the decision with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import forecast
from .decision import Decision, ScoreFacts
from .estimate import Group
from .families import FAMILIES, Claim
from .forecast import Model
from .pilot import rule_of
from .plan import Plan
from .question import Headline
from .scopes import METHOD

TESTS = {
    "mcnemar_exact": "exact McNemar test",
    "lattice": "exact sign-flip test",
    "enumeration": "exact sign-flip test",
    "monte_carlo": "Monte Carlo sign-flip test",
}
ADJUSTMENTS: dict[str | None, str] = {"holm": "Holm", "bh": "Benjamini-Hochberg"}


def amount(value: float, unit_interval: bool, *, signed: bool = True, decimals: int | None = None) -> str:
    """A difference with its unit: percentage points on a 0-1 scale, else the metric's own unit.

    decimals: after the point, for a metric with its own unit; None: three significant digits.

    >>> amount(-0.0123, True)
    '−1.2 points'
    """
    sign = "+" if signed else ""
    if unit_interval:
        text = f"{value * 100:{sign}.1f} points"
    else:
        text = f"{value:{sign}.3g}" if decimals is None else f"{value:{sign}.{decimals}f}"
    number = text.split()[0]
    return (text if number.strip("+-0.") else text.lstrip("+-")).replace("-", "−")


def p_text(p: float) -> str:
    """A p-value for a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def difference_test(claim: Claim) -> str:
    """The test of a difference that the claim rests on, as the table names it."""
    inference = claim.finding.inference
    return "mcnemar_exact" if inference.table and inference.flip.n_nonzero else inference.flip.method


@dataclass(frozen=True)
class Sentence:
    """The verdict of a claim as a sentence a reviewer would accept."""

    claim: Claim

    def __str__(self) -> str:
        claim, hypothesis, margin = self.claim, self.claim.hypothesis, self.margin()
        question, kind = claim.plan.question, claim.verdict
        name = question.describe(hypothesis.weights)
        where = hypothesis.metric.name + ("" if hypothesis.overall else f" in category {hypothesis.group}")
        estimate = claim.finding.inference.estimate
        found = self.amount(estimate)
        if claim.finding.gain == -estimate != 0:
            found += ", where lower is better"
        if kind == "not_testable":
            why = "too few prompts to be tested, described only" if "descriptive" in claim.flags else "not testable"
            about = self.about().removeprefix("a claim ")
            return f"On {where}, {name}: {found} ({self.interval()}; {self.size()}; {about}); {why}."
        facts = f"({self.interval()}; {self.test()}; {self.size()}; {self.about()})"
        if kind.startswith(("superior", "inferior")):
            outcome = question.outcome(hypothesis.weights, kind.startswith("superior"))
            text = f"On {where}, {outcome}: {found} {facts}.{self.disagreement()}"
            if kind.endswith("_negligible"):
                text += f" The difference is real but smaller than the margin of {margin} that matters."
            return text
        if kind == "equivalent":
            return f"On {where}, {name} is smaller than the margin of {margin} either way: {found} {facts}."
        return f"On {where}, {name} is inconclusive: {found} {facts}.{self.disagreement()} {self.what_would_settle()}"

    @property
    def points(self) -> bool:
        """Whether differences are shown in percentage points."""
        return self.claim.hypothesis.metric.shares

    def margin(self) -> str | None:
        """The smallest difference that matters."""
        margin = self.claim.hypothesis.metric.margin
        return None if margin is None else amount(margin, self.points, signed=False)

    def amount(self, value: float, *, signed: bool = True) -> str:
        """A difference to the decimals that the interval's width is worth (two digits of its half)."""
        decimals, ends = None, self.claim.scope.ci
        if ends is not None and ends[1] > ends[0]:
            decimals = min(max(0, 1 - math.floor(math.log10((ends[1] - ends[0]) / 2))), 9)
        return amount(value, self.points, signed=signed, decimals=decimals)

    def interval(self) -> str:
        """The interval with its level."""
        ends = self.claim.scope.ci
        if ends is None:
            return "no interval is defined"
        text = f"{100 * (1 - self.claim.plan.alpha):g}% CI {self.amount(ends[0])} to {self.amount(ends[1])}"
        return text.replace(" points to", " to")

    def test(self) -> str:
        """The test, its adjusted p, and what it was adjusted for."""
        claim, adjusted = self.claim, self.claim.adjusted
        if claim.verdict == "equivalent":
            name, p, tests = "two one-sided tests of equivalence", adjusted.tost, adjusted.n_tost
        elif claim.scope.name == METHOD:
            name, p, tests = "t test over prompts and seeds", adjusted.p, adjusted.n_tests
        else:
            name, p, tests = TESTS.get(difference_test(claim), "sign-flip test"), adjusted.p, adjusted.n_tests
        assert p is not None, "this verdict rests on a test"
        if tests == 1:
            return f"{name}, {p_text(p)}, the only test of its family"
        return f"{name}, {p_text(p)} after {ADJUSTMENTS[adjusted.method]} over {tests} tests"

    def size(self) -> str:
        """Prompts, clusters where they are fewer, and training seeds."""
        inference = self.claim.finding.inference
        n, clusters, seeds = inference.n_prompts, inference.n_clusters, inference.n_seeds
        text = f"n = {n} prompt{'s' * (n != 1)}" + (f" in {clusters} clusters" if clusters != n else "")
        return text + (f", {seeds} seeds" if seeds > 1 else ", one run of each")

    def about(self) -> str:
        """The scope."""
        if self.claim.scope.name == METHOD:
            return "a claim about the recipe, over prompts and training seeds"
        return "a claim about these checkpoints only"

    def disagreement(self) -> str:
        """Why interval and verdict seem to differ, where they do."""
        ends, kind = self.claim.scope.ci, self.claim.verdict
        if ends is None or (ends[0] <= 0 <= ends[1]) == (kind == "inconclusive"):
            return ""
        side = "includes" if ends[0] <= 0 <= ends[1] else "excludes"
        if self.claim.adjusted.n_tests > 1 and side == "excludes":
            return " The interval excludes zero since it is not adjusted for the other tests."
        return f" The interval {side} zero, but the verdict follows the test."

    def what_would_settle(self) -> str:
        """What an inconclusive claim can and cannot exclude, and the design that would settle it."""
        inference, planning = self.claim.finding.inference, self.claim.planning
        if inference.flip.p_min_attainable > self.claim.level:
            unit = "prompts" if inference.n_clusters == inference.n_prompts else "clusters"
            count = f"Only {inference.flip.n_nonzero}" if inference.flip.n_nonzero else "Not one"
            few = f"{count} of {inference.n_clusters} {unit} gave a difference"
            return f"{few}, so no result could have been significant: more prompts are needed."
        detectable = self.claim.scope.found(planning.alpha) if planning.alpha else None
        if detectable is None:
            return "What would settle it cannot be said: the differences do not vary."
        others, margin = self.claim.adjusted.n_tests - 1, self.margin()
        what = f"a true difference of {self.amount(detectable, signed=False)} is found in 80% of such studies"
        rest = f"other {others} tests give" if others > 1 else "other test gives"
        text = f"Whatever the {rest}, {what}" if others else what[0].upper() + what[1:]
        if not planning.target:
            return text + "."
        if detectable <= planning.target:
            return f"{text}; excluding a difference of the margin of {margin} takes more prompts or seeds all the same."
        if ways := self.ways():
            return f"{text}; {' or '.join(ways)} would find one of the margin, {margin}, as often."
        return f"{text}; to find one of the margin, {margin}, as often takes both more prompts and more seeds."

    def ways(self) -> list[str]:
        """The designs that would find the target as often, in the scope of the claim."""
        inference, planning = self.claim.finding.inference, self.claim.planning
        found = []
        if planning.prompts is not None:
            seeds = f" at {inference.n_seeds} seeds" if inference.n_seeds > 1 else ""
            found.append(f"{planning.prompts} prompts{seeds}")
        if self.claim.scope.name == METHOD and planning.seeds is not None:
            found.append(f"{planning.seeds} seeds at {inference.n_prompts} prompts")
        return found


def headline(claims: Mapping[str, Claim], words: Headline, scope: str) -> str:
    """The answer in one sentence, from the claims about the headline's three contrasts. scope: of the claims."""

    def shown(claim: Claim) -> str:
        found = f"{amount(claim.finding.inference.estimate, points)}, {Sentence(claim).interval()}"
        return found if claim.adjusted.p is None else f"{found}, adjusted {p_text(claim.adjusted.p)}"

    first, second, third = (claims[name] for name in (words.first, words.second, words.third))
    points = first.hypothesis.metric.shares
    subject = "For this recipe" if scope == METHOD else "For these checkpoints"
    clause = (words.alike if first.verdict == second.verdict else words.unlike).format(
        first=words.outcome[first.verdict],
        second=words.outcome[second.verdict],
        first_facts=shown(first),
        second_facts=shown(second),
    )
    end = f"{words.third_outcome[third.verdict]} ({shown(third)})"
    return f"{subject}, on {first.hypothesis.metric.name}: {clause}; {end}."


def what_go_takes(plan: Plan, model: Model, group: Group, n_seeds: int) -> Iterator[str]:
    """The designs that would end a study like this in GO, as a reason; nothing where the plan has no margin.

    model: the variances of this study (`pilot.moments`). group: all prompts of the primary metric.
    """
    rule, metric, n = rule_of(plan), plan.metrics[plan.primary_metric], len(group.rows)
    named = plan.question.rule
    if metric.margin is None or named is None:
        return
    model = forecast.with_differences(model, rule, metric.margin)
    prompts, seeds = forecast.what_go_takes(model, rule, n, n_seeds, n / group.n_clusters)
    many = f"{n_seeds} seed{'s' * (n_seeds != 1)}"
    ways = [f"about {prompts} prompts at {many}"] if prompts else []
    ways += [f"about {seeds} seeds at {n} prompts"] if seeds else []
    if not ways:
        ways = ["both more prompts and more seeds than this study has"]
    none = f" (no number of prompts does at {many})" if not prompts else ""
    yield (
        f"if {named.gain} is truly {amount(metric.margin, metric.shares)} and {named.cost} zero, GO in 80% of such "
        f"studies takes {' or '.join(ways)}{none}, by the rule that decides and the variances of this study"
    )


def in_words(
    plan: Plan,
    claims: Sequence[Claim],
    decision: Decision,
    facts: Mapping[str, ScoreFacts],
    plan_changes: Sequence[str] | None,
    caveats: Sequence[str] = (),
) -> dict:
    """decision.json: the decision with its reasons, the answer, and what limits it. caveats: added to the banner."""
    words = plan.question.headline
    if words is not None and words.contrasts <= set(decision.primary):
        answer = headline(decision.primary, words, decision.scope)
    else:
        answer = " ".join(str(Sentence(claim)) for claim in decision.primary.values())
    rule = plan.question.rule
    gain = decision.primary.get(rule.gain) if rule and decision.result == "GO" else None
    if gain and not gain.verdict.startswith("superior"):
        answer += " By the rule of the plan, which tests at once what it needs and so adjusts nothing, it is GO."
    if plan_changes:
        answer = f"Exploratory: {answer}"
    return {
        "decision": decision.result,
        "reasons": [*decision.reasons, *(str(Sentence(claim)) for claim in decision.open)],
        "headline": answer,
        "primary": [_primary(claim, decision.scope) for claim in decision.primary.values()],
        "primary_metric": plan.primary_metric,
        "confidence": 1 - plan.alpha,
        "primary_scope": {"planned": plan.primary_scope, "used": decision.scope},
        "banner": " ".join([*filter(None, [decision.banner]), *caveats]) or None,
        "exploratory": list(plan_changes or ()),
        "gates": decision.gates,
        "gate_notes": decision.notes,
        "seeds": {metric: list(own.seeds) for metric, own in sorted(facts.items())},
        "dropped_seeds": {
            metric: {arm: list(seeds) for arm, seeds in sorted(own.dropped_seeds.items())}
            for metric, own in sorted(facts.items())
            if own.dropped_seeds
        },
        "families": {family: sum(claim.family == family for claim in claims) for family in FAMILIES},
        "plan_sha256": plan.sha256,
    }


def _primary(claim: Claim, scope: str) -> dict:
    ends = claim.finding.inference.scope(scope).ci
    return {
        "contrast": claim.hypothesis.contrast,
        "verdict": claim.verdict,
        "estimate": claim.finding.inference.estimate,
        "p_adj": claim.adjusted.p,
        "words": str(Sentence(claim)),
        "ci": list(ends or (None, None)),
    }
