"""`stack: current`: the smoke study comes to what it comes to on the pinned packages, and never mixes the two."""

import json
import subprocess

import pandas
import pytest
from conftest import ROOT, SMOKE, Clone

RESULTS = "results/smoke"
TOLERANCE = 1e-4  # nats, and units of the loss, of fp32
RUNS = [f"{arm}-seed{seed}" for arm in ("sft", "sft_dpo", "dpo_only") for seed in (1, 2)]


@pytest.fixture(scope="module")
def current(tmp_path_factory) -> Clone:
    """A clone in which the smoke study has run on the current stack."""
    made = Clone(tmp_path_factory.mktemp("current"))
    made.edit(SMOKE, "study: smoke\n", "study: smoke\nstack: current\n")
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Warning" not in done.stdout, "packages that warn each other say nothing about a study"
    return made


def differences(current: Clone, finished: Clone) -> dict[str, list[float]]:
    """What benchmarks/stacks.py prints of each run and table."""
    command = [str(ROOT / ".envs/stats/bin/python"), str(ROOT / "benchmarks/stacks.py")]
    command += [str(study.folder / RESULTS) for study in (finished, current)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line]
    return {name: [float(cell) for cell in cells if cell] for name, *cells in rows if "seed" in name or "base" in name}


def test_every_step_is_that_of_the_pinned_stack(current, finished):
    found = differences(current, finished)
    assert {*RUNS, *(f"{run}/heldout_logps" for run in RUNS), "base/train_logps", "sft-seed1/train_logps"} <= {*found}
    for run in RUNS:
        steps, *largest = found.pop(run)
        assert steps >= 10
        assert len(largest) == (4 if "dpo" in run else 1)
        assert max(largest) < TOLERANCE, run
    assert max(value for values in found.values() for value in values) < TOLERANCE


def test_so_is_the_table_of_verdicts(current, finished):
    ours, theirs = (pandas.read_csv(study.folder / RESULTS / "stats/contrasts.csv") for study in (current, finished))
    same = ["contrast", "metric", "group", "role", "verdict", "words"]
    pandas.testing.assert_frame_equal(ours[same], theirs[same])
    decisions = [(study.folder / RESULTS / "stats/decision.json").read_text() for study in (current, finished)]
    assert decisions[0] == decisions[1]


def test_every_manifest_says_so_and_verify_agrees(current):
    locks = [
        json.loads(path.read_text())["lock"]["file"] for path in current.folder.glob(f"{RESULTS}/**/*manifest.json")
    ]
    assert locks.count("train-current.yaml") > 20
    assert "train.yaml" not in locks
    done = current.snakemake("--cores", "1", "verify")
    assert done.returncode == 0, done.stdout
    assert current.planned() == {}


def test_a_study_never_mixes_stacks(current):
    current.edit(SMOKE, "stack: current\n", "stack: pinned\n")
    for arguments in (["--dry-run"], ["--cores", "2"]):
        done = current.snakemake(*arguments)
        assert done.returncode == 1
        assert f"{RESULTS} was made with stack: current, and the configuration says pinned." in done.stdout
        assert "change `study`, its name, or move results/smoke away" in done.stdout
        assert "Traceback" not in done.stdout
    current.edit(SMOKE, "stack: pinned\n", "stack: current\n")


def test_adapters_neither(current):
    """Not one that was brought by hand, whose base is the same to the byte. Those of the pinned stack name none."""
    for run in ("sft-seed1", "sft-seed2"):
        arm = current.folder / RESULTS / run / "adapter/arm.json"
        identity = json.loads(arm.read_text())
        assert identity.pop("stack") == "current"
        arm.write_text(json.dumps(identity))
    done = current.snakemake("--cores", "2", "--forcerun", "train_dpo", "--quiet", "rules")
    assert done.returncode == 1
    assert "this adapter was trained with `stack: pinned`, and this job runs on current" in done.stdout


def test_another_stack_is_no_stack(clone):
    clone.edit(SMOKE, "study: smoke\n", "study: smoke\nstack: newest\n")
    done = clone.snakemake("--dry-run")
    assert done.returncode == 1
    assert "stack: 'newest' is not one of ['pinned', 'current']" in done.stdout, done.stdout
