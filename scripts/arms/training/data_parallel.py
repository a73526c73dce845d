"""A Trainer in several processes that share a step's micro-batches (arms/job/processes.py starts them)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from arms.job import processes

if TYPE_CHECKING:
    from transformers import Trainer as Host
else:
    Host = object


def average_gradients(parameters: Iterable) -> None:
    """Replace the gradients of all trainable `parameters` by their mean over all processes."""
    if processes.size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes.size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class DataParallel(Host):
    """Mixin for a Trainer whose loss does not go through the wrapper that accelerate would put around the model."""

    def create_accelerator_and_postprocess(self) -> None:
        """Let accelerate place the model and deal out the data, but not wrap the model."""
        super().create_accelerator_and_postprocess()
        # evaluation_mode: everything but the DistributedDataParallel wrapper
        self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)

    def training_step(self, model: torch.nn.Module, inputs: dict, *more) -> torch.Tensor:
        """One micro-batch, forward and backward; after the last one of a step the gradients are averaged."""
        loss = super().training_step(model, inputs, *more)
        if self.accelerator.sync_gradients:  # next come clipping and the update
            average_gradients(model.parameters())
        return loss
