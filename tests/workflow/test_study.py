"""The smoke study end to end."""

import json
import subprocess
import sys

import pandas
import pytest

SMOKE = "config/smoke.yaml"
ARMS = ("sft", "sft_dpo", "dpo_only")
RUNS = ["base", *(f"{arm}-seed{seed}" for arm in ARMS for seed in (1, 2))]
STATISTICS = {"compare": 1, "plot": 1, "report": 1}
NEW_PLAN = {"freeze_plan": 1, **STATISTICS}


def test_results_are_whole(finished):
    results = finished.folder / "results" / "smoke"
    contrasts = pandas.read_csv(results / "stats" / "contrasts.csv")
    assert set(contrasts["contrast"]) == {f"C{number}" for number in range(1, 8)}
    assert set(contrasts["metric"]) == {"pref_acc", "pass_rate", "logp_margin"}
    for run in RUNS:
        assert len(list((results / "scores").glob(f"metric=*/part-{run}.parquet"))) == 3
        assert (results / run / "generations.parquet").is_file()
    html = (results / "report.html").read_text()
    headline = json.loads((results / "stats" / "decision.json").read_text())["headline"]
    assert headline.split(",")[0] in html
    parity = json.loads((results / "parity.json").read_text())
    assert all(loss == pytest.approx(0.693147, abs=1e-4) for loss in parity["step0_loss"].values())
    assert len(parity["step0_loss"]) == 4


def test_every_target_has_a_manifest(finished):
    results = finished.folder / "results" / "smoke"
    manifests = [json.loads(path.read_text()) for path in results.rglob("*manifest.json")]
    assert len(manifests) == 46 - 1  # every job of the dry run but `all`
    for manifest in manifests:
        assert manifest["versions"]["python"].startswith("3.11.")
        assert manifest["lock"]["file"] in ("train.yaml", "grade.yaml", "stats.yaml")
        assert manifest["outputs"], manifest["rule"]
    dpo = [manifest for manifest in manifests if manifest["rule"] == "train_dpo"]
    assert all(manifest["facts"]["step0"]["loss_difference"] < 1e-4 for manifest in dpo)
    assert {manifest["versions"]["trl"] for manifest in dpo} == {"0.9.6"}


def test_where_the_time_went(finished):
    command = [sys.executable, "tools/times.py", "results/smoke"]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=True)
    table = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert table["train_dpo"][0] == "4"
    assert float(table["train_dpo"][1]) > 0
    assert table["all"][0] == str(46 - 1)


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.planned() == {}


def test_a_plan_changed_after_scores_is_exploratory_until_it_is_restored(finished, tmp_path):
    finished = finished.copy(tmp_path / "study")
    results = finished.folder / "results" / "smoke"
    before = {name: (results / name).read_bytes() for name in ("stats/contrasts.parquet", "stats/decision.json")}
    assert json.loads(before["stats/decision.json"])["exploratory"] == []
    config = (finished.folder / SMOKE).read_bytes()
    try:
        finished.edit(SMOKE, "tokens:\n", "statistics: {alpha: 0.01}\n\ntokens:\n")
        done = finished.snakemake("--cores", "2")
        assert done.returncode == 0, done.stdout[-3000:]
        decision = json.loads((results / "stats" / "decision.json").read_text())
        assert decision["exploratory"] == ["alpha: 0.05 → 0.01"]
        assert decision["gates"]["plan_hash"] is False
        flags = pandas.read_csv(results / "stats" / "contrasts.csv")["flags"]
        assert flags.str.contains("exploratory").all()
        assert "<b>Exploratory.</b>" in (results / "report.html").read_text()
    finally:
        (finished.folder / SMOKE).write_bytes(config)
    done = finished.snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {name: (results / name).read_bytes() for name in before} == before
    history = json.loads((results / "plan.json").read_text())["history"]
    assert [(plan["plan"]["alpha"], plan["scores_existed"]) for plan in history] == [
        (0.05, False),
        (0.01, True),
        (0.05, True),
    ]
