"""What of a trainer is saved and restored, in place of transformers' own checkpoints.

Those are pickles and lose the weights of a stacked adapter. arms/job/progress.py knows where the checkpoints of any job
lie, when to save one, and which may be used. A run that goes on from one ends with the bytes of a run that was never
interrupted (CPU, fp32).
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arms.job import processes
from arms.job.files import UserError
from arms.job.progress import Progress, read_state, write_state
from arms.model.models import trainable
from arms.training.curves import Curves

if TYPE_CHECKING:
    import torch

TENSORS, TRAINER = "tensors.safetensors", "trainer_state.json"


class Checkpoints(Progress):
    """The checkpoints of one training job."""

    def save(self, trainer: Resumable, curves: Curves) -> None:
        """Write a checkpoint after an optimiser step, then remove older ones."""
        import safetensors.torch

        tensors, state = collect(trainer)  # in all processes: each has random generators of its own
        self.saved = time.monotonic()
        if processes.rank() == 0:
            with self.saving(trainer.state.global_step) as folder:
                safetensors.torch.save_file(tensors, folder / TENSORS)
                write_state(folder, {**state, "curves": curves.state()})
                trainer.state.save_to_json(str(folder / TRAINER))


class Resumable:
    """Mixin for a Trainer: save and load through `Checkpoints` instead of transformers' pickles.

    Set `checkpoints` and `curves` after construction. Restored are the trainable parameters, the optimiser, the
    learning rate, every random generator and the curves; transformers restores the position in the data.
    """

    checkpoints: Checkpoints
    curves: Curves
    model: Any  # these four are the Trainer's
    optimizer: Any
    lr_scheduler: Any
    state: Any

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
        torch.random.set_rng_state(tensors[f"rng/torch/{processes.rank()}"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[f"rng/cuda/{processes.rank()}"])

    def restore(self, checkpoint: Path) -> None:
        """All that a Trainer restores in these three turns, for a loop that is none."""
        self._load_from_checkpoint(checkpoint)
        self._load_optimizer_and_scheduler(checkpoint)
        self._load_rng_state(checkpoint)


def collect(trainer: Resumable) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON state) of a trainer after an optimiser step."""
    import numpy
    import torch

    optimizer = trainer.optimizer.state_dict()
    generator: Any = numpy.random.get_state()
    kind, numbers, *rest = generator
    tensors = {
        **{f"parameter/{name}": parameter.detach() for name, parameter in trainable(trainer.model).items()},
        **{
            f"optimizer/{index}/{name}": tensor
            for index, moments in optimizer["state"].items()
            for name, tensor in moments.items()
        },
        "rng/numpy": torch.from_numpy(numbers.astype("int64")),
    }
    generators = {"torch": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    for rank, states in enumerate(processes.gather(generators)):
        tensors |= {f"rng/{name}/{rank}": tensor for name, tensor in states.items()}
    state = {
        "param_groups": optimizer["param_groups"],
        "scheduler": trainer.lr_scheduler.state_dict(),
        "numpy_rng": [kind, *rest],
        "python_rng": random.getstate(),
    }
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, state


def read(checkpoint: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON state) of a checkpoint that `Progress.latest` found whole."""
    import safetensors.torch

    return safetensors.torch.load_file(Path(checkpoint) / TENSORS), read_state(checkpoint)
