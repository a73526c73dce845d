"""The methods against second routes: enumeration, scipy, explicit matrices, duality, and the words they end in."""

import ast
import math
import re
import shutil
import subprocess
import sys
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import statsmodels.api as sm
import textbook
from questions import CONTRASTS, QUESTION, claim
from scipy import special, stats
from statsmodels.stats import contingency_tables as contingency
from statsmodels.stats import oneway, weightstats

from paired import adjust, effects, intervals, power, proportions
from paired.families import Planning
from paired.files import ContractError
from paired.plan import read_plan
from paired.question import read_question
from paired.scopes import infer, random_generator
from paired.signflip import SMALLEST_P, enumeration, lattice_p, monte_carlo, saddlepoint, signflip, wilcoxon
from paired.words import Sentence

RNG = np.random.default_rng(7)
PACKAGE = Path(__file__).parents[3] / "scripts/paired"


def brute_force(d):
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(d))).reshape(len(d), -1)
    sums = np.abs(signs.T @ np.abs(d))
    at_least = (sums >= abs(d.sum()) - 1e-9).mean()
    return at_least, at_least - (np.abs(sums - abs(d.sum())) < 1e-9).mean() / 2


@pytest.mark.parametrize("m", [1, 2, 7, 13])
def test_enumeration_and_lattice_equal_brute_force(m):
    d = RNG.integers(1, 6, m) * RNG.choice([-1, 1], m)
    expected = brute_force(d)
    values, counts = np.unique(np.abs(d), return_counts=True)
    assert enumeration(np.abs(d), d.sum()) == pytest.approx(expected, rel=1e-12)
    assert lattice_p(values, counts, int(d.sum())) == pytest.approx(expected, rel=1e-12)
    continuous = RNG.normal(0.3, 1, m)
    assert enumeration(np.abs(continuous), continuous.sum()) == pytest.approx(brute_force(continuous), rel=1e-12)


