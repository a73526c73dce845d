"""The workflow as a module of somebody else's, and run from another folder: paths resolve, nothing differs."""

import json
import shutil

import pytest
import yaml

SNAKEFILE = """
configfile: "study.yaml"

module sft_vs_dpo:
    snakefile: {snakefile!r}
    config: config

use rule * from sft_vs_dpo

onstart:
    sft_vs_dpo.onstart()

onsuccess:
    sft_vs_dpo.onsuccess()

rule mine:
    default_target: True
    input: rules.all.input
    output: "mine.txt"
    shell: "cp {{input[0]}} {{output}}"
"""


@pytest.fixture
def elsewhere(clone, tmp_path):
    """A repository of somebody else's, with a Snakefile of its own that uses ours, and data of its own."""
    folder = tmp_path / "somebody else's"
    folder.mkdir()
    study = yaml.safe_load((clone.folder / "config/smoke.yaml").read_text())
    shutil.copy(clone.folder / study["data"]["sft"], folder / "mine.jsonl")
    study["data"]["sft"] = "mine.jsonl"
    (folder / "study.yaml").write_text(json.dumps(study))
    (folder / "Snakefile").write_text(SNAKEFILE.format(snakefile=str(clone.folder / "Snakefile")))
    return type(clone).at(folder)


def test_another_workflow_uses_every_rule(clone, elsewhere):
    assert elsewhere.planned(config=None) == {**clone.planned(), "mine": 1}


def test_its_jobs_run_there(clone, elsewhere):
    targets = ("results/smoke/data/sft.audit.json", "results/smoke/plan.json")
    done = elsewhere.snakemake("--cores", "1", *targets, config=None)
    assert done.returncode == 0, done.stdout
    assert (elsewhere.folder / "results/smoke/data/sft.audit.json").is_file()
    assert (elsewhere.folder / "results/smoke/data/sft.manifest.json").is_file()
    assert not (clone.folder / "results/smoke").exists()
    assert elsewhere.planned(config=None)["check_data"] == 3  # of four files


def test_before_its_jobs_it_looks_for_its_environments(clone, elsewhere):
    (clone.folder / ".envs").unlink()
    done = elsewhere.snakemake("--cores", "1", "results/smoke/data/sft.audit.json", config=None)
    assert done.returncode != 0
    assert "run `make setup`" in done.stdout


def test_another_working_directory(clone, tmp_path):
    folder = tmp_path / "results of mine"
    config = str(clone.folder / "config" / "smoke.yaml")
    arguments = ("--directory", str(folder))
    assert clone.planned(*arguments, config=config) == clone.planned()
    target = "results/smoke/data/sft.audit.json"
    done = clone.snakemake(*arguments, "--cores", "1", target, config=config)
    assert done.returncode == 0, done.stdout
    assert (folder / target).is_file()
    assert not (clone.folder / "results/smoke").exists()
    assert clone.planned(*arguments, config=config)["check_data"] == 3
