"""Checkpoints that survive SIGKILL at any moment and that nobody has to trust.

A checkpoint is a folder of safetensors and JSON, so that reading one runs no code (transformers' own are pickles, and
its resume loses the weights of a stacked adapter). It is written beside its place, then renamed, and checked by sha256
before it is read. A run that goes on from it ends with the bytes of a run that was never interrupted (CPU, fp32).
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from arms.files import UserError, canonical_json, read_json, sha256_bytes, sha256_file, write_json

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

    from arms.manifest import Job
    from arms.training import Curves

TENSORS, STATE, TRAINER, CARD = "tensors.safetensors", "state.json", "trainer_state.json", "checkpoint.json"


class Checkpoints:
    """The checkpoints of one training job, in `folder`; those of other settings or inputs are never used.

    minutes: how often to save; 0 saves after every optimiser step. inputs: name -> sha256 of what training reads.
    """

    def __init__(self, folder: str | Path, minutes: float, job: Job, inputs: dict[str, str | None]) -> None:
        self.folder, self.minutes, self.job = Path(folder), minutes, job
        self.key = sha256_bytes(canonical_json({"job": job.identity, "inputs": inputs, **job.versions}).encode())
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= 60 * self.minutes

    def latest(self) -> Path | None:
        """The newest checkpoint of this very job that is whole; others are removed.

        Waits while another process trains the same run: one that outlived its killed Snakemake, say.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.alive = (self.folder / "lock").open("w")  # the kernel frees it when the process ends, however it ends
        try:
            fcntl.flock(self.alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.job.say(f"another process is training this run (it holds {self.alive.name}); waiting for its end")
            fcntl.flock(self.alive, fcntl.LOCK_EX)
        found = None
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if found is None and self._is_whole(path):
                found = path
            else:
                shutil.rmtree(path)
        for path in self.folder.glob(".partial-*"):
            shutil.rmtree(path)
        return found

    def _is_whole(self, path: Path) -> bool:
        try:
            card = read_json(path / CARD)
        except UserError:
            return False  # killed while it was written
        if card["key"] != self.key:
            self.job.say(f"{path}: a checkpoint of other settings or inputs, removed")
            return False
        bad = [name for name, digest in card["files"].items() if not _has(path / name, digest)]
        if bad:
            self.job.say(f"{path}: {', '.join(bad)} changed since it was written; the checkpoint is removed")
        return not bad

    def save(self, trainer: Trainer, curves: Curves) -> None:
        """Write a checkpoint after an optimiser step, then remove older ones."""
        import safetensors.torch

        step = trainer.state.global_step
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".partial-step-{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors, state = collect(trainer)
        safetensors.torch.save_file(tensors, partial / TENSORS)
        (partial / STATE).write_text(json.dumps({**state, "curves": curves.state()}), encoding="utf-8")
        trainer.state.save_to_json(str(partial / TRAINER))
        files = {name: sha256_file(partial / name) for name in (TENSORS, STATE, TRAINER)}
        write_json(partial / CARD, {"key": self.key, "step": step, "files": files})
        for name in (*files, CARD):
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        partial.replace(final)
        for path in self.folder.glob("step-*"):
            if path != final:
                shutil.rmtree(path)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Remove all checkpoints: the target is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Resumable:
    """Mixin for a Trainer: save and load through `Checkpoints` instead of transformers' pickles.

    Set `checkpoints` and `curves` after construction. Restored are the trainable parameters, the optimiser, the
    learning rate, every random generator and the curves; transformers restores the position in the data.
    """

    checkpoints: Checkpoints
    curves: Curves

    def _save_checkpoint(self, model, trial, metrics=None):
        self.checkpoints.save(self, self.curves)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        tensors, state = read(resume_from_checkpoint)
        parameters = trainable(self.model)
        saved = {name.removeprefix("parameter/"): tensor for name, tensor in tensors.items() if "parameter/" in name}
        if set(saved) != set(parameters):
            raise UserError(f"{resume_from_checkpoint}: holds other parameters than this run trains; delete it")
        for name, parameter in parameters.items():
            parameter.data.copy_(saved[name])
        self.curves.restore(state["curves"])

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None:
            return
        tensors, state = read(checkpoint)
        moments: dict[int, dict] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, kind = name.split("/")
                moments.setdefault(int(index), {})[kind] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_rng_state(self, checkpoint):
        import numpy
        import torch

        if checkpoint is None:
            return
        tensors, state = read(checkpoint)
        version, internal, gauss = state["python_rng"]
        random.setstate((version, tuple(internal), gauss))
        kind, position, has_gauss, cached = state["numpy_rng"]
        numpy.random.set_state((kind, tensors["rng/numpy"].numpy().astype("uint32"), position, has_gauss, cached))
        torch.random.set_rng_state(tensors["rng/torch"])
        for device in range(torch.cuda.device_count()):
            torch.cuda.set_rng_state(tensors[f"rng/cuda{device}"], device)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def collect(trainer: Trainer) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON state) of a trainer after an optimiser step."""
    import numpy
    import torch

    optimizer = trainer.optimizer.state_dict()
    kind, numbers, *rest = numpy.random.get_state()
    tensors = {
        **{f"parameter/{name}": parameter.detach() for name, parameter in trainable(trainer.model).items()},
        **{
            f"optimizer/{index}/{name}": tensor
            for index, moments in optimizer["state"].items()
            for name, tensor in moments.items()
        },
        **{f"rng/cuda{device}": torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())},
        "rng/numpy": torch.from_numpy(numbers.astype("int64")),
        "rng/torch": torch.random.get_rng_state(),
    }
    state = {
        "param_groups": optimizer["param_groups"],
        "scheduler": trainer.lr_scheduler.state_dict(),
        "numpy_rng": [kind, *rest],
        "python_rng": random.getstate(),
    }
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, state


def read(checkpoint: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON state) of a checkpoint that `Checkpoints.latest` found whole."""
    import safetensors.torch

    state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
    return safetensors.torch.load_file(Path(checkpoint) / TENSORS), state


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
