"""`paired power`, with and without a study: its table, sentence and figure, what a pilot tells it, what it refuses."""

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import pandas as pd
from power import gpu_hours
from questions import CONTRASTS, QUESTION
from test_pooling import study

from paired import prospects
from paired.files import ContractError
from paired.forecast import Rule, chances, guess
from paired.pairwise_files import PAIRWISE_COLUMNS
from paired.pilot import guessed_model, pilot_model, rule_of
from paired.plan import read_plan

ROOT = Path(__file__).parents[3]
METRIC = {"m": {"kind": "binary", "higher_is_better": True, "margin": 0.05}}
PLAN = {"metrics": METRIC, "primary_metric": "m"}


def power(*arguments, **more):
    prospects.main([str(one) for one in arguments], question=QUESTION, **more)


def test_program_alone_gives_table_figure_and_sentence_in_under_a_minute(tmp_path):
    start = time.monotonic()
    command = [sys.executable, ROOT / "scripts/power.py", "--metric", "pass_rate", "--margin", "0.05"]
    command += ["--difference", "0.15", "--cost-difference", "0.05", "--design", "3x120", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60
    table = pd.read_parquet(tmp_path / "power.parquet")
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "power.csv", dtype={"gpu_hours": float}))
    assert len(table) == 4 * 6 + 1
    assert table[["p_go", "p_hold", "p_no_go"]].sum(axis=1).to_numpy() == pytest.approx(1)
    yours = table[(table["n_seeds"] == 3) & (table["n_prompts"] == 120)].iloc[0]
    assert f"3 seeds x 120 prompts end in GO in {yours['p_go']:.0%}" in done.stdout
    best = re.search(r"(\d+) seeds x (\d+) prompts decide in (\d+)% of such studies; 3 seeds never do", done.stdout)
    row = table[(table["n_seeds"] == int(best[1])) & (table["n_prompts"] == int(best[2]))].iloc[0]
    assert row["p_decided"] == pytest.approx(int(best[3]) / 100, abs=0.005)
    assert row["p_decided"] >= 0.8
    assert table.loc[table["n_seeds"] == 3, "p_decided"].max() < 0.8
    assert (tmp_path / "power.md").read_text().count("%") > 24
    assert (tmp_path / "power.png").stat().st_size > 10_000
    assert (tmp_path / "power.svg").read_text().startswith("<?xml")


def test_two_models_without_a_question(capsys):
    """No rule: GO is "superior"; the chance is that of the t test over prompts and seeds."""
    prospects.main(["--metric", "acc", "--margin", "0.05", "--difference", "0.1", "--seeds", "5", "--prompts", "300"])
    shown = capsys.readouterr().out
    model = guess(
        {"tuned": 0.05, "base": -0.05}, frozenset(), variance=0.25, seed_sd=0.03, same_prompt=0.3, same_arm=0.4
    )
    expected = chances(model, Rule({"tuned": 1, "base": -1}, None, 0.05), 300, 5).decided
    assert float(re.search(r"\| 5 seeds \| (\d+)%", shown)[1]) / 100 == pytest.approx(expected, abs=0.02)
    assert "tuned - base truly +10.0 points; margin 5.0 points; seed SD of an arm 3.0 points" in shown


def test_a_pilot_tells_what_varies_and_nothing_of_differences(tmp_path):
    """Arms 20 and 40 points apart in the pilot: the forecast is that of the asked difference all the same."""
    scores = tmp_path / "scores"
    study(scores, dict.fromkeys(("sft", "sft_dpo", "dpo_only"), 0.3), {}, n=400, seeds=(1, 2, 3, 4, 5, 6))
    names = [f"p{i:03d}" for i in range(400)]
    prompts = pd.DataFrame({"prompt_id": names, "prompt_sha256": names, "category": "c", "cluster_id": names})
    prompts.assign(split="heldout").to_parquet(tmp_path / "prompts.parquet")
    plan = read_plan(PLAN, question=QUESTION)
    model = pilot_model(plan, [scores], str(tmp_path / "prompts.parquet"), None)
    table = pd.read_parquet(scores / "metric=m/part-0.parquet")
    cube = {
        arm: own.pivot(index="train_seed", columns="prompt_id", values="value").to_numpy()
        for arm, own in table.groupby("arm")
    }
    between = np.mean([cube[arm].mean(axis=1).var(ddof=1) for arm in ("sft", "sft_dpo", "dpo_only")])
    sd = model.seed[1, 1] ** 0.5
    assert between - 0.25 / 400 < sd**2 < between
    assert model.seed[0, 0] == 0, "the base has no seeds"
    assert not model.mean.any()
    d = cube["sft_dpo"] - cube["sft"]
    weights = np.array([CONTRASTS["C1"].get(arm, 0) for arm in model.arms])
    observed = d.mean(axis=0).var(ddof=1)
    assert weights @ (model.prompt + np.diag(model.rest) / 6) @ weights == pytest.approx(observed, rel=1e-9)
    guessed = pilot_model(plan, [scores], str(tmp_path / "prompts.parquet"), 0.08)
    assert guessed.seed[1, 1] == pytest.approx(0.08**2)


