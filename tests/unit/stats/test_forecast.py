"""Forecasts of decisions: the same decisions as those of the package, and the chances of simulated scores."""

import dataclasses
import gc
import itertools

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import pandas as pd
from questions import CONTRASTS, QUESTION
from scipy import stats

from paired import forecast, power
from paired.decision import ScoreFacts, decide
from paired.effects import EffectSizes
from paired.estimate import Estimate, Hypothesis, Missing
from paired.families import make_claims
from paired.forecast import Rule, chances, decisions, guess, largest_share, simulate, t_quantile
from paired.intervals import two_sided_p
from paired.pilot import judged_moments, rule_of
from paired.plan import read_plan
from paired.pooling import pool_seeds
from paired.scopes import CHECKPOINT, METHOD, Finding, Inference, Scope, infer
from paired.scores import Scores
from paired.signflip import SignFlip

MEANS = {"base": 0.45, "sft": 0.55, "sft_dpo": 0.68, "dpo_only": 0.63}


def model(means=MEANS, seed_sd=0.03):
    return guess(means, QUESTION.untrained, variance=0.24, seed_sd=seed_sd, same_prompt=0.3, same_arm=0.4)


def rule(margin=0.05, *, pool=False, alpha=0.05, method=True):
    return Rule(CONTRASTS["C1"], CONTRASTS["C2"], margin, alpha, method, pool)


@pytest.mark.parametrize("df", [1, 2, 4, 7.3, 119, 10**6])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.05 / 3, 0.001])
def test_quantiles_are_scipys(df, alpha):
    assert t_quantile(alpha, df) == pytest.approx(stats.t.isf(alpha / 2, df), rel=1e-6)


@pytest.mark.parametrize(("arms", "n_seeds"), [(2, 2), (3, 3), (3, 10), (5, 4)])
def test_largest_share_is_cochrans(arms, n_seeds):
    share = largest_share(arms, n_seeds, 0.05)
    assert arms * stats.beta.sf(share, (n_seeds - 1) / 2, (arms - 1) * (n_seeds - 1) / 2) == pytest.approx(0.05)


