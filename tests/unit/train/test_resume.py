"""A training job that is killed at any moment and started again ends with the bytes of one that never was."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DPO, LOCK, LORA, RECIPE, ROOT, SFT, training_flags

from arms.job import progress

RESULTS = ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet", "observed.json")
FROM_SFT = ["--reference", "sft.table.parquet", "--start", "sft/arm.json"]
MISMATCHED = ["--mismatched", "mismatched.parquet", "--mismatched-reference", "mismatched.sft.parquet"]
# name: (rule, settings, flags)
DROPOUT = {**LORA, "dropout": 0.1}
ALIKE_CASES = ("dpo, going on with the SFT adapter", "dpo, a fresh adapter on the SFT adapter")
ALIKE = pytest.mark.test_all("saves and goes on as DPO from the base and KTO from the SFT adapter do")
CASES = {
    "sft, two epochs": (
        "train_sft",
        {**SFT, "sft": {**SFT["sft"], "epochs": 2, "scheduler": "cosine", "warmup_ratio": 0.2}},
        ["--tokens", "sft.parquet"],
    ),
    "dpo, going on with the SFT adapter": (
        "train_dpo",
        {**DPO, "dpo": {**DPO["dpo"], "epochs": 1.5, "scheduler": "cosine"}},
        ["--tokens", "pairs.parquet", *FROM_SFT],
    ),
    "dpo from the base, dropout": (
        "train_dpo",
        {**DPO, "lora": DROPOUT, "dpo": {**DPO["dpo"], "epochs": 2}},
        ["--tokens", "pairs.parquet", "--reference", "base.parquet"],
    ),
    "kto, going on with the SFT adapter, dropout": (
        "train_objective",
        {
            **{name: value for name, value in DPO.items() if name != "dpo"},
            "lora": DROPOUT,
            "objective": "kto",
            "kto": {**RECIPE, "epochs": 1.5, "beta": 0.1, "desirable_weight": 2.0, "undesirable_weight": 1.0},
        },
        ["--tokens", "pairs.parquet", *FROM_SFT, *MISMATCHED],
    ),
    "dpo, a fresh adapter on the SFT adapter": (
        "train_dpo",
        {**DPO, "start": "fresh", "dpo": {**DPO["dpo"], "epochs": 2}},
        ["--tokens", "pairs.parquet", *FROM_SFT],
    ),
}


def kill_after(study, step: int, rule: str, settings: dict, flags: list) -> None:
    """Start a training program and SIGKILL it as soon as the checkpoint of `step` is there."""
    job = json.dumps({"rule": rule, "wildcards": {"arm": "sft_dpo", "seed": "1"}, "settings": settings, "code": ""})
    command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "killed.json"]
    command += ["--lock", str(LOCK), *map(str, flags)]
    folder = Path(flags[flags.index("--checkpoints") + 1])
    running = subprocess.Popen(command, cwd=study.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list((study.folder / folder).glob(f"step-{step:08d}")):
        if running.poll() is not None:
            pytest.fail(f"ended before step {step}: {running.stdout.read()}")
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()


@pytest.mark.parametrize("case", [pytest.param(case, marks=ALIKE if case in ALIKE_CASES else []) for case in CASES])
def test_killed_and_resumed_equals_uninterrupted(study, case):
    rule, settings, data = CASES[case]
    label = case.replace(",", "").replace(" ", "-")
    if rule == "train_objective":
        study.mismatch("mismatched.sft.parquet", "--adapter", "sft/arm.json")
    wildcards = {"arm": "sft_dpo", "seed": "1"}
    study.run(rule, settings, *training_flags(f"{label}/whole"), *data, **wildcards)
    flags = [*training_flags(f"{label}/killed"), *data, "--checkpoint-minutes", 0]
    for step in (2, 7):  # of 9 or 12; an epoch has 6
        kill_after(study, step, rule, settings, flags)
    assert not (study.folder / label / "killed" / "arm.json").exists()
    printed = study.run(rule, settings, *flags, **wildcards)
    assert f"going on from {label}/killed/checkpoints/step-" in printed
    for name in RESULTS:
        assert (study.folder / label / "killed" / name).read_bytes() == (
            study.folder / label / "whole" / name
        ).read_bytes()


@pytest.fixture
def interrupted(study, tmp_path):
    """(folder, flags) of a run that was killed after its third step."""
    folder = study.folder / f"interrupted-{tmp_path.name}"
    flags = [*training_flags(folder.name), "--tokens", "pairs.parquet", *FROM_SFT, "--checkpoint-minutes", 0]
    kill_after(study, 3, "train_dpo", DPO, flags)
    return folder, flags


def test_a_checkpoint_that_changed_is_not_read(study, interrupted):
    folder, flags = interrupted
    for path in folder.glob("checkpoints/*/tensors.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    printed = study.run("train_dpo", DPO, *flags, arm="sft_dpo", seed="1")
    assert "changed since it was written; the checkpoint is removed" in printed
    assert "going on from" not in printed


def test_a_checkpoint_of_other_settings_is_not_used(study, interrupted):
    _, flags = interrupted
    other = {**DPO, "dpo": {**DPO["dpo"], "beta": 0.2}}
    printed = study.run("train_dpo", other, *flags, arm="sft_dpo", seed="1")
    assert "a checkpoint of other settings or inputs, removed" in printed
    assert "going on from" not in printed


def test_half_a_checkpoint_is_not_used(study, interrupted):
    folder, flags = interrupted
    for path in folder.glob("checkpoints/step-*"):
        shutil.copytree(path, path.with_name(f".partial-{path.name}"))
        (path / progress.CARD).unlink(missing_ok=True)  # an older one was being removed when the job was killed
    printed = study.run("train_dpo", DPO, *flags, arm="sft_dpo", seed="1")
    assert "going on from" not in printed


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_in_a_checkpoint_is_unpickled(study, interrupted):
    """transformers' own resume runs the code in a planted rng_state.pth; ours reads safetensors and JSON only."""
    folder, flags = interrupted
    newest = max(folder.glob("checkpoints/step-*"))
    assert {file.suffix for file in newest.iterdir()} == {".json", ".safetensors"}
    for name in ("rng_state.pth", "optimizer.pt", "scheduler.pt", "training_args.bin", "pytorch_model.bin"):
        (newest / name).write_bytes(pickle.dumps(Bomb()))
    assert "going on from" in study.run("train_dpo", DPO, *flags, arm="sft_dpo", seed="1")
    assert not (study.folder / "exploded").exists()
