"""A study that asks for a GPU and runs out of memory: here on a CPU, under a limit on each process' data segment."""

import json
import os
import subprocess

import pytest
import yaml
from conftest import ROOT, SMOKE, SNAKEMAKE, Clone
from watched import watched

RESULTS = "results/smoke"
PROBE = [str(ROOT / ".envs" / "train" / "bin" / "python"), "scripts/probe_memory.py"]
# Large tensors get pages of their own and one thread its buffers, so that memory is what tensors need.
CLEAN = {"MALLOC_MMAP_THRESHOLD_": "4194304", "OMP_NUM_THREADS": "1"}


def configure(clone, **sections):
    """Change the smoke study's configuration: sections are updated, other values set."""
    path = clone.folder / SMOKE
    config = yaml.safe_load(path.read_text())
    for name, value in sections.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(config))


def taken(clone, **changed):
    """Data segment, in bytes, that probing DPO takes without a limit, as the rule did it but for some settings."""
    manifest = read(clone, "memory/dpo.manifest.json")
    job = {name: manifest[name] for name in ("rule", "wildcards", "settings", "code")}
    job["settings"] |= changed
    flags = ["--model", f"{RESULTS}/model/model.json", "--data", f"{RESULTS}/data/pairs.parquet"]
    flags += ["--rung", "taken.json", "--manifest", "taken.manifest.json"]
    command = [*PROBE, "--job", json.dumps(job), *flags]
    done, most = watched(command, cwd=clone.folder, env={**os.environ, **CLEAN})
    assert done.returncode == 0, done.stderr
    return most


def limited(clone, limit, *arguments):
    """Run snakemake with a limit on the data segment of each process."""
    command = ["prlimit", f"--data={limit}", str(SNAKEMAKE), "--cores", "2", *arguments, "--configfile", SMOKE]
    environment = {**os.environ, **CLEAN}
    done = subprocess.run(
        command, cwd=clone.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


def read(clone, name):
    return json.loads((clone.folder / RESULTS / name).read_text())


@pytest.fixture
def wide(tmp_path) -> Clone:
    """The smoke study with wide layers, one seed, 2 steps a run and a GPU that is not there."""
    clone = Clone(tmp_path).cold()
    configure(
        clone,
        seeds=[1],
        gpus=1,
        cpu_instructions="native",
        checkpoint_minutes=10,
        model={"intermediate_size": 16384},
        data={"rows": {"sft": 16, "pairs": 16, "heldout_pairs": 24}},
        sft={"batch_size": 8, "micro_batch_size": 8, "warmup_ratio": 0.0},
        dpo={"batch_size": 8, "micro_batch_size": 8, "warmup_ratio": 0.0},
        generation={"batch_size": 8, "max_new_tokens": 4},
    )
    return clone


def test_the_same_command_goes_down_the_ladder_and_the_arms_never_differ(wide):
    done = wide.snakemake("--cores", "2", f"{RESULTS}/memory/dpo.json")  # a larger machine: all fits
    assert done.returncode == 0, done.stdout[-3000:]
    assert read(wide, "memory/dpo.json")["micro_batch_size"] == 8
    limit = (taken(wide) + taken(wide, recorded=[[2, 256]])) // 2  # one pair fits, eight pairs or eight rows do not

    code, said = limited(wide, limit, f"{RESULTS}/sft-seed1/adapter/arm.json")  # SFT is probed under it
    assert code == 0, said[-3000:]
    code, said = limited(wide, limit, f"{RESULTS}/parity.json")  # DPO meets it in training
    assert code != 0, said[-3000:]
    assert "out of memory at step 0 with dpo.micro_batch_size 8" in said
    assert "Run the same snakemake command again" in said
    assert read(wide, "memory/sft.json")["micro_batch_size"] < 8
    trained = (wide.folder / RESULTS / "sft-seed1/adapter/arm.json").stat().st_mtime_ns

    planned = wide.planned("--cores", "1", f"{RESULTS}/parity.json")
    assert {name: planned.get(name, 0) for name in ("probe_memory", "train_dpo", "train_sft")} == {
        "probe_memory": 1,  # DPO's; SFT keeps its rung and its runs
        "train_dpo": 2,
        "train_sft": 0,
    }
    for _ in range(3):  # what just fits a probe need not fit training, which then goes one further down
        code, said = limited(wide, limit)
        if code == 0:
            break
        assert "Run the same snakemake command again" in said, said[-3000:]
    assert code == 0, said[-3000:]
    used = read(wide, "memory/dpo.json")["micro_batch_size"]
    assert used < 8
    assert (wide.folder / RESULTS / "sft-seed1/adapter/arm.json").stat().st_mtime_ns == trained  # SFT is left alone
    for arm in ("sft_dpo", "dpo_only"):
        assert read(wide, f"{arm}-seed1/observed.json")["micro_batch_size"] == used
        assert "rung dpo" in read(wide, f"{arm}-seed1/train.manifest.json")["inputs"]
    assert read(wide, "parity.json")["alike"]["every dpo run"]["micro_batch_size"] == used
    facts = read(wide, "memory/dpo.manifest.json")["facts"]
    assert facts["attempts"][0] == {"micro_batch_size": 8, "max_length": 256, "fits": False, "found_by": "training"}
    html = (wide.folder / RESULTS / "report.html").read_text()
    assert f"DPO was trained with micro-batches of {used} (asked for 8; 8" in html
    assert "did not fit a CPU" in html

    assert wide.planned() == {}
    done = wide.snakemake("verify")
    assert done.returncode == 0, done.stdout
    done = wide.snakemake("--cores", "1", "crate")
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_study_on_cpus_probes_nothing_and_one_on_gpus_once_for_recipes_that_need_the_same_memory(clone):
    assert "probe_memory" not in clone.planned()
    configure(clone, gpus=1, dpo={"beta": [0.1, 0.3]})
    assert clone.planned()["probe_memory"] == 2  # SFT, DPO
    configure(clone, dpo={"micro_batch_size": [16, 8]})
    assert clone.planned()["probe_memory"] == 3


def test_shorter_rows_make_tokens_wait_for_the_probes_but_not_heldout_ones(clone):
    configure(clone, gpus=1)
    tokens = [f"{RESULTS}/tokens/{name}.parquet" for name in ("sft", "train_pairs")]
    assert "probe_memory" not in clone.planned("--cores", "1", *tokens)
    configure(clone, out_of_memory={"max_length": [128, 64]})
    assert clone.planned("--cores", "1", *tokens)["probe_memory"] == 2
    assert "probe_memory" not in clone.planned("--cores", "1", f"{RESULTS}/tokens/heldout_pairs.parquet")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"out_of_memory": {"max_length": [512]}}, "out_of_memory.max_length must be lengths below tokens.max_length"),
        ({"out_of_memory": {"max_length": [64, 128]}}, "each below the one before"),
        (
            {"out_of_memory": {"max_length": [128]}, "tokens": {"on_overlong": "error"}},
            "tokens.on_overlong: error forbids; set it to drop or truncate",
        ),
    ],
)
def test_lengths_that_make_no_ladder_are_refused(clone, sections, message):
    configure(clone, **sections)
    done = clone.snakemake("--dry-run")
    assert done.returncode != 0
    assert message in done.stdout