def judgements(folder, seeds, pairs):
    """40 prompts, both orders: the pilot's files and its prompts."""
    rng = np.random.default_rng(0)
    rows = [
        (*order, seed, f"p{i:03d}", 0, rng.choice([0, 0.5, 1]), "ok", None, None)
        for pair, seed, i in itertools.product(pairs, seeds, range(40))
        for order in (pair, pair[::-1])
    ]
    (folder / "scores/metric=m").mkdir(parents=True)
    pd.DataFrame(rows, columns=list(PAIRWISE_COLUMNS)).to_parquet(folder / "scores/metric=m/part-0.parquet")
    names = [f"p{i:03d}" for i in range(40)]
    prompts = pd.DataFrame({"prompt_id": names, "prompt_sha256": names, "category": "c", "cluster_id": names})
    prompts.assign(split="heldout").to_parquet(folder / "prompts.parquet")
    plan = json.dumps(PLAN | {"metrics": {"m": METRIC["m"] | {"kind": "pairwise"}}})
    return "--plan", plan, "--scores", folder / "scores", "--prompts-file", folder / "prompts.parquet"


C1, C2 = ("sft_dpo", "sft"), ("sft_dpo", "dpo_only")


def test_outcomes_of_pairs_are_planned_for_too(tmp_path, capsys):
    power(*judgements(tmp_path, (1, 2, 3), (C1, C2)), "--design", "3x40", "--difference", "0.3")
    shown = capsys.readouterr().out
    assert "3 seeds x 40 prompts end in GO in " in shown
    assert re.search(r"seed SD of an arm's share of wins \d\.\d points; variances of the pilot", shown)
    power("--pairwise", "--margin", "0.05", "--seed-sd", "0.02", "--seeds", "3", "--prompts", "100")
    assert "seed SD of an arm's share of wins 2.0 points; variances guessed" in capsys.readouterr().out


def test_guesses_for_pairs_are_those_of_net_win_rates():
    """Without ties a net win rate of 0 has variance 1; C1 and C2 share one of two arms that vary with the seed."""
    plan = read_plan(PLAN | {"metrics": {"m": METRIC["m"] | {"kind": "pairwise"}}}, question=QUESTION)
    model = guessed_model(plan, variance=0.25, seed_sd=0.03, same_prompt=0.3, same_arm=0.4)
    assert model.arms == ("C1", "C2")
    assert model.prompt.diagonal() + model.rest == pytest.approx([1, 1])
    assert model.seed == pytest.approx(np.array([[1, 0.5], [0.5, 1]]) * 0.06**2)
    assert (rule_of(plan).gain, rule_of(plan).cost) == ({"C1": 1}, {"C2": 1})


def test_a_pilot_of_pairs_that_tells_too_little_says_so(tmp_path):
    with pytest.raises(ContractError, match="no judgement of C2, by which the plan decides"):
        power(*judgements(tmp_path / "a", (1, 2, 3), (C1,)))
    with pytest.raises(ContractError, match="one training seed, which tells nothing of how seeds vary; add --seed-sd"):
        power(*judgements(tmp_path / "b", (1,), (C1, C2)))


def test_clusters_of_a_pilot_are_seen(tmp_path):
    """Prompts that come in fours with the same scores: their differences are wholly correlated."""
    scores = tmp_path / "scores"
    study(scores, dict.fromkeys(("sft", "sft_dpo", "dpo_only"), 0.0), {}, n=60)
    path = scores / "metric=m/part-0.parquet"
    one = pd.read_parquet(path)
    four = pd.concat([one.assign(prompt_id=one["prompt_id"] + f"-{k}") for k in range(4)])
    four.to_parquet(path)
    names = sorted(four["prompt_id"].unique())
    prompts = pd.DataFrame({"prompt_id": names, "prompt_sha256": names, "category": "c", "split": "heldout"})
    prompts.assign(cluster_id=prompts["prompt_id"].str[:4]).to_parquet(tmp_path / "prompts.parquet")
    model = pilot_model(read_plan(PLAN, question=QUESTION), [scores], str(tmp_path / "prompts.parquet"), None)
    assert model.correlation == pytest.approx(1, abs=0.02)


