"""The cache of a batch that answers, on the pinned stack: transformers 4.43 keeps keys and values in two lists.

It also copies what heads share once for each of them, which `grouped` leaves out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache

from arms.scoring.logps import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


@contextlib.contextmanager
def grouped(model: torch.nn.Module) -> Iterator[None]:
    """In this block the heads of `model` that share keys and values attend to one copy of them.

    Only with torch's attention (SDPA), and only for one new token a row, as answers grow: the queries of the heads that
    share keys are then nothing but more queries of one head.
    """
    inner: PreTrainedModel = causal_lm(model)
    code = sys.modules[type(inner).__module__]
    repeat = getattr(code, "repeat_kv", None)
    if repeat is None or inner.config._attn_implementation != "sdpa":
        yield
        return
    setattr(code, "repeat_kv", lambda states, times: states)  # noqa: B010  as mypy sees it, modules have no attributes
    try:
        with _Grouped(repeat):
            yield
    finally:
        setattr(code, "repeat_kv", repeat)  # noqa: B010


class _Grouped(TorchFunctionMode):
    """torch's attention, for keys and values of fewer heads than the queries have."""

    def __init__(self, repeat: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.repeat = repeat

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self.attend(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attend(
        self, attention: Callable, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **given: object
    ) -> torch.Tensor:
        """query: (rows, heads, new, size); key, value: (rows, heads or fewer, tokens, size)."""
        rows, heads, new, size = query.shape
        times = heads // key.shape[1]
        if times > 1 and new == 1:
            query = query.reshape(rows, heads // times, times, size)
            return attention(query, key, value, **given).reshape(rows, heads, new, size)
        if times > 1:
            key, value = self.repeat(key, times), self.repeat(value, times)
        return attention(query, key, value, **given)
