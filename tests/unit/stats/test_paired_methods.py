"""The methods against second routes: enumeration, scipy, explicit matrices, duality, and the words they end in."""

import subprocess
import sys

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
from scipy import stats

from paired import adjust, intervals, power, proportions, verdict
from paired.contract import CONTRASTS, ContractError, read_plan
from paired.contrasts import random_generator
from paired.inference import infer
from paired.signflip import SMALLEST_P, enumeration, lattice_p, monte_carlo, saddlepoint, signflip, wilcoxon

RNG = np.random.default_rng(7)


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
    one = proportions.mcnemar(16, 6)
    assert (found.p_ckpt, found.p_ckpt_mid) == pytest.approx((one["p_exact"], one["p_mid"]), rel=1e-12)
    assert found.ci_ckpt_method == "tango"
    assert found.ci_ckpt == pytest.approx(proportions.tango_interval(16, 6, 62, 0.05))


def test_wilcoxon_is_exact_with_ties():
    d = RNG.integers(-4, 6, 14).astype(float)
    found = wilcoxon(d, zero_method="pratt")
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signed = ranks * np.sign(d[d != 0])
    assert found.p == pytest.approx(brute_force(signed)[0], rel=1e-10)
    assert wilcoxon(np.zeros(4)) is None


def test_cr2_equals_explicit_matrices():
    """V and df from the hat matrix: (I - H_cc)^-1/2 adjustments and the moments of the quadratic form."""
    codes = np.repeat(np.arange(5), [7, 3, 2, 1, 1])
    d, n = RNG.normal(0, 1, 14), 14
    residual = np.eye(n) - np.full((n, n), 1 / n)
    vectors = []
    for c in range(5):
        rows = np.flatnonzero(codes == c)
        values, basis = np.linalg.eigh(residual[np.ix_(rows, rows)])
        adjusted = basis @ np.diag(values**-0.5) @ basis.T
        vectors.append(residual[:, rows] @ adjusted @ np.full(len(rows), 1 / n))
    g = np.array(vectors).T
    variance = float(((g.T @ d) ** 2).sum())
    omega = g.T @ g
    found = intervals.cluster_mean(d, codes, 5)
    assert found.se_cr2**2 == pytest.approx(variance, rel=1e-10)
    assert found.df == pytest.approx(np.trace(omega) ** 2 / (omega**2).sum(), rel=1e-10)


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


def test_macro_weighting_is_the_mean_of_category_means():
    d = RNG.normal(0.2, 1, (3, 30))
    category = np.repeat([0, 1, 2], [20, 6, 4])
    found = infer(d, category=category)
    means = [d[:, category == c].mean(axis=0) for c in range(3)]
    assert found.estimate == pytest.approx(np.mean([m.mean() for m in means]))
    parts = np.array([m.var(ddof=1) / len(m) for m in means]) / 9
    assert found.se_ckpt**2 == pytest.approx(parts.sum())
    assert found.df_ckpt == pytest.approx(parts.sum() ** 2 / (parts**2 / np.array([19, 5, 3])).sum())
    assert "category_of_one_cluster" in infer(d, category=np.repeat([0, 1], [29, 1])).flags


def test_adjusted_p_leaves_nulls_alone():
    assert list(adjust.adjusted_p([0.02, np.nan, 0.03], "holm")) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert adjust.fcr_alpha(np.array([0.2, np.nan]), 0.05) is None


def test_required_prompts_and_seeds_detect_what_they_promise():
    design = power.Design(prompt=0.2, seed=4e-4, resid=0.05, df_share=1.0, n=200, n_seeds=5)
    n = design.prompts_required(0.05, 0.05, "method")
    assert design.detectable(n, 5, 0.05, "method") <= 0.05 < design.detectable(n - 1, 5, 0.05, "method")
    seeds = design.seeds_required(0.1, 0.05)
    assert design.detectable(200, seeds, 0.05, "method") <= 0.1
    assert design.prompts_required(0.01, 0.05, "method") is None, "seeds cannot be bought out with prompts"


