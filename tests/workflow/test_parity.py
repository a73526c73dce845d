"""A dry run plans the same jobs wherever the study lies and however it is going to be run."""

import json
import os
import shutil
import time
import zlib
from pathlib import Path

import pytest

STANDIN = Path(__file__).parents[1] / "conda" / "standin" / "bin"
CONDA = {"PATH": f"{STANDIN}:{os.environ['PATH']}"}  # a dry run with --sdm conda asks conda for its version, no more
EDITS = {
    "nothing": ("config/smoke.yaml", "", ""),
    "dpo.beta": ("config/smoke.yaml", "dpo:\n", "dpo:\n  beta: 0.2\n"),
    "a row of the pairs": ("config/data/preferences.jsonl", " the ", " that "),
}


def jobs(clone, *arguments, **environment):
    """The outputs of every planned job."""
    done = clone.snakemake("--dry-run", *arguments, **environment)
    assert done.returncode == 0, done.stdout
    return sorted(line for line in done.stdout.splitlines() if line.startswith("    output: "))


def copied(finished, new):
    """`new`, just checked out, with results and Snakemake's records copied in without their times."""
    for name in ("results", ".snakemake"):
        shutil.copytree(finished.folder / name, new.folder / name, copy_function=shutil.copyfile, dirs_exist_ok=True)
    now = time.time()
    for top in ("config", "envs", "rules", "scripts", "results"):
        for path in (new.folder / top).rglob("*"):
            age = zlib.crc32(path.name.encode()) % 100_000 if top == "results" else 0  # an order that no study has
            os.utime(path, (now - age, now - age))
    return new


@pytest.mark.parametrize("case", EDITS)
def test_the_same_jobs_everywhere(finished, clone, case):
    name, old, new = EDITS[case]
    for place in (finished, copied(finished, clone)):
        place.kept = (place.folder / name).read_bytes()
        place.edit(name, old, new)
    home, elsewhere = finished.folder, finished.folder.with_name("a moved clone")
    try:
        here = jobs(finished)
        plans = {
            "--sdm conda": jobs(finished, "--sdm", "conda", **CONDA),
            "--profile slurm": jobs(finished, "--profile", "slurm"),
            "a fresh checkout, results copied in": jobs(clone),
            "the same, --sdm conda": jobs(clone, "--sdm", "conda", **CONDA),
        }
        finished.folder = home.rename(elsewhere)
        plans["a moved clone"] = jobs(finished)
    finally:
        finished.folder = elsewhere.rename(home) if elsewhere.exists() else home
        (finished.folder / name).write_bytes(finished.kept)
    assert bool(here) == (case != "nothing")
    for way, plan in plans.items():
        assert plan == here, way


def test_a_large_file_with_a_new_time_is_no_reason_to_run(clone):
    path = clone.folder / "config" / "data" / "sft.jsonl"
    path.write_text(path.read_text() + "\n" * 2_000_000)  # blank lines are skipped; 1 MB is Snakemake's own limit
    until = ("results/smoke/data/sft.parquet",)
    assert clone.snakemake("--cores", "1", *until).returncode == 0
    assert json.loads((clone.folder / "results" / "smoke" / "data" / "sft.audit.json").read_text())
    os.utime(path)
    assert clone.planned(*until) == {}
    path.write_text(path.read_text() + "\n")
    assert clone.planned(*until) == {"check_data": 1}
