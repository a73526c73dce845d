"""Estimates with known answers, the journal of a run, and what the terminal makes of Snakemake's records."""

import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from snakemake_interface_logger_plugins.common import LogEvent

from study import journal, line, slurm, terminal
from study.remaining import Left, in_words, makespan, rest_of, seconds_by_rule, share_done


def jobs(*described: str) -> list[Left]:
    """Jobs from text such as "b:2<a", b with two threads after a; a job's rule has its name."""
    found = []
    for text in described:
        name, _, needs = text.partition("<")
        name, _, threads = name.partition(":")
        found.append(Left(name, name, int(threads or 1), frozenset(filter(None, needs.split(",")))))
    return found


@pytest.mark.parametrize(
    ("left", "running", "slots", "expected"),
    [
        (jobs("a", "b", "c"), {}, 1, 6),  # one after another: 1 + 2 + 3
        (jobs("a", "b", "c"), {}, 3, 3),  # all at once: the longest
        (jobs("a", "b<a", "c<b"), {}, 8, 6),  # a chain, whatever is free
        (jobs("a:2", "b:2"), {}, 2, 3),
        (jobs("a:4", "b:4"), {}, 2, 3),  # threads are scaled down to what there is
        (jobs("a", "b<a", "c"), {"a": 10}, 2, 12),  # c beside a, then b
        (jobs("a", "c"), {"a": 0.5}, 1, 3.5),
        (jobs("b<elsewhere"), {}, 1, 2),  # what is not in the list has ended
        ([], {}, 2, 0),
        (jobs("unknown", "b<unknown"), {}, 1, 2),
    ],
)
def test_the_time_that_jobs_take_together(left, running, slots, expected):
    assert makespan(left, {"a": 1, "b": 2, "c": 3}, running, slots) == expected


def test_a_running_job_is_judged_by_its_own_steps_before_others():
    assert share_done("step 6/24 loss 0.69 | 2806 tokens/s, 40 s left") == 0.25
    assert share_done("40/160 pairs") == 0.25
    assert share_done("loading the base model") == 0
    assert rest_of(usual=100, elapsed=30, share=0.25) == 90
    assert rest_of(usual=100, elapsed=30, share=0) == 70
    assert rest_of(usual=20, elapsed=30, share=0) == 0


