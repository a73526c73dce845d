"""compare.py on logs that lm-evaluation-harness and inspect_ai wrote (tests/data/evaluation_logs), and on a table."""

import contextlib
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import compare
import numpy as np
import pandas as pd
import pytest

from arms.job.files import UserError
from paired import compare as paired_compare
from paired.files import ContractError
from paired.inputs import read_runs
from paired.inputs.contract import choose_metrics, make_plan
from paired.inputs.runs import Grouping, check_runs

LOGS = Path(__file__).parents[2] / "data" / "evaluation_logs"
LM_EVAL = ("--lm-eval", "base=lm_eval/base", "tuned=lm_eval/tuned-1", "--metric", "acc", "exact_match")
SEEDS = ("tuned:1=lm_eval/tuned-1", "tuned:2=lm_eval/tuned-2", "tuned:3=lm_eval/tuned-3")
INSPECT = ("--inspect", "base=inspect/base.eval", "tuned=inspect/tuned-1.eval", "--metric", "match", "length")


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """A copy of the logs, in a folder whose name has a space and a quote; the working directory."""
    folder = tmp_path / "somebody's logs"
    shutil.copytree(LOGS, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(monkeypatch):
    """The program: (contrasts by hypothesis, summary.md)."""

    def program(*arguments, output="out"):
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, "--output", output])
        compare.main()
        rows = pd.read_parquet(Path(output) / "contrasts.parquet").set_index("hypothesis_id")
        return rows, (Path(output) / "summary.md").read_text()

    return program


def results(folder):
    """What lm-evaluation-harness itself says about a run."""
    (path,) = Path(folder).glob("results_*.json")
    return json.loads(path.read_text())


def edit_results(folder, change):
    (path,) = Path(folder).glob("results_*.json")
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def edit_samples(folder, task, change):
    """Edit the samples of a task as a list of dicts."""
    (path,) = Path(folder).glob(f"samples_{task}_*.jsonl")
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_inspect(path, change):
    log = json.loads(Path(path).read_text())
    change(log)
    Path(path).write_text(json.dumps(log))


def test_two_models_from_the_harness(logs, run):
    rows, words = run(*LM_EVAL)
    base, tuned = (results(f"lm_eval/{name}")["results"] for name in ("base", "tuned-1"))
    for metric, task in (("acc", "larger"), ("exact_match", "sums")):
        row = rows.loc[f"{metric}/tuned − base/overall"]
        assert row["estimate"] == pytest.approx(tuned[task][f"{metric},none"] - base[task][f"{metric},none"])
        assert (row["kind"], row["p_ckpt_method"], row["n_seeds"]) == ("binary", "mcnemar_exact", 1)
        assert row["n_prompts"] == base[task]["sample_len"]
    assert rows.loc["acc/tuned − base/overall", "family"] == "primary"
    assert words.startswith("On acc, tuned minus base is ")
    assert "| acc (primary) | all | tuned minus base | 30 |" in words
    for kind in ("png", "svg"):
        assert (logs / "out" / f"forest.{kind}").stat().st_size > 5000
    plan = json.loads((logs / "out/plan.json").read_text())
    again, _ = run(*LM_EVAL[:3], "--plan", "out/plan.json", output="again")
    assert (logs / "again/summary.md").read_bytes() == (logs / "out/summary.md").read_bytes()
    assert again["plan_sha256"].iloc[0] == rows["plan_sha256"].iloc[0]
    assert plan["contrasts"] == {"tuned − base": {"tuned": 1, "base": -1}}


def test_the_readme_shows_what_its_command_prints(logs, run, monkeypatch):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (command,) = re.findall(r"scripts/compare.py (--lm-eval base=base .*) --output /tmp/out", readme)
    monkeypatch.chdir(logs / "lm_eval")
    _, words = run(*command.split())
    paragraph, table = words.strip().split("\n\n")
    assert "> " + paragraph in readme
    assert table in readme


def test_training_seeds_of_one_model(logs, run):
    rows, words = run("--lm-eval", "base=lm_eval/base", *SEEDS, "--metric", "exact_match", "--margin", "0.05")
    row = rows.loc["exact_match/tuned − base/overall"]
    assert (row["scope"], row["n_seeds"], row["margin"]) == ("method", 3, 0.05)
    scores = [results(f"lm_eval/tuned-{seed}")["results"]["sums"]["exact_match,none"] for seed in (1, 2, 3)]
    assert sorted(row["theta_seed"] + results("lm_eval/base")["results"]["sums"]["exact_match,none"]) == pytest.approx(
        sorted(scores)
    )
    assert "20 prompts, 3 seeds; a claim about the recipe" in words