def test_a_finished_study_is_its_own_pilot_without_its_other_recipes(tmp_path):
    """Through the program, as the rule calls it: one file for each run, a variant's beside them."""
    folder = tmp_path / "results"
    study(folder / "all", dict.fromkeys(("sft", "sft_dpo", "dpo_only"), 0.3), {}, n=100)
    table = pd.read_parquet(folder / "all/metric=m/part-0.parquet")
    (folder / "scores/metric=m").mkdir(parents=True)
    for (arm, seed), own in table.groupby(["arm", "train_seed"]):
        for label in ("", "-beta~0.3") if arm.endswith(("dpo", "only")) else ("",):
            run = "base" if seed < 0 else f"{arm}{label}-seed{seed}"
            own.to_parquet(folder / f"scores/metric=m/part-{run}.parquet")
    names = [f"p{i:03d}" for i in range(100)]
    prompts = pd.DataFrame({"prompt_id": names, "prompt_sha256": names, "category": "c", "cluster_id": names})
    (folder / "data").mkdir()
    prompts.assign(split="heldout").to_parquet(folder / "data/prompts.parquet")
    command = [sys.executable, ROOT / "scripts/power.py", "--study", folder, "--plan", json.dumps(PLAN)]
    command += ["--design", "3x100", "--difference", "0.2"]
    before = subprocess.run(command, capture_output=True, text=True)
    assert "variances guessed" in before.stdout, before.stderr
    (folder / "stats").mkdir()
    (folder / "stats/decision.json").write_text("{}")
    after = subprocess.run(command, capture_output=True, text=True)
    assert "variances of the pilot" in after.stdout, after.stderr
    sd = float(re.search(r"seed SD of an arm (\d+\.\d) points", after.stdout)[1])
    model = pilot_model(read_plan(PLAN, question=QUESTION), [folder / "all"], folder / "data/prompts.parquet", None)
    assert sd == pytest.approx(100 * model.seed[1, 1] ** 0.5, abs=0.05)


def test_one_seed_tells_nothing_of_seeds(tmp_path):
    scores = tmp_path / "scores"
    study(scores, dict.fromkeys(("sft", "sft_dpo", "dpo_only"), 0.0), {}, seeds=(1,))
    names = [f"p{i:03d}" for i in range(80)]
    prompts = pd.DataFrame({"prompt_id": names, "prompt_sha256": names, "category": "c", "cluster_id": names})
    prompts.assign(split="heldout").to_parquet(tmp_path / "prompts.parquet")
    given = ("--plan", json.dumps(PLAN), "--scores", scores, "--prompts-file", tmp_path / "prompts.parquet")
    with pytest.raises(ContractError, match="tells nothing of how seeds vary; add --seed-sd"):
        power(*given)
    power(*given, "--seed-sd", "0.02", "--seeds", "3", "--prompts", "100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--margin", "0"), "0 is not a positive number"),
        (("--margin", "0.05", "--design", "3"), "'3' is not SEEDSxPROMPTS, such as 3x200"),
        (("--margin", "0.05", "--same-prompt", "0.9"), "--same-prompt at most --same-arm"),
        (("--margin", "0.05", "--scores", "x"), "--scores, --prompts-file and --plan belong together"),
        (("--plan", "{}", "--margin", "0.05"), "--plan has it already"),
        (("--margin", "0.05", "--seeds", "0"), "--seeds must be 1 or more"),
    ],
)
def test_flags_that_make_no_sense_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        power(*arguments)
    assert message in capsys.readouterr().err


def test_no_margin_and_no_difference_is_one_clear_error():
    with pytest.raises(ContractError, match="the plan has no margin of acc"):
        power("--metric", "acc")
    with pytest.raises(ContractError, match="decides by C1 and C2, which the plan does not hold"):
        power("--plan", json.dumps(PLAN | {"contrasts": {"a": {"sft": 1, "base": -1}}}))


def manifest(folder, name, rule, seconds, device="NVIDIA H100", **wildcards):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"rule": rule, "wildcards": wildcards, "machine": {"device": device}, "wall_seconds": seconds}
    path.write_text(json.dumps(facts))


def test_gpu_hours_are_wall_time_times_gpus_of_what_grows(tmp_path):
    """Two seeds: training 1 h on four GPUs, base table 0.5 h; held-out answers of a seed 2 h, of the base 1 h."""
    for seed in ("1", "2"):
        run = f"sft-seed{seed}"
        manifest(tmp_path, f"{run}/train.manifest.json", "train_sft", 3600, seed=seed)
        (tmp_path / run / "observed.json").write_text('{"processes": 4}')
        manifest(tmp_path, f"{run}/train_logps.manifest.json", "score_pairs", 1800, run=run, split="train")
        manifest(tmp_path, f"{run}/generations.manifest.json", "generate", 7200, run=run)
        manifest(tmp_path, f"{run}/part.manifest.json", "grade", 7200, None, run=run)
    manifest(tmp_path, "base/generations.manifest.json", "generate", 3600, run="base")
    hours = gpu_hours(tmp_path, 100)
    assert hours(2, 100) == pytest.approx(2 * (4 + 0.5 + 2) + 1)
    assert hours(5, 300) == pytest.approx(5 * (4 + 0.5 + 6) + 3)


def test_no_gpu_no_hours(tmp_path):
    manifest(tmp_path, "sft-seed1/train.manifest.json", "train_sft", 3600, "cpu", seed="1")
    assert gpu_hours(tmp_path, 100) is None
    assert gpu_hours(tmp_path / "nothing", 100) is None
