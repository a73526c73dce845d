"""Odd input of one's own: an error that names file and line, or a result in which every row is explained."""

import contextlib
import itertools
import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

from questions import QUESTION
from test_compare import PLAN, make_study
from test_logs import LOGS, SEEDS, edit_samples, spoil

from paired import compare, freeze
from paired.analysis import analyse
from paired.files import ContractError, sha256_json
from paired.freeze import changes_on_record
from paired.plan import read_plan
from paired.prompts import read_prompts, shared_parents
from paired.question import read_question
from study.question import QUESTION as GIVEN

README = ("--lm-eval", "base=lm_eval/base", *SEEDS, "--metric", "exact_match", "acc")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, output="out"):
    """The command: (contrasts by hypothesis, decision, summary)."""
    compare.main([*map(str, arguments), "--output", output])
    rows = pd.read_parquet(Path(output) / "contrasts.parquet").set_index("hypothesis_id")
    decision = json.loads((Path(output) / "decision.json").read_text())
    return rows, decision, (Path(output) / "summary.md").read_text()


def table(seeds=("1", "2", "3"), n=8, arms=("old", "new"), metrics=("acc",)):
    """A tidy table of texts, as a csv holds it; line 2 is row 0."""
    rng = np.random.default_rng(3)
    return [
        {"arm": arm, "train_seed": seed, "prompt_id": f"p{i}", "sample_idx": "0", "metric": metric}
        | {"value": str(rng.integers(2)), "status": ""}
        for arm, seed, i, metric in itertools.product(arms, seeds, range(n), metrics)
    ]


def compare_table(rows, *more, suffix="csv", metric=("--metric", "acc")):
    frame = pd.DataFrame(rows)
    frame.to_csv("scores.csv", index=False) if suffix == "csv" else frame.to_parquet("scores.parquet")
    return run("--table", f"scores.{suffix}", *metric, *more)


def test_the_readme_example_with_one_seed_removed_one_nan_and_one_odd_value(here):
    shutil.copytree(LOGS / "lm_eval", "lm_eval")
    with pytest.raises(
        ContractError, match=r"^tuned has 2 training seeds \(1, 3\), and a claim about the recipe takes 3"
    ):
        run(*(part for part in README if not part.startswith("tuned:2")))
    for value, message in (
        (float("nan"), "exact_match is nan, which is no finite number"),
        ("yes", "exact_match is 'yes', which is no finite number"),
        (None, "exact_match is None, which is no finite number"),
        (2.0, "exact_match is 2, though 79 of its 80 values are 0 or 1; correct it.*--continuous exact_match"),
    ):
        shutil.rmtree("lm_eval")
        shutil.copytree(LOGS / "lm_eval", "lm_eval")
        edit_samples(
            "lm_eval/tuned-2", "sums", lambda rows, v=value: [*rows[:7], rows[7] | {"exact_match": v}, *rows[8:]]
        )
        with pytest.raises(ContractError, match=rf"^lm_eval/tuned-2/samples_sums_.*\.jsonl, line 8: {message}"):
            run(*README)
    assert not Path("out").exists()
    rows, *_ = run(*README, "--continuous", "exact_match")
    assert rows.loc["exact_match/tuned − base/overall", "kind"] == "continuous"


def test_two_seeds_of_each_model_take_a_word_about_scope(here):
    with pytest.raises(ContractError, match=r"old has 2 training seeds \(1, 2\).*--scope checkpoint"):
        compare_table(table(seeds="12"))
    rows, decision, _ = compare_table(table(seeds="12"), "--scope", "checkpoint")
    assert (rows["scope"].iloc[0], decision["primary_scope"]["planned"]) == ("checkpoint", "checkpoint")


def test_an_error_is_one_line_whatever_the_names_are(here):
    """Found by hypothesis: a model whose name begins with a line break."""
    rows = [f'"{arm}",{seed},p0,0,m,{value}' for arm in ("\nnew\x94", "old") for seed in (0, 1) for value in (seed,)]
    Path("scores.csv").write_text("\n".join(["arm,train_seed,prompt_id,sample_idx,metric,value", *rows]) + "\n")
    with pytest.raises(ContractError, match=r"^\\nnew\\x94 has 2 training seeds \(0, 1\)") as told:
        compare.main(["--table", "scores.csv", "--output", "out"])
    assert "\n" not in str(told.value)


