"""How long the rest of a study will take, judged by the benchmark files of its jobs that have ended."""

from __future__ import annotations

import csv
import heapq
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

STEPS = re.compile(r"\b(\d+)/(\d+) ")  # how a program tells how far it is: "step 12/24 loss ...", "40/160 pairs"


@dataclass(frozen=True)
class Left:
    """A job that has not ended. needs: what has to end before it, of which some may have."""

    name: str
    rule: str
    threads: int = 1
    needs: frozenset[str] = frozenset()


def seconds_by_rule(folder: str | Path) -> dict[str, float]:
    """Rule -> how long its jobs took (the median), of the rules with jobs that have ended."""
    found: dict[str, list[float]] = {}
    folder = Path(folder)
    for path in folder.glob("**/*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                found.setdefault(rule, []).extend(float(row["s"]) for row in csv.DictReader(lines, delimiter="\t"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or over too soon to be measured
    return {rule: statistics.median(seconds) for rule, seconds in found.items() if seconds}


def share_done(last_line: str) -> float:
    """How much of a job is done, as its log's last line tells; 0 if it does not."""
    found = STEPS.search(last_line)
    return min(1.0, int(found[1]) / max(1, int(found[2]))) if found else 0.0


def rest_of(usual: float, elapsed: float, share: float) -> float:
    """How many more seconds a running job takes.

    usual: what jobs of its rule took; 0: not known.
    """
    return elapsed * (1 - share) / share if share else max(usual - elapsed, 0.0)


def makespan(jobs: Iterable[Left], seconds: Mapping[str, float], running: Mapping[str, float], slots: int) -> float:
    """Seconds until all jobs have ended, if each starts as soon as it may and its threads are free.

    seconds: by rule; a job of another one takes no time. running: job -> seconds that it still takes.
    """
    waiting = {job.name: job for job in jobs if job.name not in running}
    threads = {job.name: min(job.threads, slots) for job in jobs}
    going = [(rest, name) for name, rest in running.items()]
    heapq.heapify(going)
    free, now = slots - sum(threads.get(name, 1) for name in running), 0.0
    open_jobs = set(waiting) | set(running)
    while going or waiting:
        for name, job in list(waiting.items()):
            if not job.needs & open_jobs and threads[name] <= max(free, 0):
                heapq.heappush(going, (now + seconds.get(job.rule, 0.0), name))
                free -= threads[name]
                del waiting[name]
        if not going:
            break  # what is left waits for what is not in the list
        now, name = heapq.heappop(going)
        free += threads.get(name, 1)
        open_jobs.discard(name)
    return now


def in_words(seconds: float) -> str:
    """A length of time: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
