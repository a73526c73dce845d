"""The journal of a study's last run: which jobs began, ended and failed, and whether its driver lives.

A driver holds the kernel's lock on the journal that it writes, which goes with its process, however that ends. So one
run of a study can be in a folder at a time, whoever reads the journal can tell a living driver from a killed one, and
neither depends on files that somebody has to remove.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from study.slurm import SUBMITTED

FOLDER = Path(".snakemake", "runs")
INTERRUPTED = "Terminating processes on user request"  # what Snakemake says after Ctrl-C, before its jobs fail
TRIES = 10  # tenths of a second: somebody may be reading the journal


@dataclass
class Run:
    """What a journal tells; times are in seconds.

    jobs: Snakemake's number -> {rule, wildcards, log, began, slurm (its number there), and ended, failed or stopped}.
    """

    alive: bool = False
    begin: dict[str, Any] = field(default_factory=dict)
    ended: float | None = None
    locks: list[str] = field(default_factory=list)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def killed(self) -> bool:
        """Whether its driver ended without saying so."""
        return bool(self.begin) and not self.alive and self.ended is None

    def __str__(self) -> str:
        """Which process it is, since when."""
        return f"process {self.begin['pid']} on {self.begin['host']}, since {clock(self.begin['time'])}"


class Journal(logging.Handler):
    """Writes down what Snakemake logs about jobs. `begin` makes one."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file, self.interrupted = file, False

    def emit(self, record: Any) -> None:
        """Write one event of a job."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            words = {"rule": record.rule_name, "wildcards": dict(record.wildcards or {}), "log": list(record.log or [])}
            self.write("began", job=record.jobid, **words)
        elif event == LogEvent.JOB_FINISHED:
            self.write("ended", job=record.job_id)
        elif event == LogEvent.JOB_ERROR:
            self.write("stopped" if self.interrupted else "failed", job=record.jobid)
        elif str(record.msg).startswith(INTERRUPTED):
            self.interrupted = True
        elif found := SUBMITTED.match(str(record.msg)):
            self.write("submitted", job=int(found[1]), slurm=found[2])

    def write(self, event: str, **facts: object) -> None:
        """Write one line; a full disk is no reason to stop a study."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            print(json.dumps({"event": event, "time": round(time.time(), 1), **facts}), file=self.file, flush=True)

    def close(self) -> None:
        """Tell that the driver ended in good order, and let the lock go."""
        if not self.file.closed:
            self.write("end")
            self.file.close()
        super().close()


def place(study: str) -> Path:
    """Where the journal of a study is."""
    return FOLDER / f"{study}.jsonl"


def begin(study: str, **facts: object) -> tuple[Journal | None, Run]:
    """(the journal of a new run, the run before); (None, that run) if it still lives.

    facts: what is told of the new one, JSON values.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = place(study).open("a+", encoding="utf-8")
    for waiting in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting == TRIES - 1:
                file.close()
                return None, read(study)
            time.sleep(0.1)
        except OSError:
            break  # a file system without such locks
        else:
            break
    before = parse(file)
    file.truncate(0)
    journal = Journal(file)
    journal.write("begin", pid=os.getpid(), host=platform.node(), **facts)
    return journal, before


def read(study: str) -> Run:
    """The last run of a study; an empty one if there was none."""
    try:
        with place(study).open(encoding="utf-8") as file:
            run = parse(file)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                run.alive = True
            except OSError:
                run.alive = run.ended is None  # cannot be told
    except FileNotFoundError:
        return Run()
    return run


def living() -> Iterator[tuple[str, Run]]:
    """(study, run) of the runs in this folder whose drivers live, but for this process."""
    for path in sorted(FOLDER.glob("*.jsonl")):
        run = read(path.stem)
        if run.alive and (run.begin.get("pid"), run.begin.get("host")) != (os.getpid(), platform.node()):
            yield path.stem, run


def parse(file: Any) -> Run:
    """What the lines of a journal say; a line that a killed driver left unfinished says nothing."""
    run = Run()
    file.seek(0)
    for line in file:
        with contextlib.suppress(ValueError, KeyError):
            entry = json.loads(line)
            event = entry.pop("event")
            if event == "begin":
                run = Run(begin=entry)
            elif event == "locks":
                run.locks = entry["files"]
            elif event == "end":
                run.ended = entry["time"]
            elif event == "began":
                run.jobs[entry["job"]] = {**entry, "began": entry["time"]}
            elif event == "submitted":
                run.jobs[entry["job"]]["slurm"] = entry["slurm"]
            else:
                run.jobs[entry["job"]][event] = entry["time"]
    return run


def refused(study: str, living: list[tuple[str, Run]], again: str) -> str:
    """Why a run of `study` is not started beside those that live in its folder, and what to do.

    living: study and run of each. again: the options that name this study.
    """
    for other, run in living:
        if study == other:
            return (
                f"a run of this study is under way in this folder: {run} ({run.begin['command']}). `snakemake status"
                f"{again}` shows how far it is. `kill -INT {run.begin['pid']}` there ends it, and the same command "
                "goes on later. Nothing was started, and nothing of it was touched"
            )
    if living:
        return (
            "a run in this folder holds files that this one needs, or a killed one left its locks. Alive: "
            f"{'; '.join(f'{other}, {run}' for other, run in living)}. Wait for its end (`snakemake status` with its "
            "configuration shows how far it is) and run the same command again: it clears the locks of killed runs"
        )
    return (
        "locks of a run that was killed, perhaps on another machine, keep this one out, and this file system does not "
        f"tell whether it lives. If nothing runs here: `snakemake --unlock{again}`, then the same command"
    )


def label(rule: str, wildcards: dict[str, str]) -> str:
    """A job in words: its rule and wildcards."""
    return " ".join([rule, *(f"{name}={value}" for name, value in wildcards.items() if value)])


def clock(seconds: float) -> str:
    """A time of day, with the date unless it is today's."""
    then, now = datetime.datetime.fromtimestamp(seconds), datetime.datetime.now()
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%Y-%m-%d %H:%M")
