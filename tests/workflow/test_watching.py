"""What a person sees of a run: how far it is, that another one runs already, and why it failed, once and last."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import SMOKE, SNAKEMAKE, Clone

SFT = "results/smoke/sft-seed1/adapter/arm.json"
LOG = "results/smoke/logs/train_sft/seed1.log"


def errors(output: str) -> list[str]:
    """The messages of a run that failed: its last lines, each of them once, without what Snakemake says around them."""
    lines = output.rstrip().splitlines()
    found = [line for line in lines if line.startswith("error: ")]
    assert lines[-len(found) :] == found, output
    for noise in ("Traceback", "RuleException", "set -euo pipefail", "Error in rule", "At least one job", "--job"):
        assert noise not in output, output
    for line in found:
        assert output.count(line.removeprefix("error: ").rpartition(" (log: ")[0] or line) == 1, output
    return found


def test_a_fault_of_the_data_is_said_once_last_and_alone(clone):
    path = clone.folder / "config" / "data" / "preferences.jsonl"
    lines = path.read_text().splitlines()
    lines[150] = json.dumps({**json.loads(lines[150]), "chosen": "same", "rejected": "same"})
    path.write_text("\n".join(lines) + "\n")
    done = clone.snakemake("--cores", "2", "--until", "check_data")
    assert done.returncode == 1
    (line,) = errors(done.stdout)
    assert "config/data/preferences.jsonl, line 151: 'chosen' and 'rejected' are the same; " in line
    assert line.endswith("(log: results/smoke/logs/check_data/pairs.log)")
    assert "Failed: check_data (log: results/smoke/logs/check_data/pairs.log)" in done.stdout
    whole = max((clone.folder / ".snakemake" / "log").glob("*.log")).read_text()
    assert "Error in rule check_data" in whole, "the file keeps what the terminal spares"


def test_two_faults_of_training_are_a_line_each_and_status_shows_the_logs(finished, tmp_path):
    study = finished.copy(tmp_path / "study")
    study.edit(SMOKE, "learning_rate: 2.0e-3", "learning_rate: 1.0e+30")
    done = study.snakemake("--cores", "2", "--keep-going", "--until", "train_sft")
    assert done.returncode == 1
    for seed, line in enumerate(errors(done.stdout), 1):
        said = rf"error: train_sft {seed}: the loss is not finite at step \d+; lower the learning rate in the config"
        assert re.fullmatch(rf"{said} \(log: results/smoke/logs/train_sft/seed{seed}.log\)", line)
    shown = study.snakemake("status")
    assert shown.returncode == 0, shown.stdout
    assert re.search(r"^failed:\n  train_sft seed=\d at .* \(log: results/smoke/logs/train_sft/", shown.stdout, re.M)
    assert shown.stdout.count("    | error: train_sft") == 2
    assert "not running: the last run" in shown.stdout


def test_a_mistake_in_the_configuration_is_said_alone(clone):
    clone.edit(SMOKE, "learning_rate: 2.0e-3", "learning_rat: 2.0e-3")
    done = clone.snakemake("--cores", "2")
    (line,) = errors(done.stdout)
    assert re.match(r"error: \S.*config/smoke\.yaml: unknown key 'sft\.learning_rat'; did you mean", line)
    assert "Snakefile" not in done.stdout


def test_a_running_study_shows_how_far_it_is_and_keeps_a_second_run_out(finished, tmp_path):
    study = finished.copy(tmp_path / "study").cold()
    study.edit(SMOKE, "sft:\n", "sft:\n  epochs: 60\n")
    (study.folder / LOG).unlink()
    running = start(study, SFT)
    try:
        while not re.search(r"step \d+/", (study.folder / LOG).read_text() if (study.folder / LOG).exists() else ""):
            assert running.poll() is None, (study.folder / "output.txt").read_text()
            time.sleep(0.1)
        before = sorted(path.name for path in (study.folder / ".snakemake" / "locks").iterdir())
        shown = study.snakemake("status").stdout
        assert f"run by process {running.pid} on {os.uname().nodename}, since " in shown
        assert re.search(
            r"^under way:\n  train_sft seed=1: on \S+ \(process \d+\) since .*; step \d+/\d+ loss", shown, re.M
        )
        assert re.search(r"^ +2 train_sft \(1 under way\): about \d+ (s|min) each$", shown, re.MULTILINE)
        lasts = r"\d+ (s|min|h( \d+ min)?)"  # of the first steps' pace, so on a busy machine hours
        assert re.search(rf"^results/smoke: \d+ of 45 jobs are done, \d+ left: about {lasts}$", shown, re.MULTILINE)
        second = study.snakemake("--cores", "2", SFT)
        (line,) = errors(second.stdout)
        assert second.returncode == 1
        assert f"a run of this study is under way in this folder: process {running.pid} on " in line
        assert "`snakemake status --configfile config/smoke.yaml`" in line
        assert "unlock" not in second.stdout
        assert study.snakemake("--dry-run", SFT).returncode == 0
        assert before == sorted(path.name for path in (study.folder / ".snakemake" / "locks").iterdir())
        assert running.poll() is None
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    shown = study.snakemake("status").stdout
    assert f"not running: the last run (process {running.pid} on " in shown
    assert "was killed; the same command goes on from there (snakemake " in shown
    assert re.search(r"^under way when it was killed:\n  train_sft seed=1: .* ended with it; step", shown, re.MULTILINE)
    assert list((study.folder / ".snakemake" / "locks").iterdir()), "status clears nothing"
    again = start(study, SFT)
    try:
        while "[train_sft 1] going on from " not in (said := (study.folder / "output.txt").read_text()):
            assert again.poll() is None, said
            time.sleep(0.1)
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.wait()
    assert f"The run before this one (process {running.pid} on " in said
    assert "was killed; this one goes on from what it left." in said


def start(study: Clone, *targets: str) -> subprocess.Popen:
    """A run in a process group of its own; its output goes to output.txt there."""
    with open(study.folder / "output.txt", "w") as output:
        command = [str(SNAKEMAKE), "--cores", "2", *targets, "--configfile", SMOKE]
        return subprocess.Popen(
            command, cwd=study.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def test_locks_of_a_killed_run_that_nobody_may_clear_are_told_as_that(finished, tmp_path):
    """Beside the run of another study: whose locks these are, no journal tells."""
    study = finished.copy(tmp_path / "study")
    (study.folder / "results/smoke/report.html").unlink()
    locks = study.folder / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    holding = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_SH); print(flush=True); input()"
    )
    with subprocess.Popen(
        ["python3", "-c", holding, str(study.folder / ".snakemake" / "alive.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        (locks / "0.output.lock").write_text("results/smoke/report.html\n")
        done = study.snakemake("--cores", "2")
        (line,) = errors(done.stdout)
        assert "locks of a run that was killed" in line
        assert "`snakemake --unlock --configfile config/smoke.yaml`, then the same command" in line
        assert study.snakemake("--unlock").returncode == 0
        assert study.snakemake("--cores", "2").returncode == 0
        other.communicate(b"\n")


def test_the_status_of_a_finished_study_and_of_one_that_never_ran(finished, clone):
    shown = finished.snakemake("status")
    assert shown.returncode == 0
    assert "results/smoke: 45 of 45 jobs are done\nnot running: the last run (" in shown.stdout
    shown = clone.snakemake("status")
    assert (
        "results/smoke: 0 of 45 jobs are done, 45 left; how long they take, the first jobs that end will"
        in shown.stdout
    )
    assert "not running: start it with `snakemake --cores all --configfile config/smoke.yaml`" in shown.stdout
    assert not (clone.folder / "results" / "smoke").exists()
    both = clone.snakemake("status", "verify")
    assert both.returncode == 1
    assert "error: `snakemake status` stands alone" in both.stdout


@pytest.mark.parametrize("command", ["verify", "status"])
def test_what_only_reads_says_only_its_answer(finished, command):
    shown = finished.snakemake(command)
    assert shown.returncode == 0
    for noise in ("Building DAG", "Job stats", "Select jobs", "Complete log", "steps ("):
        assert noise not in shown.stdout, shown.stdout
