"""Drivers, `snakemake --profile slurm`, that a test starts, watches, holds and kills."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SMOKE, SNAKEMAKE, Clone

# Real sites are asked less often. Each answer that brings nothing new adds ten seconds to the next interval.
POLLING = (
    *("--slurm-init-seconds-before-status-checks", "3"),
    *("--seconds-between-status-checks", "1"),
    *("--max-status-checks-per-second", "1"),
)


def command(*arguments: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}"
    return done.stdout.strip()


def until(reached: Callable[[], object], what: str, seconds: float, state: Callable[[], str] = str) -> object:
    """Wait for `reached()` to be true and return its value; fail with `what` and `state()` after the deadline."""
    end = time.monotonic() + seconds
    while not (value := reached()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds} s\n{state()}", pytrace=False)
        time.sleep(0.1)
    return value


class Driver:
    """`snakemake --profile slurm` in a clone, as a process group of its own; its output goes to driver.txt there."""

    def __init__(self, clone: Clone, *arguments: str) -> None:
        self.clone, self.arguments = clone, arguments
        self.log = clone.folder / "driver.txt"
        self.process = None

    def start(self, **environment: str) -> None:
        """Start it, with the same command every time."""
        self.log.touch()
        self.earlier = self.log.stat().st_size
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                ["snakemake", "--profile", "slurm", *self.arguments, "--configfile", SMOKE, *POLLING],
                cwd=self.clone.folder,
                env={**os.environ, "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL it and what it has started, if it runs."""
        if self.alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def output(self) -> str:
        """What it has said since its last start."""
        return self.log.read_bytes()[self.earlier :].decode()

    def finish(self, seconds: float) -> None:
        """Wait for its end, which must be a success."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = f"none, killed after {seconds} s"
        assert code == 0, f"exit code of the driver: {code}\n{self.state()}"

    def logs(self) -> list[Path]:
        """SLURM's logs of the training jobs, oldest first; a requeued job appends to its first one."""
        found = self.clone.folder.glob("results/slurm_logs/rule_train_sft/**/*.log")
        return sorted(found, key=lambda path: int(path.stem))

    def state(self) -> str:
        """What a person wants to see after a failure."""
        queue = subprocess.run(["squeue", "--long"], text=True, stdout=-1, stderr=subprocess.STDOUT).stdout
        logs = "".join(f"\n--- {path.name} ---\n{path.read_text()[-2500:]}" for path in self.logs())
        return f"--- squeue ---\n{queue}--- driver ---\n{self.log.read_text()[-5000:]}{logs}"


class Training(Driver):
    """A driver that makes one SFT adapter, and the training job that it submits."""

    target = "results/smoke/sft-seed3/adapter/arm.json"

    def __init__(self, clone: Clone) -> None:
        super().__init__(clone, self.target)

    def wait_for(self, reached: Callable[[], object], what: str, seconds: float = 180) -> object:
        """Wait, as `until` does, with this training's state as explanation."""
        return until(reached, what, seconds, self.state)

    def job(self) -> str:
        """Number of the SLURM job submitted last, known from its log."""
        return self.logs()[-1].stem

    def states(self) -> list[str]:
        """States of the SLURM jobs so far, in the accounting's words without who has cancelled one."""
        numbers = ",".join(path.stem for path in self.logs())
        lines = command("sacct", "-X", "-n", "-P", "-o", "JobIDRaw,State", "-j", numbers).splitlines()
        states = dict(line.split("|") for line in lines)
        return [states[path.stem].partition(" ")[0] for path in self.logs()]

    def processes(self) -> list[int]:
        """The training programs that run in this clone."""
        return [
            pid
            for pid in processes_in(self.clone.folder)
            if len(arguments(pid)) > 1 and arguments(pid)[1].endswith("/train_sft.py")  # not the shell around it
        ]

    def step(self) -> int:
        """The step of the last checkpoint; 0 if there is none."""
        names = [path.name for path in self.clone.folder.glob("results/smoke/sft-seed3/checkpoints/step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def reach(self, step: int) -> int:
        """Wait until a checkpoint of that step or a later one exists; return its step."""
        return self.wait_for(lambda: max(self.step() - step + 1, 0), f"training at step {step}") + step - 1

    def hold(self, step: int) -> int:
        """Stop the training program (SIGSTOP) at that step or a little later; return the step of its checkpoint."""
        self.reach(step)
        (pid,) = self.processes()
        os.kill(pid, signal.SIGSTOP)
        self.wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        return self.step()

    def release(self) -> None:
        """Let a held training go on."""
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def started(self) -> list[int]:
        """Steps that lay before each training program that has started, in order."""
        return [int(steps) for log in self.logs() for steps in re.findall(r"training: (\d+) steps", log.read_text())]


def processes() -> list[int]:
    """Process ids."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments(pid: int) -> list[str]:
    """Command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes that work in a folder."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve():
                found.append(pid)
    return found
