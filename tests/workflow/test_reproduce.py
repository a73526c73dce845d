"""tools/reproduce.py: a rebuild equals the checksums, and the first target that differs is named with its cause."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from arms.job.files import sha256_file
from arms.job.manifest import pinned_versions

CHECKSUMS = "config/checksums/smoke.json"


def reproduce(folder, command, *arguments):
    """Run the program in a clone; exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "tools/reproduce.py", command, "--checksums", CHECKSUMS, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


@pytest.fixture
def recorded(finished, clone):
    """A clone with the finished study's results and their checksums."""
    for name in ("results", ".snakemake"):
        shutil.copytree(finished.folder / name, clone.folder / name, dirs_exist_ok=True)
    status, text = reproduce(clone.folder, "record", "--results", "results/smoke", "--config", "config/smoke.yaml")
    assert status == 0, text
    return clone


def compared(clone):
    """Compare the results in a clone with its checksums."""
    return reproduce(clone.folder, "compare", "--results", "results/smoke")


def test_the_shipped_checksums_are_of_this_commit(clone):
    """Whoever changes a program, a pin, the default configuration or its data runs `make demo` and `make checksums`."""
    clone.snakemake("verify", config=None)  # finds nothing, but leaves the list of the default study's jobs
    jobs = json.loads((clone.folder / ".snakemake" / "demo.jobs.json").read_text())
    found = [(made["job"]["rule"], made["job"]["wildcards"].values(), made) for made in jobs.values()]
    today = {" ".join(filter(None, [rule, *wildcards])): made for rule, wildcards, made in found}
    recorded = json.loads((clone.folder / "config" / "checksums" / "demo.json").read_text())
    assert set(recorded["jobs"]) == set(today)
    for name, made in today.items():
        known = recorded["jobs"][name]
        assert (name, known["code"]) == (name, made["job"]["code"])
        assert (name, known["settings"]) == (name, made["job"]["settings"])
        assert known["data"] == {path: sha256_file(clone.folder / path) for path in known["data"]}
        pins = pinned_versions(clone.folder / made["lock"])
        assert pins.items() <= recorded["versions"][known["lock"]].items()


def test_a_rebuild_of_the_commit_equals_the_checksums(recorded):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *arguments], cwd=recorded.folder, check=True)

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "a release")
    status, text = reproduce(recorded.folder, "rebuild", "--folder", "rebuilt here", "--cores", "2")
    assert status == 0, text
    assert "reproduced to the byte" in text
    status, text = reproduce(recorded.folder, "rebuild", "--folder", "rebuilt here")
    assert (status, "rebuilt here exists" in text) == (1, True)


def test_an_edited_setting_is_named_with_the_first_target_that_differs(recorded):
    recorded.edit("config/smoke.yaml", "tokens:\n", "statistics: {alpha: 0.01}\n\ntokens:\n")
    recorded.edit("scripts/plot.py", "\ndef main", "\nUNUSED = 1\n\n\ndef main")  # changes no byte of any result
    done = recorded.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout
    status, text = compared(recorded)
    assert status == 1
    assert "first to differ: plan.json, made by freeze_plan\n  settings alpha: 0.05 -> 0.01\n" in text
    assert "NOT reproduced" in text


def test_a_change_that_nothing_explains(recorded):
    path = recorded.folder / "results" / "smoke" / "sft-seed2" / "generations.parquet"
    for changed in (path, recorded.folder / "results" / "smoke" / "stats" / "contrasts.csv"):  # the order is the DAG's
        changed.write_bytes(changed.read_bytes() + b"\n")
    status, text = compared(recorded)
    assert status == 1
    assert "first to differ: sft-seed2/generations.parquet, made by generate sft-seed2\n  same settings" in text
    path.unlink()
    assert compared(recorded)[0] == 1


def test_another_cpu_class_is_held_to_the_tolerances(recorded):
    path = recorded.folder / CHECKSUMS
    checksums = json.loads(path.read_text())
    for job in checksums["jobs"].values():  # as if another processor had recorded them
        job["cpu"] = "another"
        job["results"] = dict.fromkeys(job["results"], "0" * 64)
    path.write_text(json.dumps(checksums))
    status, text = compared(recorded)
    assert status == 0, text
    assert "CPU class: another -> " in text
    assert "reproduced within the tolerances" in text
    name, (value, tolerance) = next(iter(checksums["values"].items()))
    checksums["values"][name] = [value + 2 * tolerance, tolerance]
    path.write_text(json.dumps(checksums))
    status, text = compared(recorded)
    assert status == 1
    assert f"  {name}: " in text
    assert "NOT reproduced: 1 value" in text
    job = next(job for job in checksums["jobs"] if job.startswith("check_data"))
    checksums["jobs"][job]["settings"] = {"other": True}  # something else differs as well: no tolerance
    path.write_text(json.dumps(checksums))
    status, text = compared(recorded)
    assert status == 1
    assert "tolerance" not in text


def test_no_results(clone):
    status, text = reproduce(clone.folder, "record", "--results", "results/smoke", "--config", "config/smoke.yaml")
    assert status == 1
    assert text.startswith("error: results/smoke: no manifest found")
    assert not os.path.exists(clone.folder / CHECKSUMS)
