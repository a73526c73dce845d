"""SLURM before the first job: does the scheduler answer, and do jobs of a killed driver still run?

The plugin's inside is reached at one place, `understand_cancelled`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from study.config import ConfigError

PLUGIN = "2.8.0"  # of snakemake-executor-plugin-slurm, which `understand_cancelled` and SUBMITTED know
SUBMITTED = re.compile(
    r"Job (\d+) has been submitted with SLURM jobid (\d+)"
)  # what it logs: Snakemake's number, SLURM's


def ask(*command: str) -> list[str]:
    """Output lines of a SLURM command; ConfigError in the user's words if it is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise ConfigError(
            f"--profile slurm: this machine has no SLURM (no {command[0]} on the PATH). Run the same command on a "
            "login node of your cluster, or here without it: snakemake --cores all"
        ) from None
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 1, "", "no answer within 2 minutes")
    if done.returncode:
        raise ConfigError(
            f"--profile slurm: the scheduler does not answer ({' '.join(command)}: {done.stderr.strip()}). Nothing was "
            "submitted; run the same command again when it does (`sinfo` tells)"
        )
    return done.stdout.splitlines()


def keeps_accounts() -> bool:
    """Whether the cluster has accounting, without which `sacct` fails for ever."""
    lines = ask("scontrol", "show", "config")
    accounting = next((line for line in lines if line.startswith("AccountingStorageType")), "")
    return "none" not in accounting and "(null)" not in accounting


@dataclass(frozen=True)
class Queued:
    """A job in the queue. since: when it began to run, in seconds; None: it has not."""

    state: str
    nodes: str
    reason: str
    since: float | None


def queue() -> dict[str, Queued]:
    """SLURM job id -> this user's jobs that wait or run."""
    found = {}
    for line in ask("squeue", "--noheader", "--me", "--format", "%i|%T|%N|%S|%r"):
        number, state, nodes, start, reason = line.split("|", 4)
        began = None
        if state != "PENDING":  # of those that wait it is an estimate
            with contextlib.suppress(ValueError):  # "N/A"
                began = datetime.datetime.fromisoformat(start).timestamp()
        found[number] = Queued(state, nodes, reason, began)
    return found


def earlier_jobs() -> dict[str, str]:
    """SLURM job id -> state of the jobs of this folder. At the start they are those of a driver that was killed."""
    states = {}
    for line in ask("squeue", "--noheader", "--me", "--format", "%i|%T|%k|%Z"):
        number, state, comment, folder = line.split("|", 3)
        if comment.startswith("rule_") and os.path.realpath(folder) == os.path.realpath(os.getcwd()):
            states[number] = state
    return states


def finish_earlier_jobs(say: Callable[[str], None]) -> bool:
    """Let the jobs of a killed driver finish, since a second job on the same target would undo the first.

    What waits in the queue is cancelled (nothing is lost), what runs goes on. Returns whether there were any: then the
    driver must plan again.
    """
    if not (states := earlier_jobs()):
        return False
    waiting = [number for number, state in states.items() if state == "PENDING"]
    if waiting:
        say(f"Cancelling jobs of an earlier driver that wait in the queue: {' '.join(waiting)}")
        ask("scancel", "--state=PENDING", *waiting)
    said = None
    while states:
        if set(states) != said:
            said = set(states)
            say(
                f"Jobs of an earlier driver, which was killed, still run: {' '.join(states)}. Waiting for them, since "
                "their work counts; `scancel` them to go on from their checkpoints at once"
            )
        time.sleep(5)
        with contextlib.suppress(ConfigError):  # the scheduler is away for a while: they may well go on without it
            states = earlier_jobs()
    say("They have ended; planning again")
    return True


def understand_cancelled() -> None:
    """Let plugin 2.8.0 see a cancelled job: sacct says "CANCELLED by 1000", for which it would wait for ever."""
    import snakemake_executor_plugin_slurm as plugin

    query = plugin.query_job_status

    async def query_job_status(command, logger):
        states, seconds = await query(command, logger)
        return states and {number: state.partition(" ")[0] for number, state in states.items()}, seconds

    plugin.query_job_status = query_job_status