@pytest.mark.parametrize("total", [0, 2, 300, 2000, 9000, 9998, 10_000])
def test_lattice_keeps_its_precision_in_the_tail(total):
    """10 000 clusters of size one: the binomial tail, down to 1e-3000, which is reported as the smallest float."""
    p, p_mid = lattice_p(np.array([1]), np.array([10_000]), total)
    log_p = np.log(2) + stats.binom.logsf((10_000 + total) // 2 - 1, 10_000, 0.5) if total else 0.0
    assert p >= SMALLEST_P
    assert p_mid > 0
    if log_p > -700:
        assert np.log(p) == pytest.approx(log_p, abs=1e-8)


def test_lattice_equals_enumeration_of_clusters_in_thirds():
    sums = RNG.integers(-6, 9, 24) / 3
    exact, by_grid = signflip(sums), signflip(sums, lattice=3)
    assert (exact.method, by_grid.method) == ("enumeration", "lattice")
    assert by_grid.p == pytest.approx(exact.p, rel=1e-10)
    assert by_grid.p_mid == pytest.approx(exact.p_mid, rel=1e-10)
    with pytest.raises(ValueError, match="lattice"):
        signflip(sums, lattice=1)


def test_saddlepoint_and_monte_carlo_agree_with_the_exact_p():
    d = RNG.integers(1, 200, 36) * RNG.choice([-1, 1], 36, p=[0.3, 0.7]) / 7
    exact = enumeration(np.abs(d), d.sum())[0]
    assert saddlepoint(np.abs(d), d.sum()) == pytest.approx(exact, rel=0.02)
    drawn, _, count = monte_carlo(np.abs(d), d.sum(), 19_999, np.random.default_rng(1))
    assert drawn == (count + 1) / 20_000
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_large_continuous_data_has_its_tail_resolved():
    """A Monte Carlo p would stop at 1/20000, and Benjamini-Hochberg could not reject."""
    d = RNG.normal(0.5, 1, 400)
    found = signflip(d, rng=np.random.default_rng(0))
    assert found.method == "saddlepoint"
    assert 0 < found.p < 1e-12
    assert np.log(found.p) == pytest.approx(np.log(stats.ttest_1samp(d, 0).pvalue), rel=0.15)
    with pytest.raises(ValueError, match="random generator"):
        signflip(d)


def test_no_p_is_ever_zero():
    for d in (np.ones(5000), np.linspace(1, 2, 30_000), np.linspace(1, 2, 300)):
        assert signflip(d, rng=np.random.default_rng(0)).p >= SMALLEST_P
    assert signflip(np.ones(5000), lattice=1).p == SMALLEST_P
    assert intervals.two_sided_p([(1e-8, 9.0), (1e-9, 2)], 1e6) > 0
    assert intervals.two_sided_p([(1e-12, 99999.0)], 1e6) > 0


def test_mcnemar_is_the_sign_flip_of_one_seed():
    d = np.repeat([1.0, -1, 0], [16, 6, 40])
    found = infer(d[None], binary_pair=True, lattice=1)
    one = textbook.mcnemar(16, 6)
    assert (found.checkpoint.p, found.p_mid) == pytest.approx((one["p_exact"], one["p_mid"]), rel=1e-12)
    assert found.ci_method == "tango"
    assert found.checkpoint.ci == pytest.approx(proportions.tango_interval(16, 6, 62, 0.05))


def test_wilcoxon_is_exact_with_ties():
    d = RNG.integers(-4, 6, 14).astype(float)
    found = wilcoxon(d, zero_method="pratt")
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signed = ranks * np.sign(d[d != 0])
    assert found.p == pytest.approx(brute_force(signed)[0], rel=1e-10)
    assert wilcoxon(np.zeros(4)) is None


def explicit_cr2(d, codes):
    """V and df from the hat matrix: (I - H_cc)^-1/2 adjustments and the moments of the quadratic form."""
    n = len(d)
    residual = np.eye(n) - np.full((n, n), 1 / n)
    vectors = []
    for c in range(codes.max() + 1):
        rows = np.flatnonzero(codes == c)
        values, basis = np.linalg.eigh(residual[np.ix_(rows, rows)])
        adjusted = basis @ np.diag(values**-0.5) @ basis.T
        vectors.append(residual[:, rows] @ adjusted @ np.full(len(rows), 1 / n))
    g = np.array(vectors).T
    omega = g.T @ g
    return float(((g.T @ d) ** 2).sum()), np.trace(omega) ** 2 / (omega**2).sum()


def test_p_and_interval_are_dual():
    components = [(4e-4, 57.3), (1e-4, 2)]
    p = intervals.two_sided_p(components, 0.06)
    low, high = intervals.interval(0.06, components, p)
    assert low == pytest.approx(0, abs=1e-12)
    assert high > 0
    ends = proportions.tango_interval(16, 6, 62, 0.05)
    z = [proportions.tango_z(16, 6, 62, end) for end in ends]
    assert z == pytest.approx([stats.norm.isf(0.025), -stats.norm.isf(0.025)], abs=1e-9)
    tests = intervals.margin_tests(components, 0.01, 0.08)
    inside = intervals.interval(0.01, components, 2 * tests.tost)
    assert inside[1] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("n12", "n21", "n"), [(0, 0, 10), (10, 0, 10), (0, 10, 10), (1, 0, 1), (5, 5, 10), (3, 0, 1000)]
)
def test_tango_at_the_edges(n12, n21, n):
    low, high = proportions.tango_interval(n12, n21, n, 0.05)
    assert -1 <= low < high <= 1
    assert low <= (n12 - n21) / n <= high
    assert (high, low) == pytest.approx([-end for end in proportions.tango_interval(n21, n12, n, 0.05)], abs=1e-9)


def test_a_seed_without_an_effect_shares_no_sign():
    """0.1 + 0.2 - 0.3 is not zero in floating point."""
    d = np.array([[0.1, 0.2, -0.3, 0.0], [0.2, 0.3, 0.1, 0.1], [0.3, 0.2, 0.0, 0.2], [-0.1, -0.1, -0.3, 0.0]])
    assert d[0].mean() > 0
    assert infer(d).seeds.same_sign == 2
    assert infer(d[[0, 0]] - d[[0, 0]]).seeds.same_sign == 2


def test_macro_weighting_is_the_mean_of_category_means():
    d = RNG.normal(0.2, 1, (3, 30))
    category = np.repeat([0, 1, 2], [20, 6, 4])
    found = infer(d, category=category)
    means = [d[:, category == c].mean(axis=0) for c in range(3)]
    assert found.estimate == pytest.approx(np.mean([m.mean() for m in means]))
    parts = np.array([m.var(ddof=1) / len(m) for m in means]) / 9
    assert found.se**2 == pytest.approx(parts.sum())
    assert found.df == pytest.approx(parts.sum() ** 2 / (parts**2 / np.array([19, 5, 3])).sum())
    assert "category_of_one_cluster" in infer(d, category=np.repeat([0, 1], [29, 1])).flags


