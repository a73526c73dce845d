"""What a job has done so far, in a folder that survives SIGKILL at any moment and SIGTERM in good order.

A cluster sends SIGTERM (time limit, preemption, scancel, requeue) and some seconds later SIGKILL. Once a job has begun,
SIGTERM only asks it to stop: it saves at its next safe place (the end of an optimiser step, of a batch) and ends with
exit code 143, as bash reports a SIGTERM. Before it has begun there is nothing to save, and SIGTERM ends it at once.

What is saved is a folder of safetensors and JSON, so that reading one runs no code. It is written beside its place,
then renamed, and checked by sha256 before it is read; one of other settings, inputs, code or versions is never used.

Scoring and generation use `Progress` as it is; training uses its subclass in arms/training/checkpoints.py, which knows
what of a trainer has to be saved.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from arms.job import processes
from arms.job.files import UserError, canonical_json, read_json, sha256_bytes, sha256_file, write_json

if TYPE_CHECKING:
    from arms.job.manifest import Job

STATE, CARD = "state.json", "checkpoint.json"
SAY_SECONDS = 10  # between two lines of progress
Item = TypeVar("Item")


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """The flag that training, scoring and generation share."""
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10, help="how often to save; 0: at every step, batch or round"
    )


class Progress:
    """The checkpoints of one job, in `folder`.

    They outlive the job: a scheduler may call it failed after its end, and its results are then deleted. The workflow
    removes them when all is done (study/engine.py).

    minutes: how often to save; 0 saves at every safe place. inputs: name -> sha256 of what the job reads.
    """

    def __init__(self, folder: str | Path, minutes: float, job: Job, inputs: dict[str, str | None]) -> None:
        self.folder, self.minutes, self.job = Path(folder), minutes, job
        decisive = {"job": job.identity, "inputs": inputs, "processes": processes.size(), **job.versions}
        self.key = sha256_bytes(canonical_json(decisive).encode())
        self.saved = self.said = time.monotonic()
        self.stopping = False  # SIGTERM came

    def latest(self) -> Path | None:
        """Begin: the newest checkpoint of this very job that is whole; others are removed.

        Waits while another process is at the same job: one that outlived its killed Snakemake, say.
        """
        found = self._find() if processes.rank() == 0 else None
        signal.signal(signal.SIGTERM, self._stop)
        self.saved = self.said = time.monotonic()
        found = processes.gather(found)[0]
        if found:
            self.job.say(f"going on from {found}")  # from here on SIGTERM saves
        return found

    def _find(self) -> Path | None:
        self._lock()
        found = None
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if found is None and self._is_whole(path):
                found = path
            else:
                shutil.rmtree(path)
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path)
        return found

    def _lock(self) -> None:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.alive = (self.folder / "lock").open("w")  # the kernel frees it when the process ends, however it ends
            try:
                fcntl.flock(self.alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.job.say(f"another process is at this job (it holds {self.alive.name}); waiting for its end")
                fcntl.flock(self.alive, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.alive.name), os.fstat(self.alive.fileno())):
                    return
            self.alive.close()  # the folder was removed meanwhile: this lock would keep nobody out

    def _stop(self, *_) -> None:
        self.stopping = True

    def _is_whole(self, path: Path) -> bool:
        try:
            card = read_json(path / CARD)
        except UserError:
            return False  # killed while it was removed
        if card["key"] != self.key:
            self.job.say(f"{path}: a checkpoint of other settings or inputs, removed")
            return False
        bad = [name for name, digest in card["files"].items() if not _has(path / name, digest)]
        if bad:
            self.job.say(f"{path}: {', '.join(bad)} changed since it was written; the checkpoint is removed")
        return not bad

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.stopping or time.monotonic() - self.saved >= 60 * self.minutes

    @contextlib.contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """A folder for the files of the checkpoint `step`, which takes its place after the block; older ones go."""
        final, partial = self.folder / f"step-{step:08d}", self.folder / f".partial-step-{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        files = {path.name: sha256_file(path) for path in sorted(partial.iterdir())}
        write_json(partial / CARD, {"key": self.key, "step": step, "files": files})
        for path in (*partial.iterdir(), partial):
            _to_disk(path)
        partial.replace(final)
        _to_disk(self.folder)
        for path in self.folder.glob("step-*"):
            if path != final:
                shutil.rmtree(path)
        self.saved = time.monotonic()

    def reached(self, step: int, state: dict, where: str) -> None:
        """A safe place of a job whose state is JSON values: save if it is time, and stop if SIGTERM came.

        where: how far the job is, in words, which it says about every ten seconds.
        """
        if self.due():
            with self.saving(step) as folder:
                write_state(folder, state)
        if self.stopping:
            self.stop(where)
        if time.monotonic() - self.said > SAY_SECONDS:
            self.said = time.monotonic()
            self.job.say(where)

    def stop(self, where: str) -> None:
        """End with exit code 143 and one line. Save first: nobody may be left to read the line."""
        self.job.say(f"stopped by SIGTERM at {where}; the same command goes on from here")
        processes.gather(None)  # the first to end ends the others
        raise SystemExit(128 + signal.SIGTERM)


def counted(job: Job, items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items one after another, saying about every ten seconds how many there have been."""
    said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            job.say(f"{number} {what}")


def beside(output: str | Path, minutes: float, job: Job, inputs: dict[str, str | None]) -> Progress:
    """The progress of a job with one output, in a folder beside it: generations.progress for generations.parquet."""
    return Progress(Path(output).with_suffix(".progress"), minutes, job, inputs)


def write_state(folder: Path, state: dict) -> None:
    """Write the JSON state of a checkpoint that is being saved."""
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def read_state(checkpoint: str | Path) -> dict:
    """The JSON state of a checkpoint that `Progress.latest` found whole."""
    return json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
