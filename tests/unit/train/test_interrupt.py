"""A job that gets SIGTERM, as clusters send it, saves and says so; the same command goes on to the same bytes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import LOCK, ROOT, SCORING, SFT, TOKENS, TORCH, training_flags

RESULTS = ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet", "observed.json")
LONG = {**SFT, "sft": {**SFT["sft"], "epochs": 50, "scheduler": "cosine", "warmup_ratio": 0.1}}  # 300 steps
NEVER = ["--checkpoint-minutes", 1e6]


def start(study, rule: str, settings: dict, *flags: object, stdout=subprocess.PIPE) -> subprocess.Popen:
    """A program under way."""
    job = json.dumps({"rule": rule, "wildcards": {"seed": "1"}, "settings": settings, "code": ""})
    command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json"]
    command += ["--lock", str(LOCK), *map(str, flags)]
    return subprocess.Popen(command, cwd=study.folder, stdout=stdout, stderr=subprocess.STDOUT, text=True)


def read_until(running: subprocess.Popen, text: str) -> None:
    """Read a program's output up to the line with `text`."""
    seen = []
    for line in running.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail("".join(seen))


def stopped(running: subprocess.Popen, folder: Path) -> tuple[str, int]:
    """Send SIGTERM to a training of 300 steps: (its last line, the step of the one checkpoint that it saved)."""
    read_until(running, "training: 300 steps")
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    last = running.stdout.read().splitlines()[-1]
    assert running.wait() == 143
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    return last, int(checkpoint.name.removeprefix("step-"))


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
    last, step = stopped(running, study.folder / "stopped")
    assert last == f"[train_sft 1] stopped by SIGTERM at step {step} of 300; the same command goes on from here"
    assert not (study.folder / "stopped" / "arm.json").exists()
    printed = study.run("train_sft", LONG, *flags, seed="1")
    assert f"going on from stopped/checkpoints/step-{step:08}" in printed
    assert f"training: {300 - step} steps" in printed
    assert same(study.folder / "stopped", whole)


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


GENERATION = {"max_new_tokens": 70, "temperature": 0.0, "top_p": 1.0, "samples": 1, "batch_size": 2, "seed": 5}
SAMPLED = {**GENERATION, "temperature": 1.2, "top_p": 0.9, "samples": 2, "batch_size": 4}
JOBS = {
    "greedy": ("generate", {**TORCH, "generation": GENERATION}, "prompts.parquet", "answers have ended"),
    "sampled": ("generate", {**TORCH, "generation": SAMPLED}, "prompts.parquet", "answers have ended"),
    "scores": ("score_pairs", {**SCORING, "batch_size": 1}, "pairs.parquet", "24 pairs"),
}


@pytest.fixture(scope="module")
def prompts(study) -> None:
    """prompts.parquet in the study's folder."""
    flags = ["--data", "data.jsonl", "--kind", "prompts", "--tokens", "prompts.parquet", "--audit", "prompts.json"]
    study.run("tokenize_data", TOKENS, "--model", "model/model.json", *flags)


def flags_of(output: str, tokens: str, *more: object) -> list:
    """The flags of a generation or scoring program."""
    flags = ["--model", "model/model.json", "--adapter", "sft/arm.json", "--tokens", tokens]
    output_flag = "--generations" if tokens == "prompts.parquet" else "--table"
    return [*flags, output_flag, f"{output}.parquet", *more]


def wait_for_checkpoints(running: subprocess.Popen, folder: Path, count: int) -> None:
    """Wait until a program has saved `count` checkpoints that were not there before."""
    before, seen = set(folder.glob("step-*")), set()
    while len(seen) < count:
        assert running.poll() is None, running.stdout.read()
        seen |= set(folder.glob("step-*")) - before
        time.sleep(0.001)


@pytest.mark.parametrize("case", JOBS)
def test_scoring_and_generation_go_on(study, prompts, case):
    rule, settings, tokens, said = JOBS[case]
    study.run(rule, settings, *flags_of(f"whole-{case}", tokens), seed="1")
    folder = study.folder / f"cut-{case}.progress"
    for count in (1, 5):
        running = start(study, rule, settings, *flags_of(f"cut-{case}", tokens, "--checkpoint-minutes", 0))
        wait_for_checkpoints(running, folder, count)
        running.kill()
        running.wait()
    killed = max(folder.glob("step-*"))  # the kill may have left an older one
    running = start(study, rule, settings, *flags_of(f"cut-{case}", tokens, *NEVER))
    read_until(running, f"going on from cut-{case}.progress/{killed.name}")
    running.send_signal(signal.SIGTERM)
    last = running.stdout.read().splitlines()[-1]
    assert running.wait() == 143
    assert "stopped by SIGTERM at " in last
    assert f"{said}; the same command goes on from here" in last
    (stopped,) = folder.glob("step-*")
    assert stopped.name > killed.name
    assert not (study.folder / f"cut-{case}.parquet").exists()
    printed = study.run(rule, settings, *flags_of(f"cut-{case}", tokens), seed="1")
    assert f"going on from cut-{case}.progress/{stopped.name}" in printed
    cut, whole = (study.folder / f"{name}-{case}.parquet" for name in ("cut", "whole"))
    assert cut.read_bytes() == whole.read_bytes()


def test_progress_of_another_job_is_removed(study):
    running = start(study, "score_pairs", SCORING, *flags_of("other", "pairs.parquet", "--checkpoint-minutes", 0))
    wait_for_checkpoints(running, study.folder / "other.progress", 2)
    running.kill()
    running.wait()
    flags = [flag for flag in flags_of("other", "pairs.parquet") if flag not in ("--adapter", "sft/arm.json")]
    printed = study.run("score_pairs", SCORING, *flags, seed="1")
    assert "a checkpoint of other settings or inputs, removed" in printed
    assert "going on from" not in printed
    assert (study.folder / "other.parquet").read_bytes() == (study.folder / "base.parquet").read_bytes()


def test_two_processes_do_not_write_the_same_result_at_once(study):
    """The second waits for the end of the first."""
    settings, flags = {**SCORING, "batch_size": 1}, flags_of("two", "pairs.parquet", "--checkpoint-minutes", 0)
    first = start(study, "score_pairs", settings, *flags)
    wait_for_checkpoints(first, study.folder / "two.progress", 1)
    first.send_signal(signal.SIGSTOP)
    second = start(study, "score_pairs", settings, *flags)
    read_until(second, "another process is at this job")
    (before,) = (study.folder / "two.progress").glob("step-*")
    time.sleep(1)
    assert [before] == list((study.folder / "two.progress").glob("step-*"))
    first.send_signal(signal.SIGCONT)
    first.communicate()
    assert (first.returncode, second.wait()) == (0, 0)