def test_adjusted_p_leaves_nulls_alone():
    assert list(adjust.adjusted_p([0.02, np.nan, 0.03], "holm")) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert adjust.fcr_alpha(np.array([0.2, np.nan]), 0.05) is None


def test_required_prompts_and_seeds_detect_what_they_promise():
    design = power.Design(prompt=0.2, seed=4e-4, resid=0.05, df_share=1.0, n=200, n_seeds=5)
    n = design.prompts_required(0.05, 0.05, "method")
    assert (
        power.chance(design.components(n, 5), 0.05, 0.05) >= 0.8 > power.chance(design.components(n - 1, 5), 0.05, 0.05)
    )
    seeds = design.seeds_required(0.1, 0.05)
    assert design.finds(200, seeds, 0.1, 0.05, "method")
    assert design.prompts_required(0.01, 0.05, "method") is None, "seeds cannot be bought out with prompts"


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.05 / 90])
@pytest.mark.parametrize("components", [[(1.0, 119.0)], [(0.3, 119.0), (1.0, 2.0)], [(1.0, 60.0), (0.1, 4.0)]])
def test_a_difference_that_is_found_in_80_percent_is(components, alpha):
    """Against simulated estimates and variances. The sum of quantiles finds as few as 65% of them at a small alpha."""
    rng, reps = np.random.default_rng(0), 100_000
    sd = sum(variance for variance, _ in components) ** 0.5
    estimates = power.difference_found(components, alpha) + sd * rng.standard_normal(reps)
    squares = sum(
        stats.t.isf(alpha / 2, df) ** 2 * variance * rng.chisquare(df, reps) / df for variance, df in components
    )
    assert (np.abs(estimates) >= np.sqrt(squares)).mean() == pytest.approx(0.8, abs=0.005)


def test_random_numbers_are_keyed_by_hypothesis():
    first, key = random_generator(1, "m/C1/overall")
    again, _ = random_generator(1, "m/C1/overall")
    other, other_key = random_generator(1, "m/C2/overall")
    assert first.integers(2**60) == again.integers(2**60) != other.integers(2**60)
    assert key != other_key


# --- second routes on random data -------------------------------------------------------------------------------------


