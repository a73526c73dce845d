"""Families of hypotheses: what each claim is about, p-values adjusted within the family, and a verdict in one word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import adjust
from .estimate import Hypothesis
from .intervals import Interval, MarginTests
from .plan import Plan
from .rule import SEEDS_FOR_CLAIMS
from .scopes import CHECKPOINT, Finding, Scope

FAMILIES = ("primary", "secondary", "exploratory")


@dataclass(frozen=True)
class Planning:
    """What it takes to find `target`, a difference: the margin, never the one seen. None: nothing does, or no margin.

    prompts: at the present seeds. seeds: at the present prompts. alpha: at which Holm and Benjamini-Hochberg reject
    whatever the other tests of the family give, its level over their number.
    """

    target: float | None = None
    prompts: int | None = None
    seeds: int | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Adjusted:
    """p-values of one hypothesis, adjusted within its family; None where there is none to adjust.

    p: the one that the verdict rests on, by `method`. method_scope_bh: p in the method scope, whatever the claim.
    tost: of equivalence. fcr: interval of a selected hypothesis. n_tests, n_tost: how many p were adjusted for.
    """

    p: float | None = None
    method: str | None = None
    holm: float | None = None
    bh: float | None = None
    by: float | None = None
    method_scope_bh: float | None = None
    tost: float | None = None
    fcr: Interval | None = None
    n_tests: int = 0
    n_tost: int = 0


@dataclass(frozen=True)
class Claim:
    """A finding in its family: what may be said about it.

    family: None where it is only described. scope: the one that it is about. margins: tests against the metric's
    margin. flags: what a reader must know.
    """

    plan: Plan
    finding: Finding
    family: str | None
    scope: Scope
    margins: MarginTests
    planning: Planning
    flags: tuple[str, ...]
    adjusted: Adjusted = Adjusted()

    @property
    def hypothesis(self) -> Hypothesis:
        """What is asked."""
        return self.finding.estimate.hypothesis

    @property
    def level(self) -> float:
        """The level that adjusted p is held against."""
        return self.plan.alpha if self.family == "primary" else self.plan.q

    @property
    def verdict(self) -> str:
        """The verdict in one word."""
        return verdict(self.finding.gain, self.adjusted.p, self.adjusted.tost, self.level)


def verdict(gain: float, p_adj: float | None, p_tost_adj: float | None, alpha: float) -> str:
    """One hypothesis' verdict (docs/statistics.md, 1.11): difference first, then equivalence, else inconclusive.

    gain: estimate with positive meaning better. p_adj, p_tost_adj: adjusted within their families, None: no test.

    >>> verdict(0.004, 0.7, 0.02, 0.05)
    'equivalent'
    """
    if p_adj is None or math.isnan(p_adj):
        return "not_testable"
    negligible = p_tost_adj is not None and p_tost_adj <= alpha
    if p_adj <= alpha:
        return ("superior" if gain > 0 else "inferior") + ("_negligible" if negligible else "")
    return "equivalent" if negligible else "inconclusive"


def make_claims(findings: Sequence[Finding], plan: Plan, *, exploratory: bool = False) -> list[Claim]:
    """All claims, sorted by hypothesis. exploratory: the plan was changed after scores existed, which marks each."""
    ordered = sorted(findings, key=lambda finding: finding.estimate.hypothesis.id)
    claims = [_claim(finding, plan) for finding in ordered]
    families = [(family, [claim for claim in claims if claim.family == family]) for family in FAMILIES]
    adjusted = {one.hypothesis.id: one for family, own in families for one in _adjust(own, family, plan)}
    claims = [adjusted.get(claim.hypothesis.id, claim) for claim in claims]
    if exploratory:
        claims = [replace(claim, flags=tuple(dict.fromkeys((*claim.flags, "exploratory")))) for claim in claims]
    return claims


def family_of(hypothesis: Hypothesis, plan: Plan) -> str | None:
    """The family that a hypothesis is adjusted in, from the plan and the design alone; None: described only."""
    if hypothesis.metric.role == "exploratory":
        return "exploratory" if hypothesis.tested else None
    primary = hypothesis.metric.name == plan.primary_metric and hypothesis.contrast in plan.primary_contrasts
    if primary and hypothesis.overall:
        return "primary"
    return "secondary" if hypothesis.tested else None


def scope_of(family: str | None, n_seeds: int, plan: Plan) -> str:
    """The scope whose p enters the family: the planned one, or checkpoint with too few seeds for the method."""
    planned = plan.primary_scope if family == "primary" else plan.secondary_scope
    return planned if n_seeds >= SEEDS_FOR_CLAIMS else CHECKPOINT


def _claim(finding: Finding, plan: Plan) -> Claim:
    """The claim before its p is adjusted."""
    hypothesis, inference = finding.estimate.hypothesis, finding.inference
    metric, family = hypothesis.metric, family_of(hypothesis, plan)
    scope = inference.scope(scope_of(family, inference.n_seeds, plan))
    margins = MarginTests() if metric.margin is None else scope.margin_tests(metric.margin, metric.higher_is_better)
    return Claim(
        plan=plan,
        finding=finding,
        family=family,
        scope=scope,
        margins=margins,
        planning=Planning(metric.margin),
        flags=(*inference.flags, *_flags(finding, family, scope, plan)),
    )


def _flags(finding: Finding, family: str | None, scope: Scope, plan: Plan) -> list[str]:
    estimate, inference = finding.estimate, finding.inference
    few = inference.flip.p_min_attainable > plan.alpha and inference.n_clusters >= 2 and inference.flip.n_nonzero > 0
    flags = {
        "descriptive": family is None,
        "dropped_seeds": estimate.seeds_dropped,
        "scope_fallback": family == "primary" and scope.name != plan.primary_scope,
        "exploratory": family == "exploratory",
        "prompts_dropped": estimate.prompts_dropped,
        "cannot_reach_alpha": few,
    }
    return [name for name, holds in flags.items() if holds]


def _planning(finding: Finding, scope: Scope, alpha: float) -> Planning:
    target, inference = finding.estimate.hypothesis.metric.margin, finding.inference
    if target is None or inference.design is None:
        return Planning(target, alpha=alpha)
    return Planning(
        target,
        prompts=inference.design.prompts_required(target, alpha, scope.name),
        seeds=inference.design.seeds_required(target, alpha) if inference.seeds is not None else None,
        alpha=alpha,
    )


def _adjust(claims: list[Claim], family: str, plan: Plan) -> list[Claim]:
    """The claims of one family with their p adjusted: Holm for the primary, BH with BY beside it for the others."""
    method = "holm" if family == "primary" else "bh"
    p = _floats([claim.scope.p for claim in claims])
    of_method = _floats([claim.finding.inference.method.p for claim in claims])
    tost = _floats([claim.margins.tost for claim in claims])
    holm, bh, by = (adjust.adjusted_p(p, name) for name in ("holm", "bh", "by"))
    method_scope_bh, tost_adj = adjust.adjusted_p(of_method, "bh"), adjust.adjusted_p(tost, method)
    n_tests, n_tost = int((~np.isnan(p)).sum()), int((~np.isnan(tost)).sum())
    fcr = adjust.fcr_alpha(bh, plan.q) if claims and family != "primary" else None
    done = []
    for i, claim in enumerate(claims):
        adjusted = Adjusted(
            p=_value((holm if family == "primary" else bh)[i]),
            method=method,
            holm=_value(holm[i]),
            bh=_value(bh[i]),
            by=_value(by[i]),
            method_scope_bh=_value(method_scope_bh[i]),
            tost=_value(tost_adj[i]),
            n_tests=n_tests,
            n_tost=n_tost,
        )
        if fcr and bh[i] <= plan.q:
            adjusted = replace(adjusted, fcr=claim.scope.interval(fcr))
        depends = (bh[i] <= plan.q) != (by[i] <= plan.q)  # never of NaN
        flags = (*claim.flags, *(["depends_on_dependence"] if depends else []))
        planning = _planning(claim.finding, claim.scope, claim.level / max(n_tests, 1))
        done.append(replace(claim, adjusted=adjusted, flags=flags, planning=planning))
    return done


def _floats(values: Sequence[float | None]) -> np.ndarray:
    """float [m], NaN for None."""
    return np.array(values, dtype=float)


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