def test_two_models_from_inspect(logs, run):
    spec = importlib.util.spec_from_file_location("make_logs", logs / "make_logs.py")
    make_logs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_logs)
    pairs = [json.loads(line) for line in (logs / "tasks/larger.jsonl").read_text().splitlines()][:24]
    questions = [f"Which number is larger, {pair['a']} or {pair['b']}?" for pair in pairs]
    gain = [make_logs.right("tuned-1", q) - make_logs.right("base", q) for q in questions]
    rows, words = run(*INSPECT)
    row = rows.loc["match/tuned − base/overall"]
    assert (row["estimate"], row["kind"], row["n_prompts"]) == (pytest.approx(np.mean(gain)), "binary", 24)
    assert rows.loc["length/tuned − base/overall", "kind"] == "continuous"
    assert words.startswith("On match, tuned is better than base: +33.3 points (95% CI ")


def test_json_logs_of_inspect_and_failed_samples(logs, run):
    def fail(log):
        log["samples"][1] |= {"error": {"message": "sandbox lost", "traceback": ""}, "scores": None}

    def partial(log):
        log["samples"][0]["scores"]["match"]["value"] = "P"

    shutil.copy("inspect/base.json", "inspect/other.json")
    edit_inspect("inspect/other.json", fail)
    edit_inspect("inspect/base.json", partial)
    rows, words = run("--inspect", "a=inspect/base.json", "b=inspect/other.json", "--metric", "match")
    row = rows.loc["match/b − a/overall"]
    assert (row["kind"], row["n_prompts"]) == ("ordinal", 2)
    assert "coverage: missing outputs of match: a 0.0%, b 33.3%" in words
    assert pd.read_parquet("out/missing.parquet").set_index("arm").loc["b", "error"] == 1


def test_epochs_are_samples_not_prompts(logs, run):
    def twice(log):
        log["samples"] += [sample | {"epoch": 2} for sample in log["samples"]]

    shutil.copy("inspect/base.json", "inspect/other.json")
    for name in ("base", "other"):
        edit_inspect(f"inspect/{name}.json", twice)
    rows, _ = run("--inspect", "a=inspect/base.json", "b=inspect/other.json", "--metric", "match")
    assert rows["n_prompts"].iloc[0] == 3
    assert len(pd.read_parquet("out/scores/metric=match/part-0.parquet")) == 2 * 3 * 2


def test_the_order_of_rows_changes_no_byte(logs, run):
    run(*LM_EVAL, output="one")
    for name in ("base", "tuned-1"):
        for task in ("larger", "sums"):
            edit_samples(f"lm_eval/{name}", task, lambda rows: rows[::-1])
    run(*LM_EVAL, output="other")
    files = sorted(path.relative_to("one") for path in Path("one").rglob("*") if path.is_file())
    assert len(files) > 20
    assert files == sorted(path.relative_to("other") for path in Path("other").rglob("*") if path.is_file())
    for name in files:
        assert (Path("one") / name).read_bytes() == (Path("other") / name).read_bytes(), name


def test_a_plain_table_gives_the_same_as_the_log(logs, run):
    rows, words = run(*LM_EVAL[:3], "--metric", "acc", output="log")
    table = []
    for arm, folder in (("base", "base"), ("tuned", "tuned-1")):
        (path,) = Path(f"lm_eval/{folder}").glob("samples_larger_*.jsonl")
        for sample in map(json.loads, path.read_text().splitlines()):
            table.append({"arm": arm, "prompt_id": sample["doc_id"], "metric": "acc", "value": sample["acc"]})
    pd.DataFrame(table).to_csv("scores.csv", index=False)
    again, same_words = run("--table", "scores.csv", output="table")
    assert again["estimate"].iloc[0] == rows["estimate"].iloc[0]
    assert again["p_ckpt"].iloc[0] == rows["p_ckpt"].iloc[0]
    assert same_words == words


