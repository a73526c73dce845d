"""What training reports at each step: loss and metrics, the order of the rows, tokens and seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job import processes
from arms.job.files import atomic_path, sha256_bytes

if TYPE_CHECKING:
    import pandas


class Curves:
    """Per-step means of what each micro-batch reported, and a running hash of the order in which rows were seen.

    All processes of a run have the same ones: each adds its micro-batches, and the end of a step gathers them.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[list[str], int, dict]] = []  # this process's micro-batches of the step under way
        self.rows: list[dict] = []  # one a micro-batch
        self.speed: list[dict] = []  # one a step; kept apart, since times differ from run to run
        self.order = ""
        self.tokens = 0
        self.clock = time.monotonic()

    def add(self, step: int, ids: list[str], tokens: int, **metrics: float) -> None:
        """One micro-batch of optimiser step `step` (0 is before the first update)."""
        self.waiting.append((ids, tokens, {"step": step, **metrics}))

    def end_step(self, step: int) -> None:
        """The optimiser step `step` (0 is the first) is done: gather its micro-batches, note its tokens and seconds."""
        for turn in zip(*processes.gather(self.waiting), strict=True):  # they were dealt out in turn
            for ids, tokens, row in turn:
                self.order = sha256_bytes("\n".join([self.order, *ids]).encode())
                self.tokens += tokens
                self.rows.append(row)
        self.waiting = []
        now, before = time.monotonic(), self.speed[-1]["tokens_seen"] if self.speed else 0
        seconds, tokens = now - self.clock, self.tokens - before
        self.clock = now
        self.speed.append(
            {"step": step, "tokens_seen": self.tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
        )

    def state(self) -> dict:
        """What a checkpoint keeps, as JSON values."""
        return {"rows": self.rows, "speed": self.speed, "order": self.order, "tokens": self.tokens}

    def restore(self, state: dict) -> None:
        """Go on from a checkpoint's `state`."""
        self.rows, self.speed, self.order, self.tokens = (state[name] for name in ("rows", "speed", "order", "tokens"))

    def frame(self) -> pandas.DataFrame:
        """One row a step, the mean over its micro-batches."""
        import pandas

        return pandas.DataFrame(self.rows).groupby("step", as_index=False).mean()

    def write(self, curves: str | Path, speed: str | Path, log_history: list[dict]) -> None:
        """Write the curves, with the optimiser's learning rate and gradient norm, and the speed, as parquet."""
        import pandas

        frame = self.frame()
        logged = [entry for entry in log_history if "grad_norm" in entry][: len(frame)]
        frame["grad_norm"] = [float(entry["grad_norm"]) for entry in logged]
        frame["learning_rate"] = [float(entry["learning_rate"]) for entry in logged]
        for path, table in ((curves, frame), (speed, pandas.DataFrame(self.speed))):
            with atomic_path(path) as temporary:
                table.to_parquet(temporary, index=False)
