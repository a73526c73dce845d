"""A job that gets SIGTERM, as clusters send it, saves and says so; the same command goes on to the same bytes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SFT, training_flags

RESULTS = ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet", "observed.json")
LONG = {**SFT, "sft": {**SFT["sft"], "epochs": 50, "scheduler": "cosine", "warmup_ratio": 0.1}}  # 300 steps
NEVER = ["--checkpoint-minutes", 1e6]


def start(study, rule: str, settings: dict, *flags: object, stdout=subprocess.PIPE) -> subprocess.Popen:
    """A program under way."""
    job = json.dumps({"rule": rule, "wildcards": {"seed": "1"}, "settings": settings, "code": ""})
    command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json"]
    command += ["--lock", str(ROOT / "envs" / "train.yaml"), *map(str, flags)]
    return subprocess.Popen(command, cwd=study.folder, stdout=stdout, stderr=subprocess.STDOUT, text=True)


def read_until(running: subprocess.Popen, text: str) -> None:
    """Read a program's output up to the line with `text`."""
    seen = []
    for line in running.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail("".join(seen))


def same(folder: Path, other: Path) -> bool:
    """Whether two runs left the same bytes."""
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


@pytest.fixture(scope="module")
def whole(study) -> Path:
    """The folder of a run that nobody interrupted."""
    study.run("train_sft", LONG, *training_flags("whole"), "--tokens", "sft.parquet", seed="1")
    return study.folder / "whole"


def test_sigterm_saves_a_checkpoint_and_the_run_goes_on_from_it(study, whole):
    flags = [*training_flags("stopped"), "--tokens", "sft.parquet", *NEVER]
    running = start(study, "train_sft", LONG, *flags)
    read_until(running, "training: 300 steps")
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    last = running.stdout.read().splitlines()[-1]
    assert running.wait() == 143
    (checkpoint,) = (study.folder / "stopped" / "checkpoints").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    assert last == f"[train_sft 1] stopped by SIGTERM at step {step} of 300; the same command goes on from here"
    assert not (study.folder / "stopped" / "arm.json").exists()
    printed = study.run("train_sft", LONG, *flags, seed="1")
    assert f"going on from stopped/checkpoints/{checkpoint.name}" in printed
    assert f"training: {300 - step} steps" in printed
    assert same(study.folder / "stopped", whole)
    assert not (study.folder / "stopped" / "checkpoints").exists()


def test_a_dead_log_loses_neither_checkpoint_nor_exit_code(study, whole):
    """SIGTERM may end `tee` before the program has said anything; every later line meets a broken pipe."""
    flags = [*training_flags("dead log"), "--tokens", "sft.parquet", *NEVER]
    running = start(study, "train_sft", LONG, *flags)
    read_until(running, "loading the base model")
    running.stdout.close()
    while not _handles_sigterm(running.pid):
        assert running.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 143
    assert list((study.folder / "dead log" / "checkpoints").glob("step-*/checkpoint.json"))
    assert "going on from" in study.run("train_sft", LONG, *flags, seed="1")
    assert same(study.folder / "dead log", whole)


def _handles_sigterm(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_before_training_ends_at_once(study):
    running = start(study, "train_sft", LONG, *training_flags("early"), "--tokens", "sft.parquet", *NEVER)
    read_until(running, "loading the base model")
    running.send_signal(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM  # 143 to bash
