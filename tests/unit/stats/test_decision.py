"""The rule that decides: an intersection-union test of C1, C2, guardrails and signs, apart from the adjusted claims."""

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
from questions import CONTRASTS, QUESTION

from paired.decision import ScoreFacts, decide
from paired.effects import EffectSizes
from paired.estimate import Estimate, Hypothesis, Missing
from paired.families import make_claims
from paired.plan import read_plan
from paired.scopes import Finding, infer

NOISE = np.random.default_rng(3).standard_normal((3, 200))
NOISE -= NOISE.mean(axis=1, keepdims=True)


def differences(*by_seed):
    """float [S, 200] whose seeds have these very means."""
    return 0.2 * NOISE[: len(by_seed)] + np.array(by_seed)[:, None]


def decided(plan=None, **data):
    """(claims by id, decision) of a study with these differences, by contrast of the primary metric or "guard/C1"."""
    metrics = {"m": {"kind": "continuous", "higher_is_better": True, "margin": 0.05}}
    if "guard/C1" in data:
        metrics["guard"] = {"kind": "continuous", "higher_is_better": True, "margin": 0.05, "role": "guardrail"}
    plan = read_plan({"metrics": metrics, "primary_metric": "m", **(plan or {})}, question=QUESTION)
    findings, facts = [], {}
    for name, d in data.items():
        metric, _, contrast = name.rpartition("/")
        metric = plan.metrics[metric or "m"]
        seeds = tuple(range(1, len(d) + 1))
        hypothesis = Hypothesis(metric, contrast, CONTRASTS[contrast], "overall", "__all__", True)
        described = Estimate(hypothesis, 0.0, 0.0, EffectSizes(), 0, None, Missing(0, 0), seeds, False, False)
        findings.append(Finding(described, infer(d, rng=np.random.default_rng(0)), None, ""))
        facts[metric.name] = ScoreFacts(metric.name, seeds, {}, [], {"sft": 0.0, "sft_dpo": 0.0})
    claims = make_claims(findings, plan)
    return {claim.hypothesis.id: claim for claim in claims}, decide(plan, claims, facts, None)


def test_go_needs_each_component_at_alpha_and_adjusts_none():
    """p of C1 is .04: Holm leaves the claim open, but GO is one question with all its tests at once."""
    rest = {"C2": differences(0.1, 0.1, 0.12), "C3": differences(0, 0.1, 0)}
    claims, decision = decided(C1=differences(0.10, 0.15, 0.20), **rest)
    one = claims["m/C1/overall"]
    assert 0.025 < one.scope.p <= 0.05 < one.adjusted.p
    assert one.verdict == "inconclusive"
    assert decision.result == "GO"
    assert decision.reasons == [
        "SFT→DPO is better than SFT (C1), SFT→DPO is not worse than DPO-only by the margin (C2), and 3 of 3 seeds "
        "agree in sign on C1",
        "the decision needs all of its tests at once, so none is adjusted for the others, and C1 is superior; as one "
        "of 3 claims of its own it is adjusted, and inconclusive",
    ]


@pytest.mark.parametrize(
    ("c1", "c2", "result", "why"),
    [
        ((0.10, 0.15, 0.20), (0.10, -0.20, 0.10), "HOLD", "C2: SFT→DPO is not shown to be at least as good"),
        ((0.10, 0.15, 0.40), (0.10, 0.10, 0.12), "HOLD", "C1 (DPO after SFT) is inconclusive"),
        ((-0.10, -0.15, -0.20), (0.10, 0.10, 0.12), "NO-GO", "makes the primary metric worse"),
        ((0.001, 0.0, -0.001), (0.10, 0.10, 0.12), "NO-GO", "no difference that matters"),
    ],
)
def test_each_component_can_stop_it(c1, c2, result, why):
    _, decision = decided(C1=differences(*c1), C2=differences(*c2), C3=differences(0.0, 0.1, 0.0))
    assert decision.result == result
    assert why in decision.reasons[0]


def test_a_guardrail_is_tested_in_the_scope_that_the_decision_is_about():
    """Its claim is about the checkpoints, where it is safe; over seeds, which GO speaks of, nobody knows."""
    unsure = {"C1": differences(0.1, 0.12, 0.14), "C2": differences(0.1, 0.1, 0.12)}
    claims, decision = decided(**unsure, **{"guard/C1": differences(-0.2, 0.0, 0.2)})
    guard = claims["guard/C1/overall"]
    assert guard.scope.name == "checkpoint"
    assert guard.margins.noninferior <= 0.05
    assert decision.result == "HOLD"
    assert decision.reasons[0] == "guardrail guard is not shown to be safe"
