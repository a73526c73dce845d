"""Pairwise outcomes: closed forms, simulation, and errors that name the user's line."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

from questions import CONTRASTS, QUESTION
from scipy.special import expit
from scipy.stats import binomtest

from paired import compare
from paired.files import ContractError
from paired.forecast import Rule, chances, with_differences
from paired.pairwise import preference, strengths
from paired.pilot import pilot_model
from paired.plan import read_plan
from paired.scopes import infer

WEIGHTS = {"new": 1, "old": -1}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(rows, *more, output="out"):
    """The command on a table: (contrasts by hypothesis, preferences by contrast, strengths by arm, summary)."""
    pd.DataFrame(rows).to_csv("judged.csv", index=False)
    compare.main(["--pairwise", "judged.csv", "--output", output, *map(str, more)])
    tables = [pd.read_parquet(Path(output) / f"{name}.parquet") for name in ("contrasts", "preferences", "strengths")]
    for table, key in zip(tables, ("hypothesis_id", "contrast", "arm"), strict=True):
        table.index = table[key]
    return *tables, (Path(output) / "summary.md").read_text()


def both_orders(prompt, outcomes, pair=("old", "new"), **more):
    """Two rows: the outcome for `new` ("win", "tie", "loss") when it is shown second, and when it is shown first."""
    old, new = pair
    winner = {"win": "b", "tie": "tie", "loss": "a"}[outcomes[0]], {"win": "a", "tie": "tie", "loss": "b"}[outcomes[1]]
    row = {"prompt_id": prompt} | more
    return [
        row | {"arm_a": old, "arm_b": new, "winner": winner[0]},
        row | {"arm_a": new, "arm_b": old, "winner": winner[1]},
    ]


def table(*counts, **more):
    """Prompts by their outcomes in both orders: (("win", "win"), 12), ..."""
    outcomes = [pair for pair, count in counts for _ in range(count)]
    return [row for i, pair in enumerate(outcomes) for row in both_orders(f"p{i:03d}", pair, **more)]


def judged(first, second, value, prompt, length=None):
    """Judgements as `read_judgements` gives them."""
    n = len(value)
    lengths = (np.full(n, np.nan),) * 2 if length is None else length
    frame = {"arm_a": first, "arm_b": second, "train_seed": -1, "sample_idx": 0, "value": value, "status": "ok"}
    more = {"prompt": prompt, "cluster": prompt, "length_a": lengths[0], "length_b": lengths[1]}
    return pd.DataFrame(frame | more)


def test_net_win_rate_position_and_agreement_in_closed_form():
    rows, prefs, none, words = run(
        table(
            (("win", "win"), 14), (("loss", "loss"), 6), (("win", "loss"), 3), (("loss", "win"), 9), (("tie", "tie"), 8)
        )
    )
    row, shown = rows.loc["preference/new − old/overall"], prefs.loc["new − old"]
    assert (row["kind"], row["n_prompts"], row["scope"]) == ("pairwise", 40, "checkpoint")
    assert row["estimate"] == pytest.approx((14 - 6) / 40), "orders that disagree cancel"
    assert (row["mean_pos"], row["mean_neg"]) == (pytest.approx(0.6), pytest.approx(0.4))
    assert row["p_ckpt"] == pytest.approx(binomtest(14, 20).pvalue), "prompts in which nobody won twice say nothing"
    assert (shown["wins"], shown["ties"], shown["losses"]) == (14 * 2 + 12, 16, 6 * 2 + 12)
    assert (shown["both_orders"], shown["order_agreement"]) == (1, pytest.approx(28 / 40))
    # First place wins both orders' worth in 9 prompts, loses it in 3.
    assert shown["position_bias"] == pytest.approx((9 - 3) / 40)
    assert "the answer shown first won +15.0 points (95% CI " in words
    assert "On preference, new minus old is inconclusive: +20.0 points (95% CI " in words
    assert none.empty, "two models have no ranking"


def test_a_judge_who_always_takes_the_first_prefers_nobody():
    rows, prefs, *_ = run(table((("loss", "win"), 30)))
    assert (rows["estimate"].iloc[0], rows["p_ckpt"].iloc[0]) == (0, 1)
    shown = prefs.iloc[0]
    assert (shown["order_agreement"], shown["position_bias"]) == (0, 1)
    assert pd.isna(shown["position_lo"]), "no variation, no interval"


def test_swapping_the_places_in_every_row_swaps_the_bias_and_nothing_else():
    given = table((("win", "win"), 14), (("loss", "win"), 6), (("win", "tie"), 5), (("loss", "tie"), 9))
    swapped = [
        row | {"arm_a": row["arm_b"], "arm_b": row["arm_a"], "winner": {"a": "b", "b": "a"}.get(row["winner"], "tie")}
        for row in given
    ]
    plan = {"metrics": {"preference": {"kind": "pairwise", "higher_is_better": True}}, "primary_metric": "preference"}
    Path("plan.json").write_text(json.dumps(plan | {"contrasts": {"C": WEIGHTS}, "primary_scope": "checkpoint"}))
    one, two = run(given, "--plan", "plan.json"), run(swapped, "--plan", "plan.json")
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1]["position_bias"].iloc[0] == pytest.approx(-two[1]["position_bias"].iloc[0])
    assert one[1]["order_agreement"].iloc[0] == two[1]["order_agreement"].iloc[0]


def test_seeds_are_carried_and_clusters_held_together():
    rng = np.random.default_rng(4)
    outcomes = rng.choice(["win", "tie", "loss"], p=[0.5, 0.2, 0.3], size=(4, 30, 2))
    rows = [
        row
        for seed, i in itertools.product(range(4), range(30))
        for row in both_orders(f"p{i:02d}", outcomes[seed, i], train_seed=seed + 1, cluster_id=f"c{i // 2}")
    ]
    found = run(rows)[0].iloc[0]
    net = np.select([outcomes == "win", outcomes == "loss"], [1.0, -1.0]).mean(axis=2)
    expected = infer(net, np.arange(30) // 2, lattice=16.0)
    assert (found["scope"], found["n_seeds"], found["n_clusters"]) == ("method", 4, 15)
    assert found["estimate"] == pytest.approx(expected.estimate)
    assert found["p_method"] == pytest.approx(expected.method.p)
    assert found["p_ckpt"] == pytest.approx(expected.checkpoint.p)
    assert [found["ci_method_lo"], found["ci_method_hi"]] == pytest.approx(list(expected.method.ci))


def round_robin(wins, n=15):
    """Both orders of each pair n times on prompts of their own; wins: pair -> how often its first arm wins."""
    rows, i = [], 0
    for (one, other), won in wins.items():
        for k in range(n):
            outcome = "win" if k < won else "loss"
            rows += both_orders(f"p{(i := i + 1):03d}", (outcome, outcome), pair=(other, one))
    return rows


def test_bradley_terry_in_closed_form():
    """Strengths 4 : 2 : 1 give chances 2/3, 4/5 and 2/3; data with just these shares have just these strengths."""
    _, _, found, _ = run(round_robin({("four", "two"): 10, ("four", "one"): 12, ("two", "one"): 10}))
    assert found["strength"].to_dict() == pytest.approx({"four": math.log(2), "one": -math.log(2), "two": 0}, abs=1e-6)
    assert found["first_advantage"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert ((found["ci_lo"] < found["strength"]) & (found["strength"] < found["ci_hi"])).all()
    assert found["n_judgements"].tolist() == [60, 60, 60]


def test_bradley_terry_says_why_there_is_no_strength():
    _, _, found, _ = run(round_robin({("four", "two"): 15, ("four", "one"): 15, ("two", "one"): 10}))
    assert found["strength"].isna().all()
    assert (found["note"] == "some arms never win or tie against the others, so no finite strength fits").all()


def test_the_advantage_of_the_first_place_and_strengths_are_told_apart():
    """Simulated by the model itself: strengths 0.8, 0, -0.8 and 0.6 for the first place; 300 studies of 120 prompts."""
    truth, first = {"x": 0.8, "y": 0.0, "z": -0.8}, 0.6
    covered, found_first = 0, []
    for number in range(300):
        rng = np.random.default_rng(number)
        pairs = list(itertools.permutations(truth, 2))
        a, b = (np.array([pair[k] for pair in pairs] * 120) for k in (0, 1))
        prompt = np.repeat(np.arange(120), len(pairs))
        chance = expit([truth[one] - truth[other] + first for one, other in zip(a, b, strict=True)])
        rows = list(strengths(judged(a, b, (rng.random(len(a)) < chance).astype(float), prompt), "m", 0.05))
        covered += sum(row.ci_lo < truth[row.arm] < row.ci_hi for row in rows)
        found_first.append(rows[0].first_advantage)
    assert 0.93 <= covered / 900 <= 0.97
    assert np.mean(found_first) == pytest.approx(first, abs=0.03)


def test_length_control_recovers_what_is_left_at_equal_length():
    """A judge who likes long answers, and a model that only writes longer: a high net win rate, at equal length 0."""
    covered, raw = 0, []
    for number in range(300):
        rng = np.random.default_rng(number)
        n = 200
        longer = rng.normal(60, 80, n)
        won = (rng.random(n) < expit(1.5 * np.tanh(longer / longer.std()))).astype(float)
        old = np.full(n, 300.0)
        frame = judged(np.full(n, "new"), np.full(n, "old"), won, np.arange(n), (old + longer, old))
        row = preference(frame, "m", "C", WEIGHTS, 0.05)
        covered += row.equal_length_lo < 0 < row.equal_length_hi
        raw.append(2 * won.mean() - 1)
    assert np.mean(raw) > 0.25
    assert 0.92 <= covered / 300 <= 0.98


def test_length_and_position_say_why_they_are_not_known():
    rows = [{"prompt_id": f"p{i}", "arm_a": "old", "arm_b": "new", "winner": "ab"[i % 2]} for i in range(12)]
    _, prefs, _, words = run(rows)
    assert "length_a and length_b are not given" in prefs["note"].iloc[0]
    assert "each in one order of presentation only, so a bias of position cannot be told from a difference" in words
    rows = [row | {"length_a": 10, "length_b": 10} for row in rows]
    assert "do not differ in length" in run(rows)[1]["note"].iloc[0]


def test_judgements_that_failed_are_counted_and_left_out():
    rows = table((("win", "win"), 10), (("loss", "loss"), 10))
    rows[3] |= {"winner": "", "status": "judge_fail"}
    found, _, _, words = run(rows)
    assert found["n_prompts"].iloc[0] == 19
    assert "Failed outputs of preference: new − old 1 of 20 (1 judge_fail). 1 of 20 prompts left out" in words


def test_pairwise_beside_scores_of_a_study(tmp_path):
    """In one plan with other metrics, and outside a plan: an exploratory family."""
    compare.main(["--pairwise", write(table((("win", "win"), 14), (("loss", "loss"), 10))), "--output", "judged"])
    prompts = pd.read_parquet("judged/prompts.parquet")["prompt_id"]
    rng = np.random.default_rng(0)
    scores = [
        {"arm": arm, "prompt_id": name, "metric": "acc", "value": rng.integers(2)}
        for arm in WEIGHTS
        for name in prompts
    ]
    pd.DataFrame(scores).to_csv("scores.csv", index=False)
    compare.main(["--table", "scores.csv", "--output", "scored"])
    (Path("judged/scores/metric=preference")).rename("scored/scores/metric=preference")
    arguments = ["--scores", "scored/scores", "--prompts", "scored/prompts.parquet", "--output", "both"]
    compare.main(["--plan", "scored/plan.json", *arguments])
    rows = pd.read_parquet("both/contrasts.parquet").set_index("metric")
    assert rows["family"].to_dict() == {"acc": "primary", "preference": "exploratory"}
    plan = json.loads(Path("scored/plan.json").read_text())
    plan["metrics"]["preference"] = {"kind": "pairwise", "higher_is_better": True, "margin": 0.1, "role": "guardrail"}
    Path("plan.json").write_text(json.dumps(plan))
    compare.main(["--plan", "plan.json", *arguments])
    rows = pd.read_parquet("both/contrasts.parquet").set_index("metric")
    assert rows["family"].to_dict() == {"acc": "primary", "preference": "secondary"}
    assert rows.loc["preference", "p_noninferior"] > 0


def write(rows):
    pd.DataFrame(rows).to_csv("judged.csv", index=False)
    return "judged.csv"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"winner": "new"}, "column 'winner' holds 'new' with status 'ok'; write a, b, tie, or leave it empty"),
        ({"winner": ""}, "column 'winner' holds None with status 'ok'"),
        ({"status": "error"}, "column 'winner' holds '.+' with status 'error'"),
        ({"status": "empty"}, "column 'status' holds 'empty'.*a model that gave no answer has lost"),
        ({"arm_b": "old", "arm_a": "old"}, "arm_a and arm_b are both 'old'; two models are compared"),
        ({"prompt_id": ""}, "column 'prompt_id' is empty"),
        ({"train_seed": "1.5"}, "column 'train_seed' holds '1.5', must be a whole number"),
        ({"length_a": "long"}, "column 'length_a' holds 'long', which is no finite number"),
        ({"prompt_id": "p001"}, "a second judgement of the one in judged.csv, line 5"),
        ({"category": "maths"}, "prompt_id 'p002' has another category, cluster or prompt_sha256"),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_an_odd_cell_names_the_users_line(cells, message):
    rows = table((("win", "loss"), 12))
    rows[5] |= cells
    with pytest.raises(ContractError, match=f"^judged.csv, line 7: {message}"):
        run(rows)
    assert not Path("out").exists()


def test_a_part_of_a_contrast_that_is_not_judged():
    rows = [r for seed in (1, 2, 3) for r in table((("win", "loss"), 6), train_seed=seed)]
    gap = [row for row in rows if (row["train_seed"], row["prompt_id"]) != (2, "p003")]
    with pytest.raises(ContractError, match="new − old: no judgement of prompt p003, train_seed 2, sample 0"):
        run(gap)
    more = [
        r
        for seed in (1, 2)
        for i in range(6)
        for r in both_orders(f"p{i:03d}", ("win", "tie"), ("old", "mid"), train_seed=seed)
    ]
    with pytest.raises(ContractError, match=r"seed 3 of 'mid − old' is missing \('new − old' has it\).*--common-seeds"):
        run(rows + more)
    found, _, _, words = run(rows + more, "--common-seeds")
    assert (found["n_seeds"] == 2).all()
    assert "--common-seeds, preference: seed 3 of new; seed 3 of old left out" in words


def test_a_study_of_preferences_that_holds_says_what_go_takes():
    """The rule decides on net win rates as on scores; that arms share no seed variance is said."""
    rng = np.random.default_rng(1)
    rows = [
        row | {"train_seed": seed}
        for pair, seed, i in itertools.product((("sft", "sft_dpo"), ("dpo_only", "sft_dpo")), (1, 2, 3), range(40))
        for row in both_orders(f"p{i:03d}", rng.choice(["win", "tie", "loss"], 2, p=[0.5, 0.2, 0.3]), pair)
    ]
    metric = {"kind": "pairwise", "higher_is_better": True, "margin": 0.1, "role": "primary"}
    plan = {"metrics": {"preference": metric}, "primary_metric": "preference", "pool_seed_variance": True}
    Path("plan.json").write_text(json.dumps(plan | {"contrasts": {name: CONTRASTS[name] for name in ("C1", "C2")}}))
    pd.DataFrame(rows).to_csv("judged.csv", index=False)
    flags = ["--pairwise", "judged.csv", "--plan", "plan.json", "--output", "out"]
    compare.main(flags, question=QUESTION)
    decision = json.loads(Path("out/decision.json").read_text())
    assert decision["decision"] == "HOLD"
    takes = next(reason for reason in decision["reasons"] if "GO in 80% of such studies takes" in reason)
    seeds = int(re.search(r"about (\d+) seeds at 40 prompts", takes)[1])
    plan = read_plan(json.loads(Path("plan.json").read_text()), question=QUESTION)
    model = pilot_model(plan, ["out/scores"], "out/prompts.parquet", None)
    rule = Rule({"C1": 1}, {"C2": 1}, 0.1)
    model = with_differences(model, rule, 0.1)
    assert chances(model, rule, 40, seeds).go >= 0.8 > chances(model, rule, 40, seeds - 1).go
    assert "SEED VARIANCE NOT POOLED, though the plan asks for it: preference: judged in pairs" in decision["banner"]
