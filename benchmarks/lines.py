"""A figure of a simulation as a line of a table: what was found, its standard error, the band it must lie in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share(hits: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error) over replicates."""
    return float(np.mean(hits)), float(np.std(hits, ddof=1) / np.sqrt(len(hits)))


def row(what: str, reps: int, found: float, error: float, low: float = -1.0, high: float = 2.0) -> dict:
    """One line of a table; without a band it is not judged."""
    return {
        "what": what,
        "replicates": reps,
        "found": f"{found:.4f}",
        "SE": f"{error:.4f}",
        "band": "" if low < 0 else f"{low:.3f} to {high:.3f}",
        "within": "" if low < 0 else "yes" if low <= found <= high else "NO",
    }


HEADER = "| what | replicates | found | SE | band | within |\n|---|---|---|---|---|---|"


def line(found: dict) -> str:
    """A row as a line of a markdown table."""
    return "| " + " | ".join(map(str, found.values())) + " |"