def test_lattice_equals_big_integers():
    """Every attainable kind of input: common divisors, both parities, the centre, the far tail, the end."""
    rng = np.random.default_rng(1)
    for _ in range(25):
        values = np.sort(rng.choice(np.arange(1, 12), rng.integers(1, 5), replace=False))
        counts = rng.integers(1, 30, len(values))
        width = 2 * int(counts.sum())
        ways = 1
        for v, c in zip(values.tolist(), counts.tolist(), strict=True):
            ways *= sum(math.comb(c, k) << (v * k * width) for k in range(c + 1))
        support = int((values * counts).sum())
        exact = [(ways >> (k * width)) & ((1 << width) - 1) for k in range(support + 1)]
        for k in {*rng.integers(support // 2, support + 1, 4).tolist(), (support + 1) // 2, support}:
            total = abs(2 * k - support)
            if not exact[k]:
                continue
            equal = exact[k] * (2 if total else 1)
            at_least = 2 * sum(exact[k:]) if total else 2 ** int(counts.sum())
            everything = 2 ** int(counts.sum())
            expected = (float(Fraction(at_least, everything)), float(Fraction(2 * at_least - equal, 2 * everything)))
            assert lattice_p(values, counts, total) == pytest.approx(expected, rel=1e-9, abs=0)
            assert lattice_p(values, counts, -total) == lattice_p(values, counts, total)


def test_lattice_of_a_million_clusters():
    for z in (0.5, 3, 12.6, 30):
        total = 2 * round(z * 500)
        upper = (10**6 + total) // 2
        at_least = 2 * stats.binom.sf(upper - 1, 10**6, 0.5)
        found = lattice_p(np.array([3]), np.array([10**6]), 3 * total)
        assert found == pytest.approx((at_least, at_least - stats.binom.pmf(upper, 10**6, 0.5)), rel=1e-8, abs=0)


def test_lattice_of_mixed_magnitudes_equals_a_convolution_of_positive_terms():
    values, counts = np.array([1, 2, 5]), np.array([4000, 900, 60])
    sums = np.ones(1)
    for v, c in zip(values, counts, strict=True):
        one = np.zeros(v * c + 1)
        one[::v] = stats.binom.pmf(np.arange(c + 1), c, 0.5)
        sums = np.convolve(sums, one)
    for total in (0, 90, 700, 1200):
        k = (total + 6100) // 2
        p, p_mid = lattice_p(values, counts, total)
        assert p == pytest.approx(min(1.0, 2 * sums[k:].sum()) if total else 1.0, rel=1e-9, abs=0)
        assert p_mid == pytest.approx(2 * sums[k + 1 :].sum() + sums[k] if total else 1 - sums[k] / 2, rel=1e-9, abs=0)
    assert p < 1e-35


@pytest.mark.parametrize(("values", "counts", "total"), [([2], [3], 4), ([3, 9], [2, 4], 4), ([1], [4], 6)])
def test_lattice_refuses_a_sum_that_cannot_be(values, counts, total):
    with pytest.raises(ValueError, match=f"a sum of {total} cannot arise"):
        lattice_p(np.array(values), np.array(counts), total)


@pytest.mark.filterwarnings("ignore:Sample size too small")
def test_wilcoxon_with_zeros_and_ties_equals_enumeration_and_scipy():
    rng = np.random.default_rng(2)
    for _ in range(60):
        d = rng.integers(-3, 4, rng.integers(2, 12)).astype(float)
        for zero_method in ("pratt", "wilcox") if d.any() else ():
            found = wilcoxon(d, zero_method=zero_method)
            ranked = d if zero_method == "pratt" else d[d != 0]
            ranks = stats.rankdata(np.abs(ranked))
            expected = brute_force((ranks * np.sign(ranked))[ranked != 0])[0]
            assert found.p == pytest.approx(expected, rel=1e-12)
            scipy = stats.wilcoxon(d, zero_method=zero_method, method="approx", correction=False)
            assert (found.statistic_min, found.p_asymptotic) == pytest.approx((scipy.statistic, scipy.pvalue))
    large = rng.normal(0.05, 1, 2500)
    scipy = stats.wilcoxon(large, method="approx", correction=False)
    assert not wilcoxon(large).exact
    assert wilcoxon(large).p == pytest.approx(scipy.pvalue)


def test_one_table_equals_scipy_and_statsmodels():
    rng = np.random.default_rng(3)
    for n12, n21 in [(0, 0), (0, 3), (1, 0), (7, 7), *rng.integers(0, 60, (40, 2)).tolist()]:
        found = textbook.mcnemar(n12, n21)
        if n12 + n21:
            two = [contingency.mcnemar([[0, n12], [n21, 0]], exact=False, correction=c) for c in (False, True)]
            exact = stats.binomtest(n12, n12 + n21)
            assert found["p_exact"] == pytest.approx(exact.pvalue)
            assert (found["chi2"], found["chi2_cc"]) == pytest.approx([t.statistic for t in two])
            assert (found["p_asymptotic"], found["p_cc"]) == pytest.approx([t.pvalue for t in two])
            p, p_mid = lattice_p(np.array([1]), np.array([n12 + n21]), n12 - n21)
            assert (found["p_exact"], found["p_mid"]) == pytest.approx((p, p_mid), rel=1e-10)
            ends = exact.proportion_ci(0.9, "exact")
            ratio = proportions.conditional_odds_ratio(n12, n21, 0.1)
            assert ratio.low == pytest.approx(ends.low / (1 - ends.low))
            assert ratio.high == (pytest.approx(ends.high / (1 - ends.high)) if n21 else np.inf)
    assert min(p for name, p in textbook.mcnemar(0, 5000).items() if name.startswith("p_")) > 0
    assert proportions.tango_tost(300_000, 300_000, 10**6, 0.05)["p_tost"] > 0


def test_score_interval_is_the_set_of_differences_that_are_not_rejected():
    """Tango by a grid over differences, with the restricted estimate by a grid over q21."""
    rng = np.random.default_rng(4)
    for _ in range(6):
        n = int(rng.integers(1, 40))
        n12 = int(rng.integers(0, n + 1))
        n21 = int(rng.integers(0, n - n12 + 1))
        low, high = proportions.tango_interval(n12, n21, n, 0.1)
        inside = []
        for difference in np.linspace(-0.999, 0.999, 667):
            q21 = np.linspace(max(0, -difference), (1 - difference) / 2, 4001)[1:-1]
            likelihood = special.xlogy(n12, q21 + difference) + special.xlogy(n21, q21)
            q = q21[np.argmax(likelihood + special.xlogy(n - n12 - n21, 1 - 2 * q21 - difference))]
            z = (n12 - n21 - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference)))
            inside += [difference] if abs(z) <= stats.norm.isf(0.05) else []
        assert (low, high) == pytest.approx((min(inside), max(inside)), abs=0.005)


