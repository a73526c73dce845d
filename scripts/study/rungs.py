"""The ladder out of memory, without a model: its rungs, and which of them are on record as too large.

A rung is a micro-batch size and a longest row. What turned out too large in training itself lies in the folder
TOO_LARGE beside the rungs, one file each, whose name says what was too large for what. So the rules read names only,
which go into the settings of rule probe_memory: the same command probes again, below that rung. arms/memory/ladder.py
writes the records and says what the jobs do about them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

TOO_LARGE = "too_large"
# What a record holds for: everything that decides memory but the rung itself.
DECIDE = ("stage", "model", "precision", "lora", "start", "gradient_checkpointing", "gpus")


def memory_key(settings: dict) -> str:
    """What a record of "too large" holds for, as a short digest of the settings of rule probe_memory."""
    decide = {name: settings.get(name) for name in DECIDE}
    text = json.dumps(decide, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_name(key: str, rung: dict[str, int]) -> str:
    """The name of the file that says that `rung` is too large for `key`."""
    return f"{key}-{rung['micro_batch_size']}-{rung['max_length']}.json"


def recorded(folder: str | Path, key: str) -> list[list[int]]:
    """[micro-batch size, longest row] of every rung on record as too large for `key`, below `folder`."""
    paths = Path(folder, TOO_LARGE).glob(f"{key}-*-*.json")
    return sorted([int(number) for number in path.stem.split("-")[1:]] for path in paths)


def rungs(settings: dict) -> list[dict[str, int]]:
    """Every rung from what was asked for downwards: micro_batch_size and max_length.

    settings: batch_size, micro_batch_size, least_micro_batch_size, gpus (processes that share a batch) and
    max_lengths, the lengths to try in turn. At each length the micro-batch shrinks first.
    """
    batch, gpus = settings["batch_size"], settings["gpus"]
    sizes = range(settings["micro_batch_size"], settings["least_micro_batch_size"] - 1, -1)
    return [
        {"micro_batch_size": size, "max_length": length}
        for length in settings["max_lengths"]
        for size in sizes
        if batch % (size * gpus) == 0
    ]


def is_known(rung: dict[str, int], too_large: list[list[int]]) -> bool:
    """Whether a rung on record as too large asks for no more than `rung` does."""
    return any(rung["micro_batch_size"] >= size and rung["max_length"] >= length for size, length in too_large)