def test_benchmark_files_of_jobs_that_have_ended(tmp_path):
    for name, text in {
        "train_sft/seed1.tsv": "s\n10\n",
        "train_sft/seed2.tsv": "s\n30\n",
        "plot.tsv": "s\n4\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "grade.tsv").write_text("s\n-\n")  # over too soon
    (tmp_path / "report.tsv").write_text("")  # being written
    assert seconds_by_rule(tmp_path) == {"train_sft": 20, "plot": 4}
    assert seconds_by_rule(tmp_path / "none") == {}


def test_times_in_words():
    shown = [in_words(seconds) for seconds in (40, 600, 3600, 12000, 187200)]
    assert shown == ["40 s", "10 min", "1 h", "3 h 20 min", "2 d 4 h"]


WRITE = """
import sys, time
from study import journal
found, before = journal.begin("mine", command="snakemake --cores 2", slots=2)
print("refused" if found is None else "begun", before.killed, flush=True)
if found:
    found.write("began", job=1, rule="train_sft", wildcards={"seed": "1"}, log=["a.log"])
    found.write("submitted", job=1, slurm="7")
    found.write("locks", files=["a.lock"])
    sys.stdin.readline()
    found.close()
"""


def driver(folder) -> subprocess.Popen:
    """A process that writes the journal of a study until it gets a line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", WRITE], cwd=folder, env=environment, **pipes)


def test_a_journal_tells_a_living_run_from_a_killed_and_from_an_ended_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not journal.read("mine").begin
    with driver(tmp_path) as first:
        assert first.stdout.readline() == "begun False\n"
        time.sleep(0.5)
        run = journal.read("mine")
        assert (run.alive, run.killed, run.begin["pid"]) == (True, False, first.pid)
        assert run.jobs[1]["wildcards"] == {"seed": "1"}
        assert (run.jobs[1]["slurm"], run.locks) == ("7", ["a.lock"])
        assert [study for study, _ in journal.living()] == ["mine"]
        with driver(tmp_path) as second:
            assert second.stdout.readline() == "refused False\n"
        first.send_signal(signal.SIGKILL)
        first.wait()
    with journal.place("mine").open("a") as file:
        file.write('{"event": "ended", "jo')  # killed while it wrote
    run = journal.read("mine")
    assert (run.alive, run.killed, list(journal.living())) == (False, True, [])
    with driver(tmp_path) as third:
        assert third.stdout.readline() == "begun True\n"
        third.communicate("\n")
    run = journal.read("mine")
    assert (run.alive, run.killed, run.ended is None) == (False, False, False)


def test_a_journal_takes_what_snakemake_and_its_slurm_plugin_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _ = journal.begin("mine", command="snakemake", slots=1)
    began = {"jobid": 3, "rule_name": "train_sft", "wildcards": {"seed": "1"}, "log": ["a.log"]}
    found.handle(record("", LogEvent.JOB_INFO, **began))
    found.handle(record("Job 3 has been submitted with SLURM jobid 41 (log: x).", None))
    assert journal.read("mine").jobs[3]["slurm"] == "41"
    found.handle(record("", LogEvent.JOB_ERROR, jobid=3))
    assert "failed" in journal.read("mine").jobs[3]
    found.handle(record("", LogEvent.JOB_INFO, **began))  # tried again
    assert "failed" not in journal.read("mine").jobs[3]
    found.handle(record("", LogEvent.JOB_FINISHED, job_id=3))
    assert "ended" in journal.read("mine").jobs[3]
    found.close()


def test_what_the_plugin_logs_is_known():
    import inspect

    import snakemake_executor_plugin_slurm as plugin

    said = "".join(inspect.getsource(plugin.Executor.run_job).split())
    assert 'Job{job.jobid}hasbeensubmittedwithSLURMjobid"' in said.replace('f"', "").replace('"f', "") or (
        "hasbeensubmittedwithSLURMjobid" in said
    )
    assert slurm.SUBMITTED.match("Job 5 has been submitted with SLURM jobid 12 (log: a).").groups() == ("5", "12")


def record(text: str, event: LogEvent | None, level: int = logging.INFO, **facts: object) -> logging.LogRecord:
    """A record as Snakemake logs it."""
    return logging.makeLogRecord({"msg": text, "levelno": level, "event": event, **facts})


@pytest.fixture
def shown():
    """(a Terminal, the text that reached the handler behind it)."""
    text = io.StringIO()
    made = terminal.Terminal(
        logging.StreamHandler(text), lambda name: name != "theirs", lambda name: name == "verify", lambda: "locked"
    )
    return made, text


def failure(rule: str, log, job: int = 1, **aux: str) -> logging.LogRecord:
    facts = {"rule_name": rule, "jobid": job, "log": [str(log)], "rule_msg": "SLURM-job '9' failed. ", "aux": aux}
    return record(f"Error in rule {rule}", LogEvent.JOB_ERROR, logging.ERROR, **facts)


def end() -> logging.LogRecord:
    text = "WorkflowError:\nAt least one job did not complete successfully."
    return record(text, LogEvent.ERROR, logging.ERROR, exception="WorkflowError")


def test_messages_come_at_the_end_one_line_each_and_without_those_of_repeated_jobs(shown, tmp_path):
    made, text = shown
    (tmp_path / "a.log").write_text("[train] step 1/2 \nerror: a.jsonl, line 3:\n  mend it \x1b[31m\n")
    (tmp_path / "b.log").write_text("Traceback (most recent call last):\n  File\nKeyError: 'x'\n")
    (tmp_path / "c.log").write_text("")
    made.handle(failure("train", tmp_path / "a.log"))
    (tmp_path / "a.log").unlink()  # the next attempt removes it
    made.handle(failure("grade", tmp_path / "b.log", job=2))
    made.handle(failure("score", tmp_path / "c.log", job=3, external_jobid="9"))
    made.handle(failure("again", tmp_path / "b.log", job=4))
    made.handle(record("", LogEvent.JOB_FINISHED, job_id=4))
    made.handle(record("Exiting because a job execution failed. Look above", None, logging.ERROR))
    made.handle(end())
    *_, first, second, third = text.getvalue().splitlines()
    assert first == f"error: SLURM-job '9' failed. (log: {tmp_path}/c.log)"
    assert second == f"error: a.jsonl, line 3: mend it  [31m (log: {tmp_path}/a.log)"
    assert third == f"error: the program broke: KeyError: 'x' (log: {tmp_path}/b.log)"
    assert text.getvalue().count("KeyError") == 1
    assert "Exiting" not in text.getvalue()


@pytest.mark.parametrize(
    ("log", "around", "expected"),
    [
        (
            "Traceback (most recent call last):\n  File\nKeyboardInterrupt\n",
            "",
            "interrupted; the same command goes on",
        ),
        (
            "[a] stopped by SIGTERM at step 3/9; the same command goes on from here\n",
            "",
            "[a] stopped by SIGTERM at step",
        ),
        ("[a] step 3/9\n", "", "ended without a message: [a] step 3/9"),
        ("[a] step 3/9\n", "TIMEOUT. For further error details see", "TIMEOUT. ended without a message: [a] step 3/9"),
        ("", "", "ended before it said anything"),
        ("error: one\n[a] again\nerror: two\n", "TIMEOUT", "two"),
    ],
)
def test_what_is_said_of_a_job_that_left_no_message(tmp_path, log, around, expected):
    (tmp_path / "a.log").write_text(log)
    words, path, own = terminal.last_words([str(tmp_path / "a.log")], around)
    assert words.startswith(f"error: {expected}")
    assert path == str(tmp_path / "a.log")
    assert own == ("error" in log)


def test_what_a_rule_has_shown_is_not_said_again(shown, tmp_path):
    made, text = shown
    (tmp_path / "a.log").write_text("results: 3 faults\n")
    made.handle(failure("verify", tmp_path / "a.log"))
    made.handle(end())
    assert text.getvalue() == ""
    (tmp_path / "a.log").write_text("error: nothing is here\n")
    made.handle(failure("verify", tmp_path / "a.log"))
    made.handle(end())
    assert text.getvalue().endswith(f"error: nothing is here (log: {tmp_path}/a.log)\n")


def test_jobs_that_end_by_ctrl_c_are_no_faults(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, text = shown
    found, _ = journal.begin("mine", command="snakemake", slots=1)
    (tmp_path / "a.log").write_text("Traceback (most recent call last):\nKeyboardInterrupt\n")
    began = {"jobid": 1, "rule_name": "train", "wildcards": {}, "log": [str(tmp_path / "a.log")]}
    said = record("Terminating processes on user request, this might take some time.", None)
    for one in (record("", LogEvent.JOB_INFO, **began), said, failure("train", tmp_path / "a.log"), end()):
        found.handle(one)
        made.handle(one)
    assert text.getvalue().splitlines()[-1] == "Interrupted; the same command goes on from what is saved."
    assert "Failed" not in text.getvalue()
    assert "stopped" in journal.read("mine").jobs[1]
    found.close()


def test_rules_of_others_fail_in_snakemakes_words(shown, tmp_path):
    made, text = shown
    made.handle(failure("theirs", tmp_path / "a.log"))
    made.handle(end())
    assert "Error in rule theirs" in text.getvalue()
    assert "At least one job did not complete" in text.getvalue()


def test_what_the_study_found_wrong_is_shown_without_its_place_in_the_snakefile(shown):
    made, text = shown
    said = 'StudyError in file "/x/S", line 31:\nmine.yaml: seeds is missing;\n  add it\n  File "/x", line 31, in f'
    made.handle(record(said, LogEvent.ERROR, logging.ERROR, exception="StudyError"))
    assert text.getvalue() == "error: mine.yaml: seeds is missing;\n  add it\n"


def test_the_line_stays_below_what_is_written_and_goes_in_the_end(shown, monkeypatch, tmp_path):
    made, _ = shown
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as screen, os.fdopen(master, "rb", buffering=0) as seen:
        made.inner.setStream(screen)
        monkeypatch.setenv("TERM", "xterm")
        assert line.wanted(screen, screen, [])
        assert not line.wanted(screen, screen, ["progress"])
        with open(tmp_path / "file", "w") as file:
            assert not line.wanted(file, screen, [])
            assert not line.wanted(screen, file, [])
        monkeypatch.setattr(line, "SECONDS", 1000)
        made.line = line.Line(screen, jobs("train_sft seed=1", "b<train_sft seed=1"), {"train_sft seed=1": 10.0}, 2)
        (tmp_path / "a.log").write_text("[train_sft 1] step 6/24 loss 1\n")
        began = {"jobid": 3, "rule_name": "train_sft", "wildcards": {"seed": "1"}, "log": [str(tmp_path / "a.log")]}
        made.handle(record("begun", LogEvent.JOB_INFO, **began))
        made.handle(record("ended", LogEvent.JOB_FINISHED, job_id=3))
        made.line.drop("b")
        made.line.draw()
        made.close()
        written = b""
        while not written.endswith(line.CLEAR.encode()) or written.count(b"\n") < 2:
            written += seen.read(65536)
        rows = written.decode().split("\r\n")
    assert rows[0] == f"{line.CLEAR}begun"
    assert rows[1].startswith(f"{line.CLEAR}0 of 2 jobs")
    assert "| train_sft seed=1 25%" in rows[1]
    assert rows[1].endswith(f"{line.CLEAR}ended")
    assert rows[2] == f"{line.CLEAR}1 of 2 jobs{line.CLEAR}1 of 1 jobs{line.CLEAR}"


def test_a_journal_is_json_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _ = journal.begin("mine", command="snakemake", slots=1)
    found.close()
    events = [json.loads(text)["event"] for text in journal.place("mine").read_text().splitlines()]
    assert events == ["begin", "end"]
