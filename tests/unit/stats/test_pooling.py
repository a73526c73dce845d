"""One seed variance for trained arms: its formula, its condition, and what a study says where the condition fails."""

import re

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import pandas as pd
import pyarrow as pa
from questions import CONTRASTS, QUESTION
from scipy import stats

from paired.analysis import analyse
from paired.files import ContractError
from paired.forecast import largest_share
from paired.intervals import half_width, interval
from paired.plan import read_plan
from paired.pooling import pool_seeds
from paired.rule import POOLING_LEVEL
from paired.summary import write_up

ARMS = ("sft", "sft_dpo", "dpo_only")
PLAN = {"metrics": {"m": {"kind": "binary", "higher_is_better": True, "margin": 0.05}}, "primary_metric": "m"}


def study(folder, sds, plan, n_samples=1, n=80, seeds=(1, 2, 3)):
    """The analysis of a small study of yes/no scores; sds: seed SD of each trained arm on the latent scale."""
    rng = np.random.default_rng(11)
    names = [f"p{i:03d}" for i in range(n)]
    difficulty, rows = rng.standard_normal(n), []
    for arm in ("base", *ARMS):
        for seed in [-1] if arm == "base" else seeds:
            shift = 0.2 + (0 if seed < 0 else sds[arm] * rng.standard_normal())
            for k in range(n_samples):
                values = difficulty + shift + rng.standard_normal(n) > 0
                rows += [(arm, seed, name, k, float(v), "ok", None) for name, v in zip(names, values, strict=True)]
    frame = pd.DataFrame(
        rows, columns=["arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256"]
    )
    (folder / "metric=m").mkdir(parents=True)
    frame = frame.astype({"gen_sha256": pd.StringDtype()})
    pa.parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "metric=m/part-0.parquet")
    prompts = pd.DataFrame({"prompt_id": names, "category": "c", "cluster_id": names, "split": "heldout"})
    prompts["prompt_sha256"] = names
    return analyse(read_plan(PLAN | plan, question=QUESTION), [folder], prompts)


def rows(study, table):
    return study.tables[table].to_pylist()


def test_component_is_the_mean_variance_with_fewer_degrees_than_arms_would_give():
    rng = np.random.default_rng(1)
    means = {arm: rng.normal(0.5, 0.03, 4) for arm in ARMS}
    pool = pool_seeds(means)
    pooled = np.mean([np.var(own, ddof=1) for own in means.values()])
    assert pool.component(CONTRASTS["C1"]) == pytest.approx((2 * pooled / 4, 6))
    assert pool.component(CONTRASTS["C3"]) == pytest.approx((pooled / 4, 6)), "the base has no seed to vary"
    assert pool.component(CONTRASTS["C7"]) == pytest.approx((3 * pooled / 4, 6))
    assert pool_seeds({"sft": np.array([0.1, 0.2])}).alike is False, "one arm has nothing to share"
    assert pool_seeds({arm: own[:1] for arm, own in means.items()}) is None
    assert pool_seeds({arm: np.ones(3) for arm in ARMS}).alike


@pytest.mark.parametrize(("n_seeds", "n_arms"), [(2, 3), (3, 3), (5, 3), (3, 2), (4, 5)])
def test_cochrans_test_has_its_level(n_seeds, n_arms):
    rng = np.random.default_rng(n_seeds * n_arms)
    draws = rng.standard_normal((2000, n_arms, n_seeds))
    p = np.array([pool_seeds(dict(enumerate(one))).p_equal for one in draws])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 2000))


def test_cochrans_p_by_a_second_route():
    """At the share that the forecast takes for its limit, p is the level; scipy's beta distribution agrees."""
    for n_seeds in (2, 3, 8):
        share = largest_share(3, n_seeds, POOLING_LEVEL)
        assert 3 * stats.beta.sf(share, (n_seeds - 1) / 2, n_seeds - 1) == pytest.approx(POOLING_LEVEL, rel=1e-6)


def test_pooled_study_has_the_pooled_interval(tmp_path):
    given = study(tmp_path / "a", dict.fromkeys(ARMS, 0.1), {"pool_seed_variance": True})
    plain = study(tmp_path / "b", dict.fromkeys(ARMS, 0.1), {})
    spread = [row for row in rows(given, "seed_spread") if row["group"] == "__all__"]
    assert {row["pooled"] for row in spread} == {"yes"}
    v_seed = np.mean([row["sd_seed"] ** 2 for row in spread]) * 2 / 3
    for one, other in zip(rows(given, "contrasts"), rows(plain, "contrasts"), strict=True):
        assert one["p_ckpt"] == other["p_ckpt"], "the checkpoints do not care"
        if one["contrast"] in ("C1", "C2"):
            ends = interval(one["estimate"], [(one["V_prompt"], one["df_ckpt"]), (v_seed, 4)], 0.05)
            assert (one["ci_method_lo"], one["ci_method_hi"]) == pytest.approx(ends)
            assert one["V_seed"] == other["V_seed"], "what is observed stays what it was"
    assert "share one seed variance, as planned: m (p = " in given.decision["banner"]
    assert "seed variance" not in (plain.decision["banner"] or "")
    assert {row["pooled"] for row in rows(plain, "seed_spread")} == {"no: not in the plan"}