def test_newcombe_from_its_definition():
    rng = np.random.default_rng(5)
    for _ in range(200):
        n11, n12, n21, n22 = rng.multinomial(rng.integers(1, 60), rng.dirichlet([0.5] * 4)).tolist()
        n, z = n11 + n12 + n21 + n22, stats.norm.isf(0.025)
        shares = np.array([n11 + n12, n11 + n21]) / n
        middle = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
        below, above = shares - (middle - half), middle + half - shares
        cross, scale = n11 * n22 - n12 * n21, (n11 + n12) * (n21 + n22) * (n11 + n21) * (n12 + n22)
        phi = (max(cross - n / 2, 0) if cross > 0 else cross) / np.sqrt(scale) if scale else 0.0
        low = np.sqrt(below[0] ** 2 - 2 * phi * below[0] * above[1] + above[1] ** 2)
        high = np.sqrt(above[0] ** 2 - 2 * phi * above[0] * below[1] + below[1] ** 2)
        expected = (shares[0] - shares[1] - low, shares[0] - shares[1] + high)
        assert proportions.newcombe_interval(n11, n12, n21, n22, 0.05) == pytest.approx(expected, abs=1e-9)


def test_unequal_clusters_equal_explicit_matrices_and_statsmodels():
    rng = np.random.default_rng(6)
    for _ in range(30):
        n_clusters = rng.integers(2, 8)
        codes = np.repeat(np.arange(n_clusters), rng.integers(1, 7, n_clusters))
        d = rng.normal(size=len(codes))
        found = intervals.cluster_mean(d, codes, n_clusters)
        assert (found.se_cr2**2, found.df) == pytest.approx(explicit_cr2(d, codes), rel=1e-9)
        robust = sm.OLS(d, np.ones(len(d))).fit(cov_type="cluster", cov_kwds={"groups": codes})
        assert found.se_cr1 == pytest.approx(robust.bse[0])


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_crossed_seeds_and_prompts(n_seeds):
    """Singletons: the mean squares of the ANOVA; clusters: the sums written out; p: the interval that touches zero."""
    rng = np.random.default_rng(n_seeds)
    for _ in range(10):
        n = int(rng.integers(4, 16))
        d = rng.normal(size=(n_seeds, n)) + rng.normal(size=n) + 0.3 * rng.normal(size=(n_seeds, 1))
        found = infer(d)
        prompts = n_seeds * d.mean(axis=0).var(ddof=1)
        seeds = n * d.mean(axis=1).var(ddof=1)
        rest = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
        resid = (rest**2).sum() / ((n - 1) * (n_seeds - 1))
        parts = (found.se**2, found.seeds.v_seed, found.seeds.v_resid)
        assert parts == pytest.approx(np.array([prompts, seeds, resid]) / (n * n_seeds))
        lower = np.sqrt(sum(stats.t.isf(found.method.p / 2, df) ** 2 * v for v, df in found.method.components))
        assert lower == pytest.approx(abs(found.estimate))

        n_clusters = int(rng.integers(2, n + 1))
        codes = np.concatenate([np.arange(n_clusters), rng.integers(0, n_clusters, n - n_clusters)])
        sizes = np.bincount(codes)
        sums = np.array([[own[codes == c].sum() for c in range(n_clusters)] for own in d])
        excess = sums - sizes * d.mean(axis=1)[:, None] - (sums.mean(axis=0) - sizes * d.mean())
        expected = n_clusters / (n_clusters - 1) * (excess**2).sum() / (n**2 * n_seeds * (n_seeds - 1))
        assert infer(d, codes).seeds.v_resid == pytest.approx(expected)


