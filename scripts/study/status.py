"""`snakemake status`: what of a study runs where and how far it is, what failed, and what is left.

It reads manifests, the journal of the last run (study/journal.py), the logs of jobs and, for jobs on SLURM, the queue.
Nothing is made, locked or stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import slurm
from study.config import ConfigError
from study.journal import Run, clock, label
from study.remaining import Left, in_words, makespan, rest_of, seconds_by_rule, share_done
from study.reruns import Reruns
from study.terminal import tail

LINES = 5  # of the log of a job that failed
FEW = 3  # rules that are named


@dataclass(frozen=True)
class Job:
    """A job of the study. left: whether it has to run, for itself or because of one before it."""

    name: str
    rule: str
    manifest: str
    threads: int
    needs: frozenset[str]
    left: bool


@dataclass(frozen=True)
class Going:
    """A job that has begun. seconds: since then, while it runs; None: it waits, or nobody runs it any more."""

    name: str
    where: str
    far: str
    seconds: float | None


def lines(results: str, jobs: list[Job], run: Run, again: str) -> Iterator[str]:
    """The lines of the answer. again: the options that name this study, for commands that are proposed."""
    left = {job.name: job for job in jobs if job.left}
    usual = seconds_by_rule(Path(results, "benchmarks"))
    going = list(under_way(run, jobs, left))
    yield f"{results}: {len(jobs) - len(left)} of {len(jobs)} jobs are done{time_left(left, usual, going, run)}"
    yield of_run(run, bool(left), again)
    if going:
        yield "under way:" if run.alive else "under way when it was killed:" if run.killed else "still under way:"
        for one in going:
            yield f"  {one.name}: {one.where}{f'; {one.far}' if one.far else ''}"
    failed = [one for one in run.jobs.values() if "failed" in one]
    if failed:
        yield "failed:"
    for broken in failed:
        logs = broken["log"]
        yield f"  {label(broken['rule'], broken['wildcards'])} at {clock(broken['failed'])} (log: {', '.join(logs)})"
        for line in [line for log in logs for line in tail(log) if line.strip()][-LINES:]:
            yield f"    | {line.strip()}"
    if left:
        yield "left:"
    counts, names = Counter(job.rule for job in left.values()), {one.name for one in going}
    for rule, count in reversed(counts.items()):
        begun = sum(job.rule == rule and job.name in names for job in left.values())
        took = f"about {in_words(usual[rule])} each" if rule in usual else "none has ended yet"
        yield f"  {count:4} {rule}{f' ({begun} under way)' if begun else ''}: {took}"


def time_left(left: dict[str, Job], usual: dict[str, float], going: list[Going], run: Run) -> str:
    """How much is left, and for how long."""
    if not left:
        return ""
    text = f", {len(left)} left"
    slots = run.begin.get("slots") or os.cpu_count() or 1
    shares = {one.name: share_done(one.far) for one in going}
    rest = {
        one.name: rest_of(usual.get(left[one.name].rule, 0.0), one.seconds, shares[one.name])
        for one in going
        if one.seconds is not None and one.name in left
    }
    todo = [Left(job.name, job.rule, job.threads, job.needs) for job in left.values()]
    rules = {job.rule for job in left.values() if job.name not in rest or not (job.rule in usual or shares[job.name])}
    unknown = rules - usual.keys()
    seconds = makespan(todo, usual, rest, slots)
    if not seconds:
        return f"{text}; how long they take, the first jobs that end will tell"
    if not unknown:
        return f"{text}: about {in_words(seconds)}"
    which = ", ".join(sorted(unknown)) if len(unknown) <= FEW else f"{len(unknown)} rules"
    return f"{text}: at least {in_words(seconds)}, not counting {which}, of which no job has ended yet"


def of_run(run: Run, left: bool, again: str) -> str:
    """Which run it is that the rest is about, and what to do if none lives."""
    goes_on = f"; the same command goes on from there ({run.begin['command']})" if run.begin and left else ""
    if run.alive:
        return f"run by {run} ({run.begin['command']})"
    if run.killed:
        return f"not running: the last run ({run}) was killed{goes_on}"
    if run.ended:
        return f"not running: the last run ({run}) ended at {clock(run.ended)}{goes_on}"
    return f"not running: start it with `snakemake --cores all{again}`" if left else "not running"


def under_way(run: Run, jobs: list[Job], left: dict[str, Job]) -> Iterator[Going]:
    """Each job that has begun and not ended, where it is, and how far."""
    begun = [one for one in run.jobs.values() if not {"ended", "failed", "stopped"} & one.keys()]
    known, here = {job.name: job for job in jobs}, processes({job.manifest: job.name for job in jobs})
    queue, trouble = queued(run, begun)
    for one in begun:
        name = label(one["rule"], one["wildcards"])
        if name in known and name not in left and not run.alive:
            continue  # it ended without its driver
        last = next((line for log in one["log"] for line in reversed(tail(log)) if line.strip()), "")
        far = last.partition("] ")[2] if last.startswith("[") else last
        now, began = time.time(), one["began"]
        if number := one.get("slurm"):
            found = queue.get(number)
            where, start = (trouble, None) if trouble else place_in_queue(number, found, began, run.alive)
            if start is None:  # a log, if any, is that of an earlier run
                yield Going(name, where, "", None)
            else:
                yield Going(name, where, far, now - start)
        elif run.alive or name in here:
            goes_on = "" if run.alive else ", goes on"
            process = f" (process {here[name]}{goes_on})" if name in here else ""
            since = f"since {clock(began)}, {in_words(now - began)}"
            yield Going(name, f"on {run.begin['host']}{process} {since}", far, now - began)
        else:
            yield Going(name, f"on {run.begin['host']} since {clock(began)}, ended with it", far, None)


def queued(run: Run, begun: list[dict]) -> tuple[dict[str, slurm.Queued], str]:
    """(what the scheduler says of this user's jobs, why it says nothing)."""
    if not any("slurm" in one for one in begun):
        return {}, ""
    try:
        return slurm.queue(), ""
    except ConfigError as error:
        return {}, str(error)


def place_in_queue(number: str, found: slurm.Queued | None, began: float, alive: bool) -> tuple[str, float | None]:
    """(where a SLURM job is, since when it runs; None if it does not)."""
    if found is None:
        return f"SLURM job {number} has left the queue{'; its driver will look' * alive}", None
    if found.state == "PENDING":
        return f"SLURM job {number} waits in the queue since {clock(began)}: {found.reason}", None
    since = found.since or began
    ran = in_words(time.time() - since)
    return f"SLURM job {number} on {found.nodes or 'no node'}, {found.state.lower()} since {clock(since)}, {ran}", since


def processes(manifests: dict[str, str]) -> dict[str, int]:
    """Name of a job -> the process on this machine that runs its program in this folder."""
    found: dict[str, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            flag = words.index("--manifest") if "--manifest" in words else None
            if flag is not None and words[flag + 1] in manifests and os.path.samefile(folder / "cwd", "."):
                found.setdefault(manifests[words[flag + 1]], int(folder.name))
    return found


def jobs(expanded: list[Any], reruns: Reruns) -> list[Job]:
    """The jobs of a study, and which have to run: for a reason of their own, or because one before them does.

    expanded: each with rule, wildcards, threads, params.job, input and output.
    """
    reruns.learn(expanded)
    names = {str(one.output.manifest): label(one.rule, one.wildcards) for one in expanded}
    makers = {str(path): names[str(one.output.manifest)] for one in expanded for path in one.output}
    needs = {
        names[str(one.output.manifest)]: frozenset(
            makers[str(path)] for path in one.input if str(path) in makers and not path.is_ancient
        )
        for one in expanded
    }
    left = {names[str(one.output.manifest)] for one in expanded if reruns.reasons(one)}
    while more := {name for name in needs if name not in left and needs[name] & left}:
        left |= more
    manifests = {name: manifest for manifest, name in names.items()}
    return [
        Job(name, one.rule, manifests[name], one.threads, needs[name], name in left)
        for one, name in zip(expanded, names.values(), strict=True)
    ]
