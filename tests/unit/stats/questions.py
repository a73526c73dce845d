"""The study's question as the package has it, and claims to put into words."""

from paired import power
from paired.effects import EffectSizes
from paired.estimate import Estimate, Hypothesis, Missing
from paired.families import Adjusted, Claim, Planning
from paired.intervals import MarginTests
from paired.plan import Metric, read_plan
from paired.question import read_question
from paired.scopes import Finding, Inference, Scope
from paired.signflip import SignFlip
from study.question import QUESTION as GIVEN

QUESTION = read_question(GIVEN)
CONTRASTS = QUESTION.contrasts


def claim(
    estimate=0.05, better_up=True, margin=0.03, n=64, clusters=64, seeds=3, nonzero=20, floor=1e-5, scope="method",
    ends=(-0.01, 0.11), detectable=0.09, p_adj=0.2, p_tost_adj=None, tests=3, alpha=0.05, target=0.03, prompts=None,
    more_seeds=8, flags=(),
):  # fmt: skip
    """A claim about C1 on pref_acc, adjusted by Holm and held against 5%; alpha is of its interval."""
    metrics = {"pref_acc": {"kind": "binary", "higher_is_better": better_up, "margin": margin}}
    plan = read_plan({"metrics": metrics, "primary_metric": "pref_acc", "alpha": alpha}, question=QUESTION)
    metric = Metric("pref_acc", "binary", better_up, (0.0, 1.0), margin, 1.0)
    unit = power.difference_found([(1.0, 2.0)], alpha)
    of = Scope(scope, estimate, p=p_adj, ci=ends, components=[((detectable / unit) ** 2, 2.0)])
    flip = SignFlip(estimate * n, 0.1, 0.1, nonzero, floor, "lattice")
    inference = Inference(estimate, n, clusters, seeds, flip, checkpoint=of, method=of, theta=(estimate,) * seeds)
    hypothesis = Hypothesis(metric, "C1", CONTRASTS["C1"], "overall", "__all__", True)
    described = Estimate(hypothesis, 0.6, 0.55, EffectSizes(), 0, None, Missing(0.0, 0.0), (1, 2, 3), False, False)
    return Claim(
        plan=plan,
        finding=Finding(described, inference, None, "key"),
        family="secondary",
        scope=of,
        margins=MarginTests(),
        planning=Planning(target, prompts, more_seeds, alpha),
        flags=flags,
        adjusted=Adjusted(p=p_adj, method="holm", tost=p_tost_adj, n_tests=tests, n_tost=tests),
    )
