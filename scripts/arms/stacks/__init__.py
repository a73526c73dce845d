"""The stack that a program runs on: `pinned` (envs/train.yaml) or `current` (envs/train-current.yaml).

An environment holds the packages of one. `stack` is the module with what is unlike on it: names of arguments, and what
its transformers knows of each family of models. Classes that are unlike lie where they are used, in modules that end
with the stack's name (arms.scoring.cache_*, arms.training.trainers_*). Nothing else asks which stack it is.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from arms.stacks import current, pinned


def installed() -> str:
    """The name of the stack that this environment has; where there is no transformers, "pinned"."""
    try:
        return "current" if int(version("transformers").partition(".")[0]) >= 5 else "pinned"
    except PackageNotFoundError:
        return "pinned"


NAME = installed()
STACKS: dict[str, Any] = {"pinned": pinned, "current": current}
stack = STACKS[NAME]


def elsewhere(kind: str) -> str:
    """The cure for a model type that only another stack takes; "" if none does."""
    takers = [name for name, other in STACKS.items() if kind in other.SUPPORTED and name != NAME]
    return f"set `stack: {takers[0]}` in the configuration file, which takes it" if takers else ""
