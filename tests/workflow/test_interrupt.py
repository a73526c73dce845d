"""SIGTERM to every process of a job, as a cluster sends it, through the public command."""

import os
import signal
import subprocess
import time

from conftest import SMOKE, SNAKEMAKE

TARGET = "results/smoke/sft-seed1/observed.json"


def test_sigterm_to_all_processes_of_a_training_job(clone):
    clone.cold()
    log, folder = clone.folder / "results/smoke/logs/train_sft/seed1.log", clone.folder / "results/smoke/sft-seed1"
    clone.edit(SMOKE, "checkpoint_minutes: 0", "checkpoint_minutes: 1000000")
    clone.edit(SMOKE, "sft:\n", "sft:\n  epochs: 5\n")
    command = [str(SNAKEMAKE), "--cores", "1", TARGET, "--configfile", SMOKE]
    with open(clone.folder / "output.txt", "w") as output:
        study = subprocess.Popen(
            command, cwd=clone.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    while not (log.exists() and "training: " in log.read_text()):
        assert study.poll() is None, (clone.folder / "output.txt").read_text()
        time.sleep(0.02)
    os.killpg(study.pid, signal.SIGTERM)  # Snakemake, bash, the program, tee
    study.wait()
    assert study.returncode != 0
    assert "stopped by SIGTERM at step" in log.read_text()
    assert list(folder.glob("checkpoints/step-*/checkpoint.json"))
    done = clone.snakemake("--cores", "1", TARGET)
    assert done.returncode == 0, done.stdout
    assert "going on from results/smoke/sft-seed1/checkpoints/step-" in log.read_text()
    assert not (folder / "checkpoints").exists()
