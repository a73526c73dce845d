"""The cache of a batch that answers, on the current stack: transformers 5 has an object for each layer."""

from __future__ import annotations

import contextlib
import functools

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RunningLayer(DynamicLayer):
    """One layer's keys and values (rows, heads, tokens, size), views of tensors with room for more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.held: list[torch.Tensor] = []  # as keys and values, with the room

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the new tokens' keys and values (rows, heads, new, size); returns those of all tokens."""
        before = self.get_seq_length()
        if not self.held:
            self.held = [
                states.new_empty((*states.shape[:2], self.room, states.shape[3]))
                for states in (key_states, value_states)
            ]
            self.is_initialized, self.device = True, key_states.device
        end = before + key_states.shape[2]
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, before:end] = states
        self.keys, self.values = (held[:, :, :end] for held in self.held)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """How many tokens it holds of each row."""
        return self.keys.shape[2] if self.held else 0

    def take(self, rows: torch.Tensor) -> None:
        """Keep the rows at `rows` (int64), which may name one several times."""
        seen, taken = self.get_seq_length(), []
        for tensor in self.held:
            own = tensor.new_empty((len(rows), *tensor.shape[1:]))
            own[:, :, :seen] = tensor[rows, :, :seen]
            taken.append(own)
        self.held = taken
        self.keys, self.values = (held[:, :, :seen] for held in self.held)


class Running(DynamicCache):
    """Keys and values of one batch, all of them kept in every layer: where a window slides, the mask says so.

    room: how many tokens a row may come to.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.layer_class_to_replicate = functools.partial(RunningLayer, room)

    @property
    def held(self) -> list[list[torch.Tensor]]:
        """Keys and values of each layer, with their room."""
        return [layer.held for layer in self.layers]

    def take(self, rows: torch.Tensor) -> None:
        """Keep the rows at `rows` (int64), which may name one several times."""
        for layer in self.layers:
            layer.take(rows)


def grouped(model: torch.nn.Module) -> contextlib.AbstractContextManager:
    """transformers 5 itself has the heads that share keys and values attend to one copy of them."""
    return contextlib.nullcontext()