def test_an_arm_that_varies_alone_is_named_and_nothing_is_pooled(tmp_path):
    given = study(tmp_path / "a", {"sft": 0.0, "sft_dpo": 0.0, "dpo_only": 2.0}, {"pool_seed_variance": True})
    plain = study(tmp_path / "b", {"sft": 0.0, "sft_dpo": 0.0, "dpo_only": 2.0}, {})
    assert (
        "SEED VARIANCE NOT POOLED, though the plan asks for it: m: dpo_only varies more (p = "
        in given.decision["banner"]
    )
    for one, other in zip(rows(given, "contrasts"), rows(plain, "contrasts"), strict=True):
        assert one["p_method"] == other["p_method"]
        assert "seeds_not_pooled" in one["flags"]


def test_the_plans_key_is_checked():
    with pytest.raises(ContractError, match="'pool_seed_variance': must be true or false, found 'yes'"):
        read_plan(PLAN | {"pool_seed_variance": "yes"}, question=QUESTION)


def v_seed(found, row, pool):
    """The seed variance that a contrast's interval for the recipe rests on."""
    own = [one["sd_seed"] ** 2 for one in rows(found, "seed_spread")]
    return np.mean(own) * sum(arm != "base" for arm in CONTRASTS[row["contrast"]]) / 3 if pool else row["V_seed"]


@pytest.mark.parametrize(("pool", "samples"), [(False, 1), (True, 1), (False, 3)])
def test_dashboard_of_variation(tmp_path, pool, samples):
    found = study(tmp_path, dict.fromkeys(ARMS, 0.3), {"pool_seed_variance": pool}, samples)
    contrasts = {row["contrast"]: row for row in rows(found, "contrasts")}
    for contrast in ("C1", "C3", "C4"):
        own = {row["source"]: row for row in rows(found, "variation") if row["contrast"] == contrast}
        assert sum(row["share"] or 0 for row in own.values()) == pytest.approx(1)
        scope = "method" if contrast != "C4" else "checkpoint"
        assert {row["scope"] for row in own.values()} == {scope}
        name = "ckpt" if scope == "checkpoint" else scope
        row = contrasts[contrast]
        half = (row[f"ci_{name}_hi"] - row[f"ci_{name}_lo"]) / 2
        whole = row["V_prompt"] > row["V_resid"] and (
            scope == "checkpoint" or v_seed(found, row, pool) > row["V_resid"]
        )
        assert own["prompts"]["half_width"] == (pytest.approx(half) if whole else pytest.approx(half, rel=0.05))
        for source in ("prompts", "seeds", *(["samples"] if samples > 1 else [])):
            assert own[source]["half_width_one_more"] <= own[source]["half_width"] * (1 + 1e-12), source
        if samples > 1:
            assert own["samples"]["share"] > 0.1, "the noise of a yes/no answer is large"
        else:
            assert (own["samples"]["share"], own["samples"]["half_width_one_more"]) == (None, None)
    c1 = {row["source"]: row for row in rows(found, "variation") if row["contrast"] == "C1"}
    if not pool and samples == 1:
        one = contrasts["C1"]
        sd2, resid = 3 * max(one["V_seed"] - one["V_resid"], 0), one["V_resid"] * 3
        v_prompt = one["V_prompt"] - one["V_resid"] + resid / 4
        expected = half_width([(v_prompt, 79), (sd2 / 4 + resid / 4, 3)], 0.05)
        assert c1["seeds"]["half_width_one_more"] == pytest.approx(expected)


def test_a_hold_says_what_go_takes_by_the_rule_that_decides(tmp_path):
    found = study(tmp_path, dict.fromkeys(ARMS, 0.05), {"pool_seed_variance": True}, n=60)
    assert found.decision["decision"] == "HOLD"
    said = next(reason for reason in found.decision["reasons"] if reason.startswith("if C1 is truly +5.0 points"))
    assert re.search(
        r"GO in 80% of such studies takes about \d+ prompts at 3 seeds|both more prompts and more seeds", said
    )
    no_margin = study(
        tmp_path / "b", dict.fromkeys(ARMS, 0.05), {"metrics": {"m": {**PLAN["metrics"]["m"], "margin": None}}}
    )
    assert not any("GO in 80%" in reason for reason in no_margin.decision["reasons"])


def test_every_interval_of_the_summary_has_its_scope(tmp_path):
    text = write_up(study(tmp_path, dict.fromkeys(ARMS, 0.1), {}))
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert header.endswith("| verdict | claim about |")
    abouts = [line.split("|")[-2].strip() for line in lines]
    assert abouts == ["the recipe"] * 3 + ["these checkpoints"] * 4
    first = text.splitlines()[0]
    assert first.startswith("For this recipe, on m: ")
    assert "Benjamini-Hochberg, claims about these checkpoints: " in first