def test_margins_and_categories_equal_statsmodels():
    rng = np.random.default_rng(8)
    for _ in range(20):
        groups = [rng.normal(0.1, rng.uniform(0.5, 2), rng.integers(3, 12)) for _ in range(rng.integers(2, 6))]
        means = [intervals.cluster_mean(d, np.arange(len(d)), len(d)) for d in groups]
        margin = rng.uniform(0.05, 1.5)
        tests = intervals.margin_tests(means[0].components, means[0].mean, margin)
        p, lower, _ = weightstats.ttost_paired(groups[0], np.zeros(len(groups[0])), -margin, margin)
        assert (tests.tost, tests.noninferior, tests.harm) == pytest.approx((p, lower[1], 1 - lower[1]))
        found = effects.heterogeneity(*np.array([(m.mean, m.se_cr2**2, m.df) for m in means]).T)
        welch = oneway.anova_oneway(groups, use_var="unequal")
        assert (found.f, found.p) == pytest.approx((welch.statistic, welch.pvalue))
    constant = effects.heterogeneity(np.array([0.1, 0.2, 0.3]), np.array([1e-36, 0.01, 0.02]), np.array([6.0, 9, 9]))
    assert constant.df1 == 1, "a category whose differences do not vary is left out"
    assert effects.heterogeneity(np.array([0.1, 0.2]), np.array([1e-36, 0.01]), np.array([6.0, 9])) is None


def test_adjusted_p_equals_its_definition():
    rng = np.random.default_rng(9)
    for _ in range(25):
        p = np.round(rng.random(rng.integers(1, 30)) ** 3, rng.integers(1, 4))
        m, order = len(p), np.argsort(p)
        steps = p[order] * m / np.arange(1, m + 1)
        bh, holm = np.empty(m), np.empty(m)
        bh[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1)
        holm[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(m, 0, -1)), 1)
        by = np.empty(m)
        by[order] = np.minimum(np.minimum.accumulate((steps * (1 / np.arange(1, m + 1)).sum())[::-1])[::-1], 1)
        nulls = rng.integers(0, m + 1, 3)
        for name, expected in (("bh", bh), ("holm", holm), ("by", by)):
            assert adjust.adjusted_p(p, name) == pytest.approx(expected)
            with_nulls = adjust.adjusted_p(np.insert(p, nulls, np.nan), name)
            assert with_nulls == pytest.approx(np.insert(expected, nulls, np.nan), nan_ok=True)


def test_planning_equals_enumeration_and_the_noncentral_t():
    for effect, alpha, target in ((0.05, 0.05, 0.8), (0.3, 0.01, 0.95), (1.5, 0.05, 0.8), (-0.2, 0.05, 0.8)):
        n = power.n_paired_t(effect, alpha, target)
        critical, shift = stats.t.isf(alpha / 2, n - 1), abs(effect) * np.sqrt(n)
        assert stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) == pytest.approx(target)
    n, psi, delta = 45, 0.4, 0.25
    chances = {"p_mid": 0.0, "p_exact": 0.0}
    for n12 in range(n + 1):
        for n21 in range(n + 1 - n12):
            cells = [n12, n21, n - n12 - n21]
            chance = stats.multinomial.pmf(cells, n, [(psi + delta) / 2, (psi - delta) / 2, 1 - psi])
            found = textbook.mcnemar(n12, n21)
            chances = {name: total + chance * (found[name] <= 0.05) for name, total in chances.items()}
    assert power.mcnemar_power(n, psi, delta) == pytest.approx((chances["p_mid"], chances["p_exact"]))


