"""The cache of a batch that answers, of the stack that this environment has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arms.stacks import NAME

if TYPE_CHECKING or NAME == "pinned":
    from arms.scoring.cache_pinned import Running, grouped
else:
    from arms.scoring.cache_current import Running, grouped

__all__ = ["Running", "grouped"]