def test_categories_and_clusters_of_a_table(logs, run):
    rng = np.random.default_rng(5)
    table = [
        {"arm": arm, "prompt_id": f"{task}-{i}", "metric": "acc", "value": int(rng.random() < skill)}
        | {"category": task, "cluster_id": f"{task}-{i // 2}"}
        for arm, skill in (("old", 0.4), ("new", 0.8))
        for task, n in (("law", 40), ("$maths_", 24), ("few", 6))
        for i in range(n)
    ]
    pd.DataFrame(table).to_parquet("scores.parquet")
    rows, words = run("--table", "scores.parquet")
    assert rows.loc["acc/new − old/overall", ["n_prompts", "n_clusters"]].tolist() == [70, 35]
    assert rows.loc["acc/new − old/category=few", "verdict"] == "not_testable"
    assert "| acc | law | new minus old | 40 |" in words
    assert "2 in all, after Benjamini-Hochberg" in words
    assert Path("out/forest.svg").stat().st_size > 5000


def test_less_can_be_better(logs, run):
    for name in ("base", "tuned-1"):
        edit_results(f"lm_eval/{name}", lambda found: found["higher_is_better"]["sums"].update(exact_match=False))
        edit_samples(f"lm_eval/{name}", "sums", lambda rows: [row | {"exact_match": 1.0} for row in rows])
    edit_samples("lm_eval/base", "sums", lambda rows: [row | {"exact_match": 0.0} for row in rows])
    rows, words = run(*LM_EVAL[:3], "--metric", "exact_match")
    assert rows["verdict"].iloc[0] == "inferior"
    assert "tuned is worse than base: +100.0 points, where lower is better (" in words


def test_the_same_model_under_two_names_is_noticed(logs, run):
    _, words = run("--lm-eval", "a=lm_eval/base", "b=lm_eval/base", "--metric", "acc")
    assert "distinct_outputs: the same generations in acc: a and b" in words


def test_seeds_that_share_a_parent(logs, run):
    arms = pd.DataFrame({"arm": "tuned", "train_seed": [1, 2, 3], "parent_sha256": "ab" * 32})
    arms.to_parquet("runs.parquet")
    arguments = ("--lm-eval", "base=lm_eval/base", *SEEDS, "--metric", "acc", "--runs", "runs.parquet")
    _, words = run(*arguments)
    assert "All 3 seeds of tuned start from one checkpoint (abababababab)" in words
    arms.assign(parent_sha256=["a", "b", "c"]).to_parquet("runs.parquet")
    assert "start from one checkpoint" not in run(*arguments)[1]


def another_version(logs):
    edit_results("lm_eval/tuned-1", lambda found: found["versions"].update(larger=2.0))


def missing_item(logs):
    edit_samples("lm_eval/tuned-1", "larger", lambda rows: rows[:4] + rows[5:])


def changed_document(logs):
    edit_samples("lm_eval/base", "sums", lambda rows: [rows[0], rows[1] | {"doc_hash": "0" * 64}, *rows[2:]])


def changed_prompt(logs):
    edit_samples("lm_eval/base", "sums", lambda rows: [rows[0] | {"prompt_hash": "0" * 64}, *rows[1:]])


def no_samples(logs):
    for path in Path("lm_eval/base").glob("samples_sums_*"):
        path.unlink()


def two_runs(logs):
    for path in Path("lm_eval/base").glob("*"):
        shutil.copy(path, path.with_name(path.name.replace("_2026", "_2025")))


def not_a_sample(logs):
    edit_samples("lm_eval/base", "larger", lambda rows: [*rows[:2], {"doc_id": 2}])


def nothing(logs):
    pass