def test_a_seed_that_one_model_lacks(here):
    rows = [row for row in table(arms=("old", "mid", "new")) if (row["arm"], row["train_seed"]) != ("mid", "2")]
    with pytest.raises(ContractError, match=r"^seed 2 of 'mid' is missing \('old', 'new' have it\); .*--common-seeds"):
        compare_table(rows)
    found, decision, words = compare_table(rows, "--common-seeds")
    assert "--common-seeds, acc: seed 2 of new; seed 2 of old left out, since not all models have them" in words
    assert "The plan asks for claims about the recipe, which need 3 training seeds; there are 2." in words
    assert decision["primary_scope"] == {"planned": "method", "used": "checkpoint"}
    assert all({"dropped_seeds", "scope_fallback"} <= set(flags) for flags in found["flags"])


ODD_CELLS = [
    ({"value": "nan"}, "column 'value' holds 'nan', which is no finite number"),
    ({"value": "inf"}, "column 'value' holds 'inf', which is no finite number"),
    ({"value": "1e999"}, "column 'value' holds '1e999', which is no finite number"),
    ({"value": "yes"}, "column 'value' holds 'yes', which is no finite number"),
    ({"value": "1_0"}, "column 'value' holds '1_0', which is no finite number"),
    ({"value": "1e308"}, "acc is 1e\\+308, though 47 of its 48 values are 0 or 1"),
    ({"value": "2"}, "acc is 2, though 47 of its 48 values are 0 or 1; correct it, or if acc is no yes/no metric"),
    ({"value": ""}, "column 'value' is empty; an output that failed needs a status \\(empty, truncated,"),
    ({"value": "1", "status": "error"}, "column 'value' holds 1.0 with status 'error'; leave it empty"),
    ({"value": "", "status": "lost"}, "column 'status' holds 'lost', must be one of ok, empty"),
    ({"train_seed": "1.5"}, "column 'train_seed' holds '1.5', must be a whole number from -1 on"),
    ({"train_seed": "one"}, "column 'train_seed' holds 'one', which is no finite number"),
    ({"train_seed": "1e20"}, "column 'train_seed' holds '1e20', must be a whole number"),
    ({"prompt_id": ""}, "column 'prompt_id' is empty"),
    ({"arm": ""}, "column 'arm' is empty"),
    ({"metric": ""}, "column 'metric' is empty"),
    ({"metric": "m" * 201}, "metric 'm{30}'...: its name has 201 bytes; shorten it to 200"),
    ({"sample_idx": "-1"}, "column 'sample_idx' holds '-1', must be a whole number from 0 on"),
    ({"sample_idx": "0.5"}, "column 'sample_idx' holds '0.5', must be a whole number from 0 on"),
    (
        {"prompt_id": "p1"},
        r"a second score of old:1 \(metric acc, item p1, sample 0\); the first is in scores.csv, line 3",
    ),
    ({"gen_sha256": "abc"}, "column 'gen_sha256' holds 'abc', no sha256"),
    ({"category": "maths"}, "prompt_id 'p5' has another category, cluster or prompt_sha256"),
]


@pytest.mark.parametrize(("cells", "message"), ODD_CELLS, ids=lambda x: ",".join(x) if isinstance(x, dict) else "")
def test_an_odd_cell_is_an_error_that_names_the_users_own_line(here, cells, message):
    rows = table()
    odd = 13 if "category" in cells else 5
    rows[odd] = rows[odd] | cells
    with pytest.raises(ContractError, match=rf"^scores.csv, line {odd + 2}: {message}"):
        compare_table(rows)
    assert not Path("out").exists(), "nothing derived is left behind"


def test_two_metrics_are_not_one_since_their_folders_would_be(here):
    rows = [row | {"metric": "match/all" if i % 2 else "match.all"} for i, row in enumerate(table())]
    with pytest.raises(ContractError, match=r"^scores.csv, line 3: metrics 'match.all' and 'match/all' would both be"):
        compare_table(rows)


