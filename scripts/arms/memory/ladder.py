"""The ladder out of memory: the same recipe in smaller micro-batches, then (where allowed) on shorter rows.

A rung is a micro-batch size and a longest row. Rule probe_memory finds, before any training, the first rung that fits;
every run of a stage trains on it, so arms never differ. The effective batch stays what was asked for.

A rung that turns out too large in training itself is put on record in a folder beside the rung, one file each, whose
name says what was too large for what: the rules read the names (study/rungs.py), so the same command probes again,
below that rung, and makes all runs of the stage again. Delete the folder to have its rungs tried once more, on a larger
card, say.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, read_json, sha256_file, write_json
from arms.job.out_of_memory import device, out_of_memory
from arms.job.program import JobParser
from study.rungs import TOO_LARGE, is_known, record_name, recorded

if TYPE_CHECKING:
    from arms.job.manifest import Job
    from arms.training.curves import Curves


def add_rung_argument(parser: JobParser) -> None:
    """The flag of the programs that train."""
    text = "what fits (rule probe_memory), first for this stage; a further file may shorten the rows"
    parser.input("rung", nargs="+", default=[], key=rung_key, help=text)


def rung_key(path: str) -> str:
    """What manifests and checkpoints call the rung's file."""
    return f"rung {Path(path).stem}"


def longest_row(paths: list[str], asked: int) -> int:
    """Longest row that every one of the rungs allows; `asked` without a rung."""
    return min([asked, *(read_json(path)["max_length"] for path in paths)])


class Rung:
    """What a training job trains on: the recipe's own micro-batch size and length, or the first rung that fits.

    stage: "sft" or "dpo". UserError if the rung is on record as too large: a scheduler that tries again must not burn a
    GPU's hours.
    """

    def __init__(self, job: Job, stage: str, paths: list[str]) -> None:
        self.job, self.stage, self.paths = job, stage, paths
        asked = job.settings
        self.asked = {"micro_batch_size": asked[stage]["micro_batch_size"], "max_length": asked["max_length"]}
        self.max_length = longest_row(paths, asked["max_length"])
        found = read_json(paths[0]) if paths else asked[stage]
        self.micro_batch_size = found["micro_batch_size"]
        self.key: str = found["key"] if paths else ""
        if paths and is_known(self.used(), recorded(Path(paths[0]).parent, self.key)):
            raise UserError(
                f"{self.record()}: micro-batches of {self.micro_batch_size} with rows of up to {self.max_length} "
                "tokens ran out of memory before; run the same snakemake command again to go to the next rung"
            )

    def used(self) -> dict[str, int]:
        """The rung."""
        return {"micro_batch_size": self.micro_batch_size, "max_length": self.max_length}

    def observed(self) -> dict[str, int]:
        """What observed.json says of the rung: what is not as the recipe asked for."""
        return {name: value for name, value in self.used().items() if value != self.asked[name]}

    def digests(self) -> dict[str, str]:
        """sha256 of the files that decided it: a checkpoint of another rung is of another training."""
        return {rung_key(path): sha256_file(path) for path in self.paths}

    def record(self) -> Path:
        """The file that says that this rung is too large."""
        return Path(self.paths[0]).parent / TOO_LARGE / record_name(self.key, self.used())

    def recording(self, curves: Curves) -> contextlib.AbstractContextManager[None]:
        """Turn running out of memory inside the block into a UserError, after putting it on record."""
        return out_of_memory(lambda message: self._too_large(len(curves.speed), message))

    def _too_large(self, step: int, message: str) -> UserError:
        what = f"out of memory at step {step} with {self.stage}.micro_batch_size {self.micro_batch_size}"
        if not self.paths:
            return UserError(f"{what}; lower it in the config ({message})")
        facts = {"stage": self.stage, **self.used(), "step": step, "card": device(), "message": message}
        write_json(self.record(), {**facts, "job": self.job.label})
        return UserError(
            f"{what} and rows of up to {self.max_length} tokens on {device()}; recorded in {self.record()}. Run the "
            "same snakemake command again: all arms then train on the next rung, from the start"
        )