def test_effect_sizes_equal_their_definitions():
    rng = np.random.default_rng(10)
    first, second = rng.integers(0, 6, (2, 25)).astype(float)
    found = effects.effect_sizes(first, second)
    pairs = np.sign(first - second)
    scipy = stats.wilcoxon(first, second, zero_method="wilcox", alternative="greater", method="approx")
    n = int(np.count_nonzero(pairs))
    assert found.rank_biserial == pytest.approx(2 * scipy.statistic / (n * (n + 1) / 2) - 1)
    assert found.prob_superiority == pytest.approx(((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / 25)
    assert found.corr_ab == pytest.approx(stats.pearsonr(first, second)[0])
    assert found.d_z == pytest.approx(stats.ttest_rel(first, second).statistic / 5)
    assert found.g_z == pytest.approx(found.d_z * (1 - 3 / (4 * 24 - 1)), rel=1e-3), "J is near 1 - 3/(4 df - 1)"
    constant = effects.effect_sizes(np.full(7, 0.1), np.full(7, 0.3))
    assert (constant.d_z, constant.d_av, constant.corr_ab, constant.variance_ratio) == (None,) * 4
    assert intervals.cluster_mean(np.full(7, 0.1), np.arange(7), 7).design_effect is None


@pytest.mark.parametrize(
    ("differences", "codes", "p_method"),
    [([[1, -1, 1, -1], [-1, 1, -1, 1]], None, 1.0), ([[1, -1, 2, -2]], [0, 0, 1, 1], None)],
)
def test_differences_that_cancel_in_every_cluster(differences, codes, p_method):
    """No cluster is non-zero, so p is 1; but prompts do differ, so there is no interval to give."""
    found = infer(np.array(differences, float), codes and np.array(codes), binary=True)
    assert (found.estimate, found.checkpoint.p, found.method.p, found.checkpoint.ci) == (0, 1, p_method, None)
    assert found.flags == ("degenerate_zero_diff",)


def test_monte_carlo_counts_ties_at_zero_whatever_the_rounding():
    d = np.array([0.1, 0.2, -0.3] * 20)
    p, p_mid, _ = monte_carlo(np.abs(d), float(d.sum()), 4999, np.random.default_rng(0))
    values, counts = np.unique(np.abs(np.rint(10 * d)).astype(int), return_counts=True)
    assert p == 1
    assert p_mid == pytest.approx(lattice_p(values, counts, 0)[1], abs=0.01)


# --- plans and words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alfa": 0.05}, "unknown key 'alfa'"),
        ({"alpha": 5}, "key 'alpha'"),
        ({"primary_metric": "x"}, "'x' is not in 'metrics'"),
        ({"primary_scope": "both"}, "key 'primary_scope': must be one of method, checkpoint"),
        ({"primary_contrasts": ["C9"]}, "'C9' is not one of"),
        ({"monte_carlo": {"b": 1}}, "unknown key 'b'"),
        ({"metrics": {"m": {"kind": "binary"}}}, "metric 'm': key 'higher_is_better' is missing"),
        ({"metrics": {"m": {"kind": "count", "higher_is_better": True}}}, "metric 'm', key 'kind'"),
        ({"metrics": {"m": {"kind": "binary", "higher_is_better": True, "margin": 0}}}, "key 'margin'"),
        ({"metrics": {"m": {"kind": "binary", "higher_is_better": True, "bounds": [0, 2]}}}, "key 'bounds'"),
        ({"metrics": {"m": {"kind": "continuous", "higher_is_better": True, "step": 1}}}, "key 'step'"),
    ],
)
def test_plan_errors_name_the_key(change, message):
    plan = {"metrics": {"m": {"kind": "binary", "higher_is_better": True}}, "primary_metric": "m"}
    with pytest.raises(ContractError, match=message):
        read_plan(plan | change, question=QUESTION)


def test_contrasts_are_what_the_spec_says():
    c1, c3 = CONTRASTS["C1"], CONTRASTS["C3"]
    assert CONTRASTS["C7"] == {arm: c1.get(arm, 0) - c3.get(arm, 0) for arm in ("sft_dpo", "sft", "dpo_only", "base")}


def test_an_inconclusive_row_says_what_would_settle_it():
    words = str(Sentence(claim()))
    assert words == (
        "On pref_acc, SFT→DPO minus SFT is inconclusive: +5.0 points (95% CI −1.0 to +11.0 points; t test over prompts "
        "and seeds, p = 0.20 after Holm over 3 tests; n = 64 prompts, 3 seeds; a claim about the recipe, over prompts "
        "and training seeds). Whatever the other 2 tests give, a true difference of 9.0 points is found in 80% of such "
        "studies; 8 seeds at 64 prompts would find one of the margin, 3.0 points, as often."
    )


def test_words_of_the_other_verdicts():
    def words(**changes):
        return str(Sentence(claim(**{"alpha": 0.01, **changes})))

    better = words(p_adj=0.0001, ends=(0.01, 0.11))
    assert better.startswith("On pref_acc, SFT→DPO is better than SFT: +5.0 points (99% CI +1.0 to +11.0 points;")
    assert "the verdict follows the test" not in better
    assert "The interval includes zero, but the verdict follows the test." in words(p_adj=0.01)
    assert "The interval excludes zero since it is not adjusted" in words(ends=(0.001, 0.11))
    assert "p = 0.20, the only test of its family" in words(tests=1)
    ckpt = words(scope="checkpoint", ends=(-0.01, 0.1), detectable=0.02, seeds=1, clusters=9)
    assert "exact sign-flip test" in ckpt
    assert "n = 64 prompts in 9 clusters, one run of each; a claim about these checkpoints only" in ckpt
    assert "excluding a difference of the margin of 3.0 points takes more prompts or seeds all the same." in ckpt
    assert words(margin=None, target=None).endswith(
        "give, a true difference of 9.0 points is found in 80% of such studies."
    )
    assert " A true difference of 9.0 points is found in 80% of such studies; 8 seeds" in words(tests=1)
    both = words(more_seeds=None)
    assert both.endswith("to find one of the margin, 3.0 points, as often takes both more prompts and more seeds.")
    assert "+5.0 points, where lower is better (" in words(better_up=False)
    assert "p < 0.001" in words(p_adj=0.0001)
    assert words(estimate=-0.05, p_adj=0.01).startswith("On pref_acc, SFT→DPO is worse than SFT: ")
    assert "smaller than the margin of 3.0 points" in words(p_adj=0.01, p_tost_adj=0.01)
    equivalent = words(p_tost_adj=0.01)
    assert "SFT→DPO minus SFT is smaller than the margin of 3.0 points either way: +5.0 points" in equivalent
    assert "two one-sided tests of equivalence, p = 0.010 after Holm" in equivalent
    assert words(p_adj=None, flags=("descriptive",)).endswith(
        "; about the recipe, over prompts and training seeds); too few prompts to be tested, described only."
    )


