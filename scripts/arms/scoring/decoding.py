"""What makes `transformers.generate` fast for a batch: nothing that a token once cost is paid again.

`Running` keeps the keys and values of a batch in place: a new token is written beside the others (transformers copies
them all), a beginning that all rows share is read once, and rows that have ended leave. `grouped` lets the heads that
share keys read them where they are (transformers copies them once for each head); newer versions of torch offer the
same as `enable_gqa`. Both leave what is computed as it is, up to rounding.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

from arms.scoring.logps import causal_lm
from arms.stacks import NAME, stack

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

if NAME == "pinned":
    from arms.scoring.cache_pinned import Running
else:
    from arms.scoring.cache_current import Running

SHORTEST = 8  # tokens that a shared beginning needs to be read by itself


def runs(model: torch.nn.Module) -> bool:
    """Whether a model keeps its texts in a cache of transformers' class, which `Running` can take the place of."""
    return stack.caches(causal_lm(model))


def shared_beginning(rows: list[list[int]], config: PretrainedConfig) -> int:
    """How many tokens all rows begin with, at most all but one of the shortest; 0 if they are to be read row by row.

    Between the beginning and the rest of a shorter row there will be padding, which a sliding window would count, and
    who tells distances by columns.
    """
    shared, last = min(map(len, rows)) - 1, max(rows)  # of sorted rows the first and the last differ first
    shared = next((place for place, token in enumerate(min(rows)[:shared]) if token != last[place]), shared)
    counts = getattr(config, "sliding_window", None) is not None or config.model_type in stack.COUNTS_COLUMNS
    return 0 if counts or len(rows) == 1 or shared < SHORTEST else shared


def read(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, shared: int, room: int) -> Running:
    """The cache of a model that has read `ids` (rows, tokens; int64) but for the last column, head not included.

    mask: 1 where a token is (rows, tokens; int64). shared: columns that are the same in all rows, read once.
    """
    inner, cache = causal_lm(model), Running(room)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    placed = "position_ids" in inspect.signature(inner.base_model.forward).parameters
    parts = [(slice(1), slice(shared)), (slice(None), slice(shared, ids.shape[1] - 1))]
    for rows, columns in parts:
        if ids[rows, columns].shape[1]:
            given = {"position_ids": positions[rows, columns]} if placed else {}
            given[stack.CACHE] = cache
            inner.base_model(
                input_ids=ids[rows, columns],
                attention_mask=mask[rows, : columns.stop],
                use_cache=True,
                **given,
            )
        if rows == slice(1) and shared:
            cache.take(torch.zeros(len(ids), dtype=torch.int64, device=ids.device))
    return cache


@contextlib.contextmanager
def grouped(model: torch.nn.Module) -> Iterator[None]:
    """In this block the heads of `model` that share keys and values attend to one copy of them.

    Only with torch's attention (SDPA), and only for one new token a row, as answers grow: the queries of the heads that
    share keys are then nothing but more queries of one head.
    """
    inner: PreTrainedModel = causal_lm(model)
    code = sys.modules[type(inner).__module__]
    repeat = getattr(code, "repeat_kv", None) if NAME == "pinned" else None
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