def test_odd_cells_of_parquet(here):
    for cells, message in (
        ({"value": float("nan")}, "column 'value' holds nan, which is no finite number"),
        ({"value": float("inf")}, "column 'value' holds inf"),
        ({"prompt_id": None}, "column 'prompt_id' is empty"),
        ({"train_seed": 1.5}, "column 'train_seed' holds 1.5, must be a whole number"),
    ):
        rows = [row | {"value": float(row["value"]), "train_seed": float(row["train_seed"])} for row in table()]
        rows = [{key: value for key, value in row.items() if key not in ("status", "sample_idx")} for row in rows]
        rows[5] |= cells
        with pytest.raises(ContractError, match=f"^scores.parquet, row 6: {message}"):
            compare_table(rows, suffix="parquet")


def test_values_that_a_plan_forbids(here):
    """Also where a derived file would be the first to notice."""
    rows = table()
    compare_table(rows)
    rows[5]["value"] = "0.5"
    for change, message in (
        ({}, "0.5 in a binary metric, must be 0 or 1"),
        ({"kind": "ordinal", "step": 1, "bounds": None}, "0.5 is no multiple of the step 1"),
        ({"kind": "continuous", "step": None, "bounds": [0.6, 2]}, "0.* outside the bounds"),
    ):
        plan = json.loads(Path("out/plan.json").read_text())
        plan["metrics"]["acc"] |= change
        Path("plan.json").write_text(json.dumps(plan))
        with pytest.raises(ContractError, match=rf"^scores.csv, line \d+: acc is {message}"):
            compare_table(rows, "--plan", "plan.json", metric=())


def test_a_sample_number_that_leaves_a_gap(here):
    rows = table()
    rows[5]["sample_idx"] = "40000"
    message = r"^scores.csv, line 7: sample 40000 of old:1 \(metric acc, item p5\), but no sample 39999"
    with pytest.raises(ContractError, match=message):
        compare_table(rows)


def test_an_absent_row_or_metric_is_no_failed_output(here):
    with pytest.raises(
        ContractError, match=r"new:2 has no acc of item p5, sample 0, which old:1 has \(scores.csv, line 12\)"
    ):
        compare_table(
            [
                r
                for r in table(metrics=("acc", "f1"))
                if (r["arm"], r["train_seed"], r["prompt_id"], r["metric"]) != ("new", "2", "p5", "acc")
            ]
        )
    with pytest.raises(ContractError, match="new:1 has no acc on all, which old:1 has; what it has there: f1"):
        compare_table([r for r in table(metrics=("acc", "f1")) if (r["arm"], r["metric"]) != ("new", "acc")])


def test_doubled_lines_of_a_log_name_the_log(here):
    shutil.copytree(LOGS / "lm_eval", "lm_eval")
    edit_samples("lm_eval/base", "sums", lambda rows: [*rows, rows[4]])
    with pytest.raises(
        ContractError, match=r"^lm_eval/base/samples_sums_.*, line 21: a second score of base .*, line 5"
    ):
        run(*README)


def test_failed_outputs_of_a_table_count_by_the_rule(here):
    rows = table(n=40)
    rows[5] |= {"value": "", "status": "parse_fail"}
    rows[140] |= {"value": "", "status": "judge_fail"}
    found, _, words = compare_table(rows)
    assert "Failed outputs of acc: new 1 of 120 (1 judge_fail), old 1 of 120 (1 parse_fail)." in words
    assert "counts as 0, the worst value. 1 of 40 prompts left out for all models." in words
    assert found["n_prompts"].iloc[0] == 39


def test_a_metric_outside_the_plan_from_a_table(here):
    rows = table(n=30, metrics=("acc", "f1"))
    before, *_ = compare_table(rows)
    shutil.copy("out/plan.json", "plan.json")
    after, decision, _ = compare_table(rows, "--plan", "plan.json", metric=("--metric", "f1"))
    assert after.loc["f1/new − old/overall", "family"] == "exploratory"
    pd.testing.assert_frame_equal(after[after["metric"] == "acc"], before, check_dtype=False)
    assert "exploratory, in a family of their own, more taken as better: f1." in decision["banner"]


