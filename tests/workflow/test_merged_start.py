"""sft_dpo.start: merged, on top of a finished study: what runs, what it starts from, and what is said of it."""

import json
import math
import shutil

import pytest
from conftest import SMOKE, Clone, results

RESULTS = "results/smoke"
# The merged model and its reference table, DPO after SFT, and what is made of all runs.
AGAIN = {"merge_sft": 1, "score_pairs": 1 + 1, "train_dpo": 1, "generate": 1, "grade": 1}
AGAIN |= {"check_parity": 1, "compare": 1, "plot": 1, "report": 1}
TABLE = f"{RESULTS}/sft-seed1/train_logps"


def read(study, name):
    return json.loads((study.folder / RESULTS / name).read_text())


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A study of one seed that had finished from the adapter, and then from merged weights; and its results before."""
    made = Clone(tmp_path_factory.mktemp("merged"))
    made.edit(SMOKE, "seeds: [1, 2]", "seeds: [1]")
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    before = results(made.folder)
    made.edit(SMOKE, "dpo:\n", "sft_dpo: {start: merged}\n\ndpo:\n")
    assert made.planned() == AGAIN, "no SFT, no DPO from the base"
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    return made, before


def test_only_what_comes_after_sft_is_another(merged):
    study, before = merged
    made = results(study.folder)
    changed = {name for name in before if made.get(name) != before[name]}
    of_all = ("stats/", "figures/", "parity.json", "report.html", "scores/", "sft_dpo-seed1/")
    assert {name for name in changed if not name.startswith(of_all)} == set()
    assert "sft_dpo-seed1/adapter/adapter_model.safetensors" in changed
    assert not [name for name in changed if name.startswith("scores/") and "sft_dpo" not in name]
    assert study.planned() == {}


def test_dpo_after_sft_starts_from_the_merged_weights(merged):
    study, _ = merged
    base, card, sft, arm = (
        read(study, name)
        for name in (
            "model/model.json",
            "sft-seed1/merged/model.json",
            "sft-seed1/adapter/arm.json",
            "sft_dpo-seed1/adapter/arm.json",
        )
    )
    assert card["source"]["model_sha256"] == arm["base_sha256"] == base["sha256"]
    assert card["source"]["adapter_sha256"] == arm["parent_sha256"] == sft["adapter_sha256"]
    assert arm["model_sha256"] == card["sha256"] != base["sha256"]
    parity = read(study, "parity.json")
    assert parity["merged"] == {"sft-seed1": card["sha256"]}
    assert parity["alike"]["every run"]["model_sha256"] == base["sha256"]
    assert parity["step0_loss"]["sft_dpo-seed1"] == pytest.approx(math.log(2), abs=1e-4)
    scored = read(study, "sft_dpo-seed1/heldout_logps.manifest.json")["facts"]
    assert scored["model_sha256"] == card["sha256"]


def test_the_report_says_it(merged):
    study, _ = merged
    page = (study.folder / RESULTS / "report.html").read_text()
    assert "DPO after SFT starts from the merged SFT weights" in page
    assert "SFT→DPO starts from the merged SFT weights, on which its adapter belongs" in page
    assert "never merged" not in page
    assert "2 DPO runs from 2 policies against 2 tables" in page


def test_verify_is_clean_without_the_table_that_nothing_reads_any_more(merged, tmp_path):
    study = merged[0].copy(tmp_path / "copy")
    found = study.snakemake("verify").stdout
    faults = {line for line in found.splitlines() if line.endswith("no job of this configuration makes it")}
    assert faults == {
        f"{TABLE}{end}: foreign; no job of this configuration makes it" for end in (".parquet", ".manifest.json")
    }
    for end in (".parquet", ".manifest.json"):
        (study.folder / f"{TABLE}{end}").unlink()
    done = study.snakemake("verify")
    assert done.returncode == 0, done.stdout[-3000:]


def test_published_it_names_the_weights_that_it_belongs_on(merged, tmp_path):
    study = merged[0].copy(tmp_path / "copy")
    done = study.snakemake("--cores", "1", "publish")
    assert done.returncode == 0, done.stdout[-3000:]
    sha256, folder = read(study, "sft-seed1/merged/model.json")["sha256"], study.folder / "results/smoke-publish"
    cards = {run: (folder / f"{run}-seed1" / "README.md").read_text() for run in ("sft", "sft_dpo", "dpo_only")}
    assert [run for run, text in cards.items() if "It belongs on those merged weights" in text] == ["sft_dpo"]
    assert [run for run, text in cards.items() if f"`{sha256}`" in text.split("## Provenance")[1]] == ["sft_dpo"]
    assert 'base = PeftModel.from_pretrained(base, "FOLDER-OF-sft-seed1").merge_and_unload()' in cards["sft_dpo"]


def test_weights_that_were_cleaned_away_are_merged_again_and_nothing_else(merged, tmp_path):
    study = merged[0].copy(tmp_path / "copy")
    shutil.rmtree(study.folder / RESULTS / "sft-seed1" / "merged" / "weights")
    assert study.planned()["merge_sft"] == 1
    before = results(study.folder)
    done = study.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {name: digest for name, digest in results(study.folder).items() if name in before} == before


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_on_a_quantised_base_it_is_refused_at_once(clone, precision):
    clone.edit(SMOKE, "model:\n", f"gpus: 1\n\nsft_dpo: {{start: merged}}\n\nmodel:\n  precision: {precision}\n")
    done = clone.snakemake("--dry-run")
    assert done.returncode != 0
    assert f"sft_dpo.start: merged is not for model.precision {precision}" in done.stdout
