"""A run spread over several processes, as over several GPUs, here on CPUs: the same steps, one log, one exit code."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy
import pandas
import pytest
import safetensors.numpy
from conftest import DPO, LOCK, LORA, ROOT, SFT, training_flags

RESULTS = ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet", "observed.json")
RECIPE = {"epochs": 2, "batch_size": 8, "scheduler": "cosine", "warmup_ratio": 0.2}  # 6 steps of 4 micro-batches
CASES = {
    "sft": ("train_sft", {**SFT, "sft": {**SFT["sft"], **RECIPE}}, ["--tokens", "sft.parquet"]),
    "dpo": (
        "train_dpo",
        {**DPO, "dpo": {**DPO["dpo"], **RECIPE}},
        ["--tokens", "pairs.parquet", "--reference", "sft.table.parquet", "--start", "sft/arm.json"],
    ),
}
CASES["dpo, minimal"] = ("train_dpo", {**DPO, "dpo": {**CASES["dpo"][1]["dpo"], "engine": "minimal"}}, CASES["dpo"][2])
TWO = ["--processes", 2, "--threads", 2]


def run(study, case: str, output: str, *flags: object) -> str:
    """Train one of CASES into a folder; return what was printed."""
    rule, settings, data = CASES[case]
    return study.run(rule, settings, *training_flags(output), *data, *flags, arm="sft_dpo", seed="1")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_same_steps_as_one(study, case):
    run(study, case, f"{case}-one")
    printed = run(study, case, f"{case}-two", *TWO)
    assert printed.count("done: ") == printed.count("training: 6 steps") == 1  # rank 0 speaks
    one, two = (study.read(f"{case}-{name}/observed.json") for name in ("one", "two"))
    assert ("processes" in one, two["processes"]) == (False, 2)
    for name in ("batch_order_sha256", "tokens_seen", "steps", "rows", "trainable_parameters"):
        assert one[name] == two[name], name
    curves = [pandas.read_parquet(study.folder / f"{case}-{name}" / "curves.parquet") for name in ("one", "two")]
    difference = (curves[0] - curves[1]).abs().max().to_dict()
    for name in ("logp_chosen", "logp_rejected", "chosen_drift"):  # sums over a completion
        assert difference.pop(name, 0) < 1e-5, name  # measured: 1.9e-6
    assert max(difference.values()) < 1e-6, difference  # measured: 1.2e-7
    adapters = [
        safetensors.numpy.load_file(study.folder / f"{case}-{name}" / "adapter_model.safetensors")
        for name in ("one", "two")
    ]
    # measured: 4.5e-8, of weights up to 0.2
    assert max(numpy.abs(adapters[0][name] - adapters[1][name]).max() for name in adapters[0]) < 5e-7
    assert curves[0].iloc[0]["loss"] == curves[1].iloc[0]["loss"]  # before any update there is nothing to round


def under_way(study, output: str, settings: dict, *flags: object) -> subprocess.Popen:
    """SFT in two processes, in a process group of its own."""
    job = json.dumps({"rule": "train_sft", "wildcards": {"seed": "1"}, "settings": settings, "code": ""})
    command = [sys.executable, str(ROOT / "scripts" / "train_sft.py"), "--job", job, "--manifest", "m.json"]
    command += ["--lock", str(LOCK), *training_flags(output), "--tokens", "sft.parquet"]
    return subprocess.Popen(
        [*command, *map(str, [*TWO, *flags])],
        cwd=study.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_processes_killed_and_stopped_go_on_to_the_same_bytes(study):
    """With dropout, whose draws differ between the processes."""
    settings = {**SFT, "lora": {**LORA, "dropout": 0.1}, "sft": {**SFT["sft"], **RECIPE, "epochs": 20}}  # 60 steps
    flags = ["--tokens", "sft.parquet", *TWO]
    study.run("train_sft", settings, *training_flags("spread"), *flags, seed="1")
    folder = study.folder / "spread-cut"
    running = under_way(study, "spread-cut", settings, "--checkpoint-minutes", 0)
    while not list(folder.glob("checkpoints/step-0000000[5-9]")):
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    running = under_way(study, "spread-cut", settings, "--checkpoint-minutes", 1e6)
    for line in running.stdout:
        if "training: " in line:
            break
    running.send_signal(signal.SIGTERM)  # to the process that started the others
    said = running.stdout.read()
    assert running.wait() == 143
    assert said.count("stopped by SIGTERM at step ") == 1
    assert "stopped by SIGTERM at step " in said.splitlines()[-1]  # nothing of the others' end
    printed = study.run("train_sft", settings, *training_flags("spread-cut"), *flags, seed="1")
    assert "going on from spread-cut/checkpoints/step-" in printed
    for name in RESULTS:
        assert (folder / name).read_bytes() == (study.folder / "spread" / name).read_bytes(), name


def test_a_checkpoint_of_another_number_of_processes_is_not_used(study):
    settings = {**SFT, "sft": {**SFT["sft"], **RECIPE, "epochs": 20}}
    running = under_way(study, "another", settings, "--checkpoint-minutes", 0)
    while not list((study.folder / "another").glob("checkpoints/step-0000000[5-9]")):
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    printed = study.run("train_sft", settings, *training_flags("another"), "--tokens", "sft.parquet", seed="1")
    assert "a checkpoint of other settings or inputs, removed" in printed


def test_an_error_of_all_processes_is_said_once(study):
    settings = {**SFT, "sft": {**SFT["sft"], "batch_size": 6, "micro_batch_size": 2}}
    said = study.run(
        "train_sft", settings, *training_flags("odd"), "--tokens", "sft.parquet", *TWO, fails=True, seed="1"
    )
    assert (
        said
        == "error: batch_size 6 is not a multiple of micro_batch_size 2 times 2 GPUs; change one of them in "
        + ("the config\n")
    )


PROGRAM = """
import argparse, os, sys, time
sys.path.insert(0, {scripts!r})
from arms.job import processes
from arms.job.files import UserError, exit_with_message

def main():
    processes.spread(argparse.Namespace(processes=2, threads=2))
    processes.join()
    print(processes.gather(processes.rank() * 10), flush=True)
    processes.gather(None)  # it is printed
    if processes.rank() == 1:
        {end}
    processes.gather(None)  # for ever

exit_with_message(main)
"""
ENDS = {
    "a user's error": ('raise UserError("there is no such row")', 1, "error: there is no such row\n"),
    "killed": (
        "os.kill(os.getpid(), 9)",
        137,
        "error: process 1 of 2 ended with exit code 137, and so do the others\n",
    ),
    "a fault": ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
}


@pytest.mark.parametrize("case", ENDS)
def test_one_process_ends_all(tmp_path, case):
    end, code, message = ENDS[case]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(scripts=str(ROOT / "scripts"), end=end))
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert time.monotonic() - began < 50
    assert (done.returncode, done.stdout) == (code, "[0, 10]\n")
    assert message in done.stderr
    if case == "a user's error":
        assert done.stderr == message