@pytest.mark.parametrize(
    ("breach", "arguments", "message"),
    [
        (another_version, LM_EVAL, "task 'larger': version 1.0 in base, 2.0 in tuned"),
        (
            missing_item,
            LM_EVAL,
            "tuned lacks 1 of the 50 items of base: larger/4; evaluate all models on the same items",
        ),
        (changed_document, LM_EVAL, "item sums/1: question or target differ between base and tuned"),
        (changed_prompt, LM_EVAL, "item sums/0: base and tuned got the question in different words.*--own-prompts"),
        (no_samples, LM_EVAL, r"samples_sums_.*jsonl: no such file; run lm_eval with --log_samples"),
        (two_runs, LM_EVAL, "base has task 'larger' already; name the one file to use"),
        (
            not_a_sample,
            LM_EVAL,
            r"samples_larger_.*, line 3: the sample has no doc, .*lm-evaluation-harness 0.4.13 wrote",
        ),
        (
            nothing,
            (*LM_EVAL[:3], "--metric", "f1"),
            r"--metric f1: not in the logs, which hold acc \(larger\); acc_norm",
        ),
        (nothing, LM_EVAL[:3], r"which metric is the primary one\? .*--metric NAME"),
        (nothing, ("--lm-eval", "lm_eval/base"), "--lm-eval lm_eval/base: write NAME=PATH"),
        (nothing, LM_EVAL[:2], "at least two models"),
        (nothing, ("--lm-eval", "a=inspect/base.json", "b=lm_eval/base"), "base.json: not a results file of lm-eval"),
        (nothing, ("--lm-eval", "a=nowhere", "b=lm_eval/base"), "nowhere: no such file"),
        (nothing, ("--inspect", "a=inspect/base.json", INSPECT[2]), "a lacks 21 of the 24 items of tuned: larger/q03"),
        (nothing, ("--inspect", "a=tasks/sums.jsonl", INSPECT[2]), "sums.jsonl: not valid JSON"),
        (nothing, ("--table", "tasks/larger.jsonl"), "larger.jsonl: column 'arm' is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_compared_is_one_clear_error(logs, run, breach, arguments, message):
    breach(logs)
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert not Path("out").exists()


def test_prompts_of_their_own_are_said(logs, run):
    changed_prompt(logs)
    _, words = run(*LM_EVAL, "--own-prompts")
    assert "The models got 1 of 50 prompts in texts of their own (--own-prompts)." in words


def test_an_inspect_log_that_did_not_finish(logs, run):
    edit_inspect("inspect/base.json", lambda log: log.update(status="error"))
    with pytest.raises(
        UserError, match=r"base.json: the evaluation ended with status 'error'; `inspect eval-retry` it"
    ):
        run("--inspect", "a=inspect/base.json", "b=inspect/base.eval", "--metric", "match")


def numbers_of(version, run, task, metric):
    return results(f"reading/lm_eval-{version}/{run}")["results"][task][f"exact_match,{metric}"]


def without_figures(*arguments, output="out"):
    """As `run`, by the package's own command."""
    paired_compare.main([*arguments, "--output", output])
    rows = pd.read_parquet(Path(output) / "contrasts.parquet").set_index("hypothesis_id")
    return rows, (Path(output) / "summary.md").read_text()


@pytest.mark.parametrize("version", ["0.4.9", "0.4.13"])
def test_groups_filters_and_clusters_of_the_harness(logs, version):
    run = without_figures
    folder = f"reading/lm_eval-{version}"
    models = ("--lm-eval", f"base={folder}/base", f"tuned={folder}/tuned-1")
    metrics = ("--metric", "exact_match,strict-match", "exact_match,flexible-extract")
    rows, _ = run(*models, *metrics)
    for name in ("strict-match", "flexible-extract"):
        for task, group in (("reading", "overall"), ("reading_short", "category=reading_short")):
            row = rows.loc[f"exact_match,{name}/tuned − base/{group}"]
            tuned, base = (numbers_of(version, model, task, name) for model in ("tuned-1", "base"))
            assert row["estimate"] == pytest.approx(tuned - base)
            assert row["n_prompts"] == row["n_clusters"] == (20 if task == "reading" else 12)
    rows, _ = run(*models, *metrics, "--cluster", "passage", output="passages")
    row = rows.loc["exact_match,strict-match/tuned − base/overall"]
    assert (row["n_prompts"], row["n_clusters"]) == (20, 5), "amber is another passage in the other task"
    rows, words = run(*models, *metrics, "--cluster", "task", "--category", "group", output="tasks")
    assert rows["n_clusters"].tolist() == [2, 2], "one category, so there are no rows of categories"
    assert "exact_match,strict-match (primary)" in words
    rows, _ = run(*models, *metrics, "--category", "passage", output="categories")
    assert {"amber", "birch", "cedar", "delta"} < set(rows["group"])
    with pytest.raises(
        ContractError, match=r"samples_reading_long_.*jsonl, line 1: .* no field 'page' \(its fields: passage"
    ):
        run(*models, *metrics, "--cluster", "page")


def test_epochs_metadata_and_samples_that_do_not_count_in_inspect(logs, run):
    models = ("--inspect", "base=reading/inspect/base.eval", "tuned=reading/inspect/tuned-1.eval")
    rows, words = run(*models, "--metric", "number", "--cluster", "passage")
    row = rows.loc["number/tuned − base/overall"]
    assert (row["kind"], row["n_prompts"], row["n_clusters"]) == ("binary", 10, 3), "two of twelve left out for both"
    assert "Failed outputs of number: tuned 2 of 24 (1 error, 1 judge_fail). 2 of 12 prompts left out for all" in words
    scores = pd.read_parquet("out/scores/metric=number/part-0.parquet").set_index(["arm", "prompt_id", "sample_idx"])
    assert scores.loc[("tuned", "reading/3", 0), "status"] == "error", "invalidated in its first epoch"
    assert scores.loc[("tuned", "reading/5", 1), "status"] == "judge_fail", "unscored in its second"
    assert scores["status"].value_counts()["ok"] == 46


def test_an_old_log_of_the_harness_is_called_old(logs, run):
    def strip(rows):
        return [{key: value for key, value in row.items() if key not in ("filter", "doc_hash")} for row in rows]

    edit_samples("lm_eval/base", "larger", strip)
    edit_results("lm_eval/base", lambda found: found.pop("lm_eval_version"))
    message = r"line 1: the sample has no filter, doc_hash; lm-evaluation-harness \(an old version\) wrote the log"
    with pytest.raises(UserError, match=message):
        run(*LM_EVAL)


JUNK = (None, "", "x", 3, -1.5, float("nan"), [], {}, ["x"], {"x": 1}, True)


def places(value, path=()):
    """Every place in a JSON value, as keys from the outside in."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        found += [place for key in keys for place in places(value[key], (*path, key))]
    return found


def spoil(value, rng):
    """Take away or replace one part of a JSON value."""
    every = places(value)
    *way, last = every[rng.integers(len(every))]
    for key in way:
        value = value[key]
    if isinstance(value, dict) and rng.random() < 0.4:
        del value[last]
    else:
        value[last] = JUNK[rng.integers(len(JUNK))]


@pytest.mark.parametrize("tool", ["lm-eval", "inspect"])
def test_a_spoiled_log_is_one_clear_error_or_read(logs, tool):
    """Parts of logs that are lost or something else than they should be: never a traceback."""
    folder = Path("reading/lm_eval-0.4.13") if tool == "lm-eval" else Path("inspect")
    path = Path("base.json")
    refused = 0
    for number in range(400):
        rng = np.random.default_rng(number)
        if tool == "inspect":
            log = json.loads((folder / "base.json").read_text())
            log = {key: log[key] for key in ("version", "status", "eval", "samples")}
            for sample in log["samples"]:
                sample.pop("events")
            spoil(log, rng)
            path.write_text(json.dumps(log))
            arguments = [f"base={path}", f"tuned={folder / 'base.json'}"]
        else:
            shutil.rmtree("copy", ignore_errors=True)
            shutil.copytree(folder / "base", "copy")
            if number % 3:
                edit_samples("copy", "reading_long", lambda rows, rng=rng: [spoil(rows, rng), rows][1])
            else:
                edit_results("copy", lambda found, rng=rng: spoil(found, rng))
            arguments = ["base=copy", f"tuned={folder / 'tuned-1'}"]
        try:
            runs = read_runs(tool, arguments, Grouping())
            check_runs(runs)
            make_plan(runs, choose_metrics(runs, [next(iter(runs[1].values))]))
        except ContractError as error:
            refused += 1
            assert str(error).strip()  # noqa: PT017
        except Exception as error:
            error.add_note(f"spoiled log {number}")
            raise
    assert 20 < refused < 400


def test_a_damaged_log_file_cannot_be_unpacked(logs):
    whole = Path("inspect/base.eval").read_bytes()
    for number in range(40):
        rng = np.random.default_rng(number)
        start, length = int(rng.integers(len(whole))), int(rng.integers(1, 400))
        Path("base.eval").write_bytes(whole[:start] + rng.bytes(length) + whole[start + length :])
        with contextlib.suppress(ContractError):
            read_runs("inspect", ["base=base.eval"])
    Path("base.eval").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match=r"^base.eval: "):
        read_runs("inspect", ["base=base.eval"])
