"""One line at the bottom of the terminal that stays while jobs write above it: how far the study is, how long still.

Jobs write to the terminal themselves, past Snakemake. So whoever writes a line first clears the one that is there
(study/command.py lets `sed` do it for the jobs), and the driver draws it again. Nothing of the kind reaches a file.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

from study.journal import label
from study.remaining import Left, in_words, makespan, rest_of, share_done
from study.terminal import tail

CLEAR = "\r\033[K"
SECONDS = 1  # between two drawings
JUDGED_EVERY = 5  # seconds
UNKNOWN = 80  # columns of a terminal that does not tell
NAMED = 3  # running jobs that are named, with how far they are
VARIABLE = "SFT_VS_DPO_CLEAR"  # what jobs write before each line that goes to a terminal


class Line:
    """The progress of one run.

    jobs: those that the plan has. usual: rule -> seconds that its jobs took before. slots: threads, or jobs on a
    cluster, at a time.
    """

    def __init__(self, stream: TextIO, jobs: Iterable[Left], usual: Mapping[str, float], slots: int) -> None:
        self.stream, self.slots = stream, slots
        self.left = {job.name: job for job in jobs}
        self.total = len(self.left)
        self.took = {rule: [seconds] for rule, seconds in usual.items()}
        self.running: dict[int, tuple[str, float, list[str]]] = {}  # number -> name, since, logs
        self.judged = 0.0, 0.0  # when the rest was estimated last, and its seconds
        self.lock, self.closed = threading.RLock(), threading.Event()
        threading.Thread(target=self.keep, daemon=True).start()

    def keep(self) -> None:
        """Draw it again and again, since jobs clear it."""
        while not self.closed.wait(SECONDS):
            self.draw()

    def note(self, record: Any) -> None:
        """Take in what Snakemake logs about a job."""
        event = getattr(record, "event", None)
        with self.lock:
            if event == LogEvent.JOB_INFO:
                name = label(record.rule_name, record.wildcards or {})
                self.running[record.jobid] = (name, time.time(), list(record.log or []))
            elif event == LogEvent.JOB_FINISHED and record.job_id in self.running:
                name, since, _ = self.running.pop(record.job_id)
                if job := self.left.pop(name, None):
                    self.took.setdefault(job.rule, []).append(time.time() - since)
            elif event == LogEvent.JOB_ERROR:
                self.running.pop(record.jobid, None)

    def drop(self, name: str) -> None:
        """Forget a job that does not have to run after all."""
        with self.lock:
            self.total -= self.left.pop(name, None) is not None

    def text(self) -> str:
        """What the line says."""
        with self.lock:
            usual = {rule: statistics.median(seconds) for rule, seconds in self.took.items()}
            now, rest = time.time(), {}
            named: list[str] = []
            for name, since, logs in self.running.values():
                share = 0.0
                if len(named) < NAMED:
                    last = next((line for log in logs for line in reversed(tail(log)) if line.strip()), "")
                    share = share_done(last)
                    named.append(f"{name} {share:.0%}" if share else name)
                rule = self.left[name].rule if name in self.left else ""
                rest[name] = rest_of(usual.get(rule, 0.0), now - since, share)
            if now - self.judged[0] > JUDGED_EVERY:
                self.judged = now, makespan(self.left.values(), usual, rest, self.slots)
            seconds = max(self.judged[1] - (now - self.judged[0]), 0.0)
            unknown = {job.rule for job in self.left.values()} - usual.keys()
        known = seconds >= 1 and self.left
        time_left = f", {'at least' if unknown else 'about'} {in_words(seconds)} left" if known else ""
        more = f" and {len(rest) - len(named)} more" if len(rest) > len(named) else ""
        said = f" | {', '.join(named)}{more}" if named else ""
        return f"{self.total - len(self.left)} of {self.total} jobs{time_left}{said}"

    def draw(self) -> None:
        """Write it where the cursor is, on one row, without a line feed."""
        with self.lock:
            if self.closed.is_set():
                return
            try:
                width = os.get_terminal_size(self.stream.fileno()).columns or UNKNOWN
                self.stream.write(f"{CLEAR}{self.text()[: max(width - 1, 0)]}")
                self.stream.flush()
            except (OSError, ValueError):
                self.closed.set()  # the terminal is gone

    def clear(self) -> None:
        """Make room for another line."""
        self.stream.write(CLEAR)

    def close(self) -> None:
        """Clear it for good."""
        with self.lock:
            if not self.closed.is_set():
                self.closed.set()
                self.clear()
                self.stream.flush()


def wanted(stream: Any, jobs_write_to: Any, quiet: Iterable[str]) -> bool:
    """Whether there is a terminal that can show the line, and nobody asked for less."""
    terminals = all(getattr(one, "isatty", bool)() for one in (stream, jobs_write_to))
    return terminals and os.environ.get("TERM", "dumb") != "dumb" and not {"all", "progress"} & set(quiet)