def test_categories_and_scores_without_variation_are_rows_with_a_reason(here):
    """A category of one prompt, one of one cluster, one that a metric lacks, and arms that never vary; three seeds."""
    rng = np.random.default_rng(8)
    kinds = {"many": 12, "alone": 1, "passage": 5}
    prompts = [
        (f"{kind}{i}", kind, "shared" if kind == "passage" else None) for kind, n in kinds.items() for i in range(n)
    ]
    rows = [
        {"arm": arm, "train_seed": seed, "prompt_id": name, "metric": metric, "category": kind, "cluster_id": cluster}
        | {"value": 1 if metric == "equal" else 0.1 * rng.integers(9) if arm == "new" or metric == "both" else 0.3}
        for arm, seed, metric in itertools.product(("old", "new"), (1, 2, 3), ("steady", "equal", "both"))
        for name, kind, cluster in prompts
        if not (metric == "steady" and kind == "passage")
    ]
    Path("plan.json").write_text(
        json.dumps(
            {
                "metrics": {
                    name: {"kind": "continuous", "higher_is_better": True} for name in ("steady", "equal", "both")
                },
                "primary_metric": "steady",
                "contrasts": {"C": {"new": 1, "old": -1}},
                "min_prompts_category": 1,
            }
        )
    )
    found, *_ = compare_table(rows, "--plan", "plan.json", metric=())
    whys = {
        name: sorted(set(flags) & {"too_few_clusters", "degenerate_zero_diff"})
        for name, flags in found["flags"].items()
    }
    assert whys == {
        "both/C/category=alone": ["too_few_clusters"],
        "both/C/category=many": [],
        "both/C/category=passage": ["too_few_clusters"],
        "both/C/overall": [],
        "equal/C/category=alone": ["too_few_clusters"],
        "equal/C/category=many": ["degenerate_zero_diff"],
        "equal/C/category=passage": ["too_few_clusters"],
        "equal/C/overall": ["degenerate_zero_diff"],
        "steady/C/category=alone": ["too_few_clusters"],
        "steady/C/category=many": [],
        "steady/C/overall": [],
    }
    assert found["p_ckpt"].between(0, 1, inclusive="right").all()
    assert found.loc["steady/C/overall", "p_method"] > 0
    assert found["words"].str.len().gt(40).all()


def test_what_rounding_leaves_is_no_difference(here):
    """Seed means of 0.1, 0.2 and -0.3 do not sum to zero in floating point."""
    values = {1: (0.1, 0.0), 2: (0.2, 0.0), 3: (0.0, 0.3)}
    rows = [
        {"arm": arm, "train_seed": seed, "prompt_id": f"p{i}", "metric": "m", "value": value}
        for seed, pair in values.items()
        for arm, value in zip(("old", "new"), pair, strict=True)
        for i in range(6)
    ]
    assert 0.1 + 0.2 - 0.3 != 0
    found, *_ = compare_table(rows, metric=("--metric", "m"))
    row = found.iloc[0]
    assert (row["estimate"], row["p_ckpt"], row["p_method"]) == (0, 1, 1)
    assert "degenerate_zero_diff" in row["flags"]


def test_a_plan_and_the_models_that_it_compares(here):
    """What the plan and the user's own files disagree on, not what a derived file lacks."""
    compare_table(table())
    plan = json.loads(Path("out/plan.json").read_text())
    Path("plan.json").write_text(json.dumps(plan | {"train_seeds": [1, 2, 3, 4]}))
    with pytest.raises(
        ContractError, match=r"^seed 4 of 'old' is missing \(the plan names it\); evaluate what is missing"
    ):
        compare_table(table(), "--plan", "plan.json", metric=())
    _, decision, _ = compare_table(table(), "--plan", "plan.json", "--common-seeds", metric=())
    assert "Planned training seeds without scores: 4." in decision["banner"]
    Path("plan.json").write_text(json.dumps(plan))
    for arms in (("old", "newer"), ("old", "new", "newer")):
        with pytest.raises(ContractError, match=r"^plan.json compares new, old, but the models given are"):
            compare_table(table(arms=arms), "--plan", "plan.json", metric=())
    rows = table()
    rows[3]["train_seed"] = ""
    with pytest.raises(ContractError, match="old has a run without a training seed beside seeded ones"):
        compare_table(rows)