def test_random_numbers_are_keyed_by_hypothesis():
    first, key = random_generator(1, "m/C1/overall")
    again, _ = random_generator(1, "m/C1/overall")
    other, other_key = random_generator(1, "m/C2/overall")
    assert first.integers(2**60) == again.integers(2**60) != other.integers(2**60)
    assert key != other_key


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
        read_plan(plan | change)


def test_contrasts_are_what_the_spec_says():
    c1, c3 = CONTRASTS["C1"], CONTRASTS["C3"]
    assert CONTRASTS["C7"] == {arm: c1.get(arm, 0) - c3.get(arm, 0) for arm in ("sft_dpo", "sft", "dpo_only", "base")}


def row(**changes):
    values = {
        "metric": "pref_acc", "group_kind": "overall", "group": "__all__", "estimate": 0.05, "n_prompts": 64,
        "n_clusters": 64, "n_seeds": 3, "n_nonzero": 20, "ci_method_lo": -0.01, "ci_method_hi": 0.11, "p_adj": 0.2,
        "gain": 0.05, "scope": "method", "p_ckpt_method": "lattice",
        "p_adj_method": "holm", "p_tost_adj": None, "margin": 0.03, "verdict": "inconclusive", "flags": [],
        "p_min_attainable": 1e-5, "mde_method": 0.09, "target_difference": 0.03, "n_required": None,
        "seeds_required": 8,
    }  # fmt: skip
    return values | changes


def test_an_inconclusive_row_says_what_would_settle_it():
    words = str(verdict.Sentence(row(), CONTRASTS["C1"], True, 0.05, 0.05, 3))
    assert words == (
        "On pref_acc, SFT→DPO minus SFT is inconclusive: +5.0 points (95% CI −1.0 to +11.0 points; t test over prompts "
        "and seeds, p = 0.20 after Holm over 3 tests; n = 64 prompts, 3 seeds; a claim about the recipe, over prompts "
        "and training seeds). Differences below 9.0 points are found in fewer than 80% of such studies; 8 seeds at 64 "
        "prompts would find a difference of the margin of 3.0 points with 80% power (before adjustment)."
    )


def test_words_of_the_other_verdicts():
    def words(**changes):
        return str(verdict.Sentence(row(**changes), CONTRASTS["C1"], True, 0.01, 0.05, changes.get("tests", 3)))

    better = words(verdict="superior", p_adj=0.0001, ci_method_lo=0.01)
    assert better.startswith("On pref_acc, SFT→DPO is better than SFT: +5.0 points (99% CI +1.0 to +11.0 points;")
    assert "the verdict follows the test" not in better
    assert "The interval includes zero, but the verdict follows the test." in words(verdict="superior", p_adj=0.01)
    assert "The interval excludes zero since it is not adjusted" in words(ci_method_lo=0.001)
    assert "p = 0.20, the only test of its family" in words(tests=1)
    ckpt = words(scope="checkpoint", ci_ckpt_lo=-0.01, ci_ckpt_hi=0.1, mde_ckpt=0.02, n_seeds=1, n_clusters=9)
    assert "exact sign-flip test" in ckpt
    assert "n = 64 prompts in 9 clusters, one run of each; a claim about these checkpoints only" in ckpt
    assert "excluding a difference of the margin of 3.0 points takes more prompts or seeds all the same." in ckpt
    assert "the adjustment for the other tests" in words(margin=None, target_difference=0.1)
    assert "+5.0 points, where lower is better (" in words(gain=-0.05)
    assert "p < 0.001" in words(verdict="superior", p_adj=0.0001)
    assert words(verdict="inferior", p_adj=0.01).startswith("On pref_acc, SFT→DPO is worse than SFT: ")
    assert "smaller than the margin of 3.0 points" in words(verdict="superior_negligible", p_adj=0.01)
    equivalent = words(verdict="equivalent", p_tost_adj=0.01)
    assert "SFT→DPO minus SFT is smaller than the margin of 3.0 points either way: +5.0 points" in equivalent
    assert "two one-sided tests of equivalence, p = 0.010 after Holm" in equivalent
    assert words(verdict="not_testable", flags=["descriptive"]).endswith("described only.")


def test_the_package_never_loads_torch_or_the_pipeline():
    code = "import sys, paired.contrasts; assert not {'torch', 'arms', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=sys.path[0], env={"PYTHONPATH": ":".join(sys.path)})
