"""Studies on int8 and nf4 weights, which the current stack makes on a CPU too: every gate, and SIGKILLs in training."""

import json
import math
import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from conftest import ROOT, SNAKEMAKE, results
from test_families import write_data

pytestmark = pytest.mark.skipif(
    not (ROOT / ".envs" / "train-current").is_dir(), reason="make setup STACK=current installs what quantizes on a CPU"
)
KILLED_AFTER = (2, 4, 6)  # steps, of 8
TRAINED = ("adapter", "curves.parquet", "observed.json", "train.manifest.json")
STARTS = {"int8": "adapter", "nf4": "fresh"}


def quantised_study(clone, precision: str) -> None:
    """Write the configuration of the study, study.yaml."""
    study = yaml.safe_load((clone.folder / "config/smoke.yaml").read_text())
    study |= {"stack": "current", "seeds": [1], "data": write_data(clone), "sft_dpo": {"start": STARTS[precision]}}
    study["model"] |= {"precision": precision}
    study["tokens"] = {"max_length": 300, "on_overlong": "truncate"}
    study["generation"] = {"max_new_tokens": 4, "batch_size": 128}
    study["sft"] |= {"batch_size": 4, "micro_batch_size": 4}
    study["dpo"] |= {"batch_size": 2, "micro_batch_size": 1}
    if precision == "nf4":  # answers are int8's to try
        del study["data"]["heldout_prompts"]
    (clone.folder / "study.yaml").write_text(yaml.safe_dump(study))


def kill_in_training(clone, step: int) -> None:
    """Start the study, and SIGKILL Snakemake and its jobs as soon as SFT→DPO has saved `step`."""
    command = [str(SNAKEMAKE), "--cores", "2", "--quiet", "rules", "--configfile", "study.yaml"]
    with open(clone.folder / "output.txt", "w") as output:
        study = subprocess.Popen(command, cwd=clone.folder, stdout=output, stderr=output, start_new_session=True)
    saved = clone.folder / f"results/smoke/sft_dpo-seed1/checkpoints/step-{step:08d}"
    while not saved.exists():
        assert study.poll() is None, (clone.folder / "output.txt").read_text()[-3000:]
        time.sleep(0.002)
    os.killpg(study.pid, signal.SIGKILL)
    study.wait()


@pytest.mark.parametrize("precision", STARTS)
def test_every_gate_passes_and_three_kills_change_no_byte(clone, tmp_path, precision):
    quantised_study(clone, precision)
    done = clone.snakemake("--cores", "2", "--quiet", "rules", config="study.yaml")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Warning" not in done.stdout.replace("FutureWarning", "")
    study = clone.folder / "results" / "smoke"
    parity = json.loads((study / "parity.json").read_text())
    assert all(loss == pytest.approx(math.log(2), abs=1e-4) for loss in parity["step0_loss"].values())
    assert sorted(parity["step0_loss"]) == ["dpo_only-seed1", "sft_dpo-seed1"]
    stored = {"int8": "torch.int8", "nf4": "torch.uint8"}[precision]
    assert parity["alike"]["every run"]["frozen_dtypes"] == ["torch.bfloat16", stored]
    assert parity["alike"]["every run"]["trainable_dtypes"] == ["torch.float32"]
    verified = clone.snakemake("verify", config="study.yaml")
    assert verified.returncode == 0, verified.stdout[-3000:]

    whole, killed = results(clone.folder), clone.copy(tmp_path / "killed")
    for name in TRAINED:
        path = killed.folder / "results/smoke/sft_dpo-seed1" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for step in KILLED_AFTER:
        kill_in_training(killed, step)
        assert not (killed.folder / "results/smoke/sft_dpo-seed1/adapter/arm.json").exists()
    done = killed.snakemake("--cores", "2", "--quiet", "rules", config="study.yaml")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "going on from results/smoke/sft_dpo-seed1/checkpoints/step-" in done.stdout
    found = results(killed.folder)
    assert found.pop("report.html") != whole.pop("report.html")  # it says which jobs did not run again
    assert found == whole