def test_a_spoiled_plan_or_question_is_one_clear_error_or_read():
    """Parts of both that are lost or something else than they should be: never a traceback."""
    plan = PLAN | {
        "train_seeds": [1, 2, 3],
        "contrasts": {"C1": {"sft_dpo": 1, "sft": -1}},
        "primary_contrasts": ["C1"],
    }
    given = json.loads(json.dumps(GIVEN, default=sorted))
    refused = 0
    for number in range(1500):
        rng = np.random.default_rng(number)
        value = json.loads(json.dumps(plan if number % 2 else given))
        spoil(value, rng)
        try:
            read_plan(value, question=QUESTION) if number % 2 else read_question(value)
        except ContractError:
            refused += 1
        except Exception as error:
            error.add_note(f"spoiled {number}: {value}")
            raise
    assert 500 < refused < 1400


def odd_column(rng, n):
    """A column of n cells that no column of the contract looks like, or not all of them."""
    kinds = ([1], ["x"], [None], [[1]], [True], [1.5], [b"x"], [float("nan")], [{"a": 1}], [datetime(2026, 1, 1)])
    kind = int(rng.integers(len(kinds) + 1))
    return pa.array([2**63] * n, pa.uint64()) if kind == len(kinds) else pa.array(kinds[kind] * n)


@pytest.mark.filterwarnings("error")
def test_odd_columns_of_the_contract_are_one_clear_error_or_read(tmp_path):
    """Columns of another type, absent, cut off, doubled rows and nulls, in scores, prompts and runs."""
    make_study(tmp_path / "study", n=12)
    runs = pa.table({"arm": ["sft", "sft"], "train_seed": [1, 2], "parent_sha256": ["ab", "ab"]})
    pq.write_table(runs, tmp_path / "study/runs.parquet")
    for metric in ("pass_rate", "logp_margin"):
        shutil.rmtree(tmp_path / f"study/scores/metric={metric}")
    plan = read_plan(PLAN | {"metrics": {"pref_acc": PLAN["metrics"]["pref_acc"]}}, question=QUESTION)
    files = ("prompts", "runs", "scores/metric=pref_acc/part-0")
    refused = 0
    for number in range(120):
        rng = np.random.default_rng(number)
        folder = Path(shutil.copytree(tmp_path / "study", tmp_path / "copy", dirs_exist_ok=True))
        path = folder / f"{files[number % 3]}.parquet"
        whole = pq.read_table(path)
        column = int(rng.integers(whole.num_columns))
        name, cells = whole.column_names[column], whole.column(column).to_pylist()
        cells[int(rng.integers(len(cells)))] = None
        changed = (
            whole.drop_columns([name]),
            whole.set_column(column, name, odd_column(rng, len(whole))),
            whole.slice(0, int(rng.integers(len(whole)))),
            pa.concat_tables([whole, whole.slice(0, 1)]),
            whole.set_column(column, name, pa.array(cells)),
        )
        pq.write_table(changed[rng.integers(len(changed))], path)
        try:
            parents = shared_parents(folder / "runs.parquet")
            analyse(plan, [folder / "scores"], read_prompts(folder / "prompts.parquet"), caveats=parents)
        except ContractError:
            refused += 1
        except Exception as error:
            error.add_note(f"{number}: {path.name}, column {name}")
            raise
    assert 40 < refused < 110


@pytest.mark.parametrize("margin", ["nan", "-0.1", "inf", "2"])
def test_a_margin_that_is_none_leaves_nothing_behind(here, margin):
    with pytest.raises(ContractError, match="the plan, metric 'acc', key 'margin': "):
        compare_table(table(), "--margin", margin)
    assert not Path("out").exists()


def test_a_spoiled_record_of_the_plan_is_one_clear_error(here):
    freeze.freeze(PLAN, Path("none"), Path("plan.lock"))
    record = Path("plan.lock").read_text()
    for number in range(300):
        value = json.loads(record)
        spoil(value, np.random.default_rng(number))
        Path("plan.lock").write_text(json.dumps(value))
        with contextlib.suppress(ContractError):
            freeze.freeze(PLAN, Path("none"), Path("plan.lock"))
        Path("plan.lock").write_text(json.dumps(value))
        with contextlib.suppress(ContractError):
            changes_on_record(sha256_json(PLAN), "plan.lock")
    Path("plan.lock").write_text('{"history": [{"plan": {}}]}')
    with pytest.raises(ContractError, match=r"^plan.lock: is not a record of this command"):
        freeze.freeze(PLAN, Path("none"), Path("plan.lock"))
