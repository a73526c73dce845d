"""What makes `transformers.generate` fast for a batch: nothing that a token once cost is paid again.

`Running` keeps the keys and values of a batch in place: a new token is written beside the others (transformers copies
them all), a beginning that all rows share is read once, and rows that have ended leave. `grouped` lets the heads that
share keys read them where they are (transformers copies them once for each head); newer versions of torch offer the
same as `enable_gqa`. Both leave what is computed as it is, up to rounding.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from arms.scoring.cache import Running, grouped
from arms.scoring.logps import causal_lm
from arms.stacks import stack

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Running", "grouped", "read", "runs", "shared_beginning"]
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