def test_one_cluster_and_several_seeds_have_estimates_of_each_seed():
    """Nothing can be tested, but every seed has an estimate, also where categories are weighted equally."""
    d = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    found = infer(d, np.zeros(3, dtype=int))
    assert found.flags == ("too_few_clusters",)
    assert found.theta == pytest.approx((2 / 3, 1 / 3))
    assert found.same_sign == 2
    macro = infer(d, category=np.array([0, 0, 1]))
    assert macro.flags == ("category_of_one_cluster",)
    assert macro.theta == pytest.approx((0.75, 0.5))


def test_the_package_is_used_alone(tmp_path):
    """A copy of the folder, with the libraries that its own pyproject.toml names: no study, no arms, no torch."""
    shutil.copytree(PACKAGE, tmp_path / "paired", ignore=shutil.ignore_patterns("__pycache__"))
    rows = [f"{arm},p{i},acc,{int(i % 7 < right)}" for arm, right in (("old", 3), ("new", 5)) for i in range(35)]
    (tmp_path / "scores.csv").write_text("\n".join(["arm,prompt_id,metric,value", *rows]) + "\n")

    def paired(*arguments):
        command = [sys.executable, "-m", "paired", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""})

    done = paired("compare", "--table", "scores.csv", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "On acc, new is better than old: +28.6 points" in done.stdout
    assert "out: summary.md, tables as csv and parquet" in done.stdout
    assert "prompts decide in" in paired("power", "--margin", "0.05", "--difference", "0.2").stdout
    assert paired("freeze", "--plan", "out/plan.json", "--scores", "no", "--output", "lock.json").returncode == 0
    scores = ("--scores", "out/scores", "--prompts", "out/prompts.parquet", "--output", "again")
    assert paired("compare", "--plan", "out/plan.json", *scores, "--plan-lock", "lock.json").returncode == 0
    (tmp_path / "bare.json").write_text(
        '{"metrics": {"acc": {"kind": "binary", "higher_is_better": true}}, "primary_metric": "acc"}'
    )
    bare = paired("compare", "--plan", "bare.json", *scores)
    assert bare.returncode == 1
    assert bare.stderr.startswith("error: bare.json, key 'contrasts': must name at least one contrast")
    code = "import sys, paired.__main__; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "snakemake", "arms", "study", "display"} & set(ast.literal_eval(loaded.stdout))


def test_a_misspelt_name_is_an_error_and_no_empty_column():
    with pytest.raises(TypeError):
        Planning(taregt=1.0)
    with pytest.raises(ContractError, match="question: unknown key 'contrast'"):
        read_question({"contrast": {}})
    with pytest.raises(ContractError, match="question: 'C9' is not one of its contrasts"):
        read_question({"contrasts": {"C1": {"a": 1, "b": -1}}, "primary": ["C9"]})


def test_its_dependencies_are_what_it_imports():
    declared = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"]
    imported = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {re.match(r"[a-z]+", one)[0] for one in declared}


def test_what_docstrings_cite_is_written_down():
    """Every section of docs/statistics.md that a docstring names is there."""
    text = (PACKAGE.parents[1] / "docs/statistics.md").read_text()
    cited = {
        found
        for path in PACKAGE.glob("*.py")
        for found in re.findall(r"docs/statistics\.md, (?:section )?([0-9.]*[0-9])", path.read_text())
    }
    assert len(cited) > 3
    headings = set(re.findall(r"^#+ ([0-9.]*[0-9])\.? ", text, re.MULTILINE))
    assert cited <= headings
