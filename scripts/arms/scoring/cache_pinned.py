"""The cache of a batch that answers, on the pinned stack: transformers 4.43 keeps keys and values in two lists."""

from __future__ import annotations

import torch
from transformers import DynamicCache


class Running(DynamicCache):
    """Keys and values of one batch: for each layer (rows, heads, tokens, size), views of tensors with room for more.

    room: how many tokens a row may come to.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.held: list[tuple[torch.Tensor, torch.Tensor]] = []  # as key_cache and value_cache, with the room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, cache_kwargs: dict | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values (rows, heads, new, size); returns those of all tokens."""
        new = key_states.shape[2]
        if len(self.held) <= layer_idx:
            self.held.append((self._with_room(key_states), self._with_room(value_states)))
            self.key_cache.append(key_states)
            self.value_cache.append(value_states)
            before = 0
        else:
            before = self.key_cache[layer_idx].shape[2]
        if layer_idx == 0:
            self._seen_tokens = before + new
        for held, states, views in zip(
            self.held[layer_idx], (key_states, value_states), (self.key_cache, self.value_cache), strict=True
        ):
            held[:, :, before : before + new] = states
            views[layer_idx] = held[:, :, : before + new]
        return self.key_cache[layer_idx], self.value_cache[layer_idx]

    def _with_room(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty((*states.shape[:2], self.room, states.shape[3]))

    def take(self, rows: torch.Tensor) -> None:
        """Keep the rows at `rows` (int64), which may name one several times."""
        for layer, held in enumerate(self.held):
            seen = self.key_cache[layer].shape[2]
            taken = []
            for views, tensor in zip((self.key_cache, self.value_cache), held, strict=True):
                own = tensor.new_empty((len(rows), *tensor.shape[1:]))
                own[:, :, :seen] = tensor[rows, :, :seen]
                views[layer] = own[:, :, :seen]
                taken.append(own)
            self.held[layer] = taken[0], taken[1]