@pytest.fixture
def quick_collections():
    """statsmodels collects garbage at each of Holm's adjustments; without old objects that takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


def by_the_package(means, v_prompt, df, arms, plan):
    """The decision of one simulated study by `decide`, from the same numbers."""
    n_seeds, findings = len(means), []
    by_arm = dict(zip(arms, means.T, strict=True))
    pool = pool_seeds({arm: own for arm, own in by_arm.items() if arm != "base"}) if plan.pool_seed_variance else None
    for place, contrast in enumerate(("C1", "C2")):
        weights = CONTRASTS[contrast]
        theta = sum(weight * by_arm[arm] for arm, weight in weights.items())
        estimate, components = float(theta.mean()), [(v_prompt[place], df)]
        found = [Scope(CHECKPOINT, estimate, two_sided_p(components, estimate), components=components)]
        if n_seeds > 1:
            own = (theta.var(ddof=1) / n_seeds, n_seeds - 1)
            both = [*components, pool.component(weights) if pool is not None and pool.alike else own]
            found.append(Scope(METHOD, estimate, two_sided_p(both, estimate), components=both))
        flip = SignFlip(0.0, 0.5, 0.5, 100, 1e-9, "lattice")
        inference = Inference(estimate, 100, 100, n_seeds, flip, found[0], found[-1], theta=tuple(theta))
        hypothesis = Hypothesis(plan.metrics["m"], contrast, weights, "overall", "__all__", True)
        seeds = tuple(range(n_seeds))
        described = Estimate(hypothesis, 0.0, 0.0, EffectSizes(), 0, None, Missing(0, 0), seeds, False, False)
        findings.append(Finding(described, inference, None, ""))
    facts = {"m": ScoreFacts("m", seeds, {}, [], {"sft": 0.0})}
    return decide(plan, make_claims(findings, plan), facts, None).result


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize(
    ("n_seeds", "pool", "margin"), list(itertools.product((1, 2, 3, 5), (False, True), (None, 0.08)))
)
def test_each_simulated_study_is_decided_as_the_package_decides_it(n_seeds, pool, margin):
    metric = {"kind": "continuous", "higher_is_better": True, "margin": margin}
    plan = {"metrics": {"m": metric}, "primary_metric": "m", "pool_seed_variance": pool}
    plan = read_plan({**plan, "primary_contrasts": ["C1", "C2"], "contrasts": {c: CONTRASTS[c] for c in ("C1", "C2")}},
                     question=QUESTION)  # fmt: skip
    seen = set()
    for means in (MEANS, MEANS | {"sft": 0.68}, MEANS | {"sft": 0.9}):
        own = model(means)
        studies = simulate(own, rule(margin, pool=pool), 150, n_seeds, 150, 60, np.random.default_rng(n_seeds))
        found = decisions(studies, rule(margin, pool=pool))
        for i in range(60):
            result = by_the_package(studies.means[i], studies.v_prompt[i], studies.df, own.arms, plan)
            assert found[result.lower().replace("-", "_")][i], (i, result)
            seen.add(result)
    assert seen == ({"GO", "HOLD", "NO-GO"} if margin else {"HOLD", "NO-GO"}), "a test that sees all decisions"


def test_simulated_studies_have_the_moments_of_the_model():
    own = model(seed_sd=0.05)
    studies = simulate(own, rule(), 50, 4, 50, 40_000, np.random.default_rng(0))
    assert studies.means.mean(axis=(0, 1)) == pytest.approx(list(MEANS.values()), abs=1e-3)
    theta = studies.means[:, :, 2] - studies.means[:, :, 1]
    between = 2 * (0.05**2 + 0.6 * 0.24 / 50)
    assert theta.var(axis=1, ddof=1).mean() == pytest.approx(between, rel=0.02)
    of_prompts = 2 * (0.1 * 0.24 + 0.6 * 0.24 / 4) / 50
    assert studies.v_prompt.mean(axis=0) == pytest.approx([of_prompts] * 2, rel=0.02)
    assert theta.mean(axis=1).var() == pytest.approx(of_prompts + 2 * 0.05**2 / 4, rel=0.02)
    base = studies.means[:, :, 0]
    assert np.ptp(base, axis=1).max() < 1e-9, "one run of the base stands against every seed"


def test_clusters_cost_what_their_correlation_costs():
    own = dataclasses.replace(model(), correlation=0.5)
    apart = simulate(own, rule(), 200, 3, 200, 20_000, np.random.default_rng(0))
    together = simulate(own, rule(), 200, 3, 20, 20_000, np.random.default_rng(0))
    assert together.df == 19
    prompts, rest = 2 * 0.1 * 0.24, 2 * 0.6 * 0.24 / 3
    expected = (prompts * (1 + 9 * 0.5) + rest) / (prompts + rest)
    assert together.v_prompt.mean() / apart.v_prompt.mean() == pytest.approx(expected, rel=0.02)


def test_chances_add_up_and_go_where_they_must():
    few, many = chances(model(), rule(), 100, 3), chances(model(), rule(), 3000, 10)
    for one in (few, many):
        assert one.go + one.hold + one.no_go == pytest.approx(1)
    assert many.go > 0.95 > 0.5 > few.go
    assert chances(model(), rule(), 120, 3, seed=1).go != chances(model(), rule(), 120, 3).go
    assert chances(model(), rule(), 120, 3) == chances(model(), rule(), 120, 3)
    assert chances(model(), rule(None), 3000, 10).go == 0, "without a margin nothing is shown to be not worse"
    harmful = chances(model(MEANS | {"sft": 0.95}), rule(), 3000, 10)
    assert harmful.no_go > 0.95
    alone = chances(model(), Rule(CONTRASTS["C1"], None, None), 3000, 10)
    assert alone.go == alone.gain_superior > 0.95


def test_what_a_claim_requires_is_enough_under_its_adjustment():
    """Prompts at 5 seeds, and seeds at 300 prompts, that Holm over three tests needs for 10 points: power .8."""
    own = model(MEANS | {"sft": 0.58})
    rest, prompt = own.rest[1], own.prompt[1, 1] - own.prompt[0, 1]
    design = power.Design(2 * prompt, 2 * 0.03**2, 2 * rest, 1.0, 300, 5)
    n = design.prompts_required(0.1, 0.05 / 3, METHOD)
    seeds = design.seeds_required(0.1, 0.05 / 3)
    adjusted = Rule(CONTRASTS["C1"], None, None, 0.05 / 3)
    assert chances(own, adjusted, n, 5, reps=20_000).gain_superior == pytest.approx(0.8, abs=0.05)
    assert chances(own, adjusted, 300, seeds, reps=20_000).gain_superior > 0.75
    assert chances(own, adjusted, 300, seeds - 1, reps=20_000).gain_superior < 0.82


@pytest.mark.parametrize("margin", [None, 0.05])
def test_no_target_is_an_observed_effect(margin):
    metric = {"kind": "continuous", "higher_is_better": True, "margin": margin}
    plan = read_plan({"metrics": {"m": metric}, "primary_metric": "m"}, question=QUESTION)
    findings = []
    for contrast in ("C1", "C2", "C3"):
        d = np.random.default_rng(1).normal(0.001, 1, (3, 50))
        hypothesis = Hypothesis(plan.metrics["m"], contrast, CONTRASTS[contrast], "overall", "__all__", True)
        described = Estimate(hypothesis, 0, 0, EffectSizes(), 0, None, Missing(0, 0), (1, 2, 3), False, False)
        findings.append(Finding(described, infer(d, rng=np.random.default_rng(0)), None, ""))
    for claim in make_claims(findings, plan):
        assert claim.planning.target == margin
        assert claim.planning.alpha == pytest.approx(0.05 / 3)
        design = claim.finding.inference.design
        expected = design.prompts_required(margin, 0.05 / 3, METHOD) if margin else None
        assert claim.planning.prompts == expected


def test_what_go_takes_is_the_least_that_is_enough():
    own, of = forecast.with_differences(model(seed_sd=0.01), rule(), 0.1, 0.05), rule()
    prompts, seeds = forecast.what_go_takes(own, of, 120, 5, 1.0)
    assert chances(own, of, prompts, 5).go >= 0.8 > chances(own, of, round(prompts * 0.9), 5).go
    assert chances(own, of, 120, seeds).go >= 0.8 > chances(own, of, 120, seeds - 1).go
    never, _ = forecast.what_go_takes(forecast.with_differences(model(seed_sd=0.1), of, 0.1), of, 120, 3, 1.0)
    assert never is None
    assert forecast.what_go_takes(own, rule(method=False), 120, 1, 1.0)[1] is None, "seeds say nothing of checkpoints"
    differences = [sum(w * m for w, m in zip(forecast._weights(own, of)[i], own.mean, strict=True)) for i in (0, 1)]
    assert differences == pytest.approx([0.1, 0.05])


def judged(rng, n_seeds, n, means, names=("C1", "C2")):
    """Contrast -> net win rates, float [S, n], of two orders each: arms and prompts share what a contrast has."""
    effects = {arm: rng.normal(0, 0.15, (n_seeds, 1)) for arm in ("sft", "sft_dpo", "dpo_only")}
    shared, found = rng.normal(0, 0.5, n), {}
    for name, mean in zip(names, means, strict=True):
        of_seeds = sum(weight * effects[arm] for arm, weight in CONTRASTS[name].items())
        latent = mean + of_seeds + shared + rng.normal(0, 0.4, n)
        latent = latent + rng.normal(0, 1, (2, n_seeds, n))
        found[name] = ((latent > 0.3).astype(float) - (latent < -0.3)).mean(axis=0)
    return found


def judged_tables(metric, net, n_seeds, n):
    """The same as the scores that the package reads from judgements."""
    status = np.zeros((n_seeds, n, 1), dtype=np.int8)
    return {
        name: Scores(
            metric, tuple(range(n_seeds)), frozenset(), {}, np.arange(n), 1,
            {plus: (1 + own[:, :, None]) / 2, minus: (1 - own[:, :, None]) / 2},
            {plus: status, minus: status}, [],
        )
        for name, own in net.items()
        for plus, minus in [sorted(CONTRASTS[name], key=lambda arm: -CONTRASTS[name][arm])]
    }  # fmt: skip


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize(("n_seeds", "n", "means"), [(3, 150, (0.6, 0.35)), (5, 100, (0.3, 0.2)), (5, 400, (0.0, 0.0))])
def test_outcomes_of_pairs_are_foreseen_as_the_package_decides_them(n_seeds, n, means):
    """Moments of a large pilot against 1000 studies through `infer` and `decide`: within 3 points and 2 SE."""
    entry = {"kind": "pairwise", "higher_is_better": True, "margin": 0.1}
    plan = read_plan({"metrics": {"m": entry}, "primary_metric": "m", "pool_seed_variance": True}, question=QUESTION)
    metric, rng = plan.metrics["m"], np.random.default_rng(0)
    pilot = judged(rng, 100, 4000, means)
    prompts = pd.DataFrame({"cluster_id": [f"k{i}" for i in range(4000)]})
    model = judged_moments(judged_tables(metric, pilot, 100, 4000), prompts, plan, None)
    model = dataclasses.replace(model, mean=np.array([own.mean() for own in pilot.values()]))
    said = chances(model, rule_of(plan), n, n_seeds, reps=20_000)
    facts, results = {"m": ScoreFacts("m", tuple(range(n_seeds)), {}, [], {"C1": 0.0})}, []
    for _ in range(1000):
        findings = []
        for name, table in judged_tables(metric, judged(rng, n_seeds, n, means), n_seeds, n).items():
            d = table.differences(CONTRASTS[name])
            hypothesis = Hypothesis(metric, name, CONTRASTS[name], "overall", "__all__", True)
            described = Estimate(hypothesis, 0, 0, EffectSizes(), 0, None, Missing(0, 0), table.seeds, False, False)
            findings.append(Finding(described, infer(d, lattice=table.lattice), None, ""))
        results.append(decide(plan, make_claims(findings, plan), facts, None).result)
    for name, word in (("go", "GO"), ("no_go", "NO-GO")):
        share = results.count(word) / 1000
        assert abs(getattr(said, name) - share) < 0.03 + 2 * (share * (1 - share) / 1000) ** 0.5
