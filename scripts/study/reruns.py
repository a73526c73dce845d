"""When a job has to run: if and only if the content that it depends on changed, and never because of a time or a place.

The manifest beside a job's targets tells what they were made of: the job (rule, settings, code, environment) and the
sha256 of each input. Inside results/ the manifest of the job before tells what an input is; a file from outside counts
by its bytes, whatever its time and however its path is spelled. Results that were copied to another machine are
therefore as good as before.

Nothing here knows Snakemake: a job is anything with its `params.job`, `input` and `output` (scripts/study/engine.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.checksums import portable, written
from study.hashes import Hashes
from study.identity import differences

NOT_MADE = "not made yet"


@dataclass(frozen=True)
class Record:
    """A manifest; sha256 of each file that its job made, by path, and of each that it read, by `Reruns.names`."""

    manifest: dict
    made: dict[str, str]
    read: dict[str, str]


class Reruns:
    """What of a study has to be made again.

    results: its folder. hashes: of files outside it. `learn` first tells which job makes which file.
    """

    def __init__(self, results: str, hashes: Hashes) -> None:
        self.results, self.hashes = os.path.join(os.path.abspath(results), ""), hashes
        self.makers: dict[str, str] = {}  # file -> manifest of the job that makes it
        self.records: dict[str, tuple[list[int], Record]] = {}

    def learn(self, jobs: Iterable[Any]) -> None:
        """Note which job makes which file."""
        for job in jobs:
            for path in job.output:
                if path != job.output.manifest:
                    self.makers[portable(path)] = str(job.output.manifest)

    def reasons(self, job: Any) -> list[str]:
        """Why a job has to run, in words, as it and the files are now; [] if it made what is there of what is there."""
        missing = [str(path) for path in job.output if not os.path.lexists(path)]
        if missing:
            few = ", ".join(missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
            return [NOT_MADE if len(missing) == len(job.output) else f"missing {few}"]
        record = self.record(str(job.output.manifest))
        if record is None:
            return [f"{job.output.manifest} cannot be read"]
        found = list(differences(record.manifest, json.loads(job.params.job)))
        unread = dict(record.read)
        inputs = [(role, path) for role, path in roles(job.input) if not getattr(path, "is_ancient", False)]
        among = self.names([(path, path) for _, path in inputs])  # as one of several files
        for (_, path), name, file in zip(inputs, self.names(inputs), among, strict=True):
            was, now = unread.pop(name, None) or unread.pop(file, None), self.digest(path)
            if was is None:
                found.append(f"new input {path}")
            elif now is not None and now != was:  # None: its maker has to run first, or Snakemake misses it
                found.append(f"other content in {path}")
        return found + [f"{name} is no longer an input" for name in unread]

    def names(self, inputs: list[tuple[str, str]]) -> list[str]:
        """What each (role, path) of a job is known by: inside results/ its path, outside what the job calls it.

        One of several files goes by its own name, and by as much of its path as tells it from the others.
        """
        paths = [os.path.abspath(path) for _, path in inputs]
        return [self.name(role, path, paths) for (role, _), path in zip(inputs, paths, strict=True)]

    def name(self, role: str, path: str, others: list[str]) -> str:
        """What one of them is known by; all paths are absolute."""
        if path.startswith(self.results):
            return portable(path)
        parts = Path(path).parts
        if Path(role).name != parts[-1]:
            return f"input {role}"
        length = 1
        while any(other != path and Path(other).parts[-length:] == parts[-length:] for other in others):
            length += 1
        return f"input {'/'.join(parts[-length:])}"

    def digest(self, path: str) -> str | None:
        """sha256 of an input as it should be read now; None if it is not there."""
        maker = self.makers.get(portable(path))
        if maker:
            record = self.record(maker)
            return record.made.get(portable(path)) if record else None
        try:
            return self.hashes(path)
        except OSError:
            return None

    def record(self, path: str) -> Record | None:
        """What a manifest says; None if it is missing or damaged. Read again only when it was written again."""
        try:
            facts = written(path)
            if self.records.get(path, (None,))[0] != facts:
                manifest = json.loads(Path(path).read_text(encoding="utf-8"))
                made = {portable(entry["path"]): entry["sha256"] for entry in manifest["outputs"].values()}
                inputs = [(key, entry["path"]) for key, entry in manifest["inputs"].items()]
                read = dict(
                    zip(self.names(inputs), (entry["sha256"] for entry in manifest["inputs"].values()), strict=True)
                )
                self.records[path] = facts, Record(manifest, made, read)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return self.records[path][1]


def roles(inputs: Any) -> Iterator[tuple[str, str]]:
    """(key in the manifest, path) of each input of a job: its name, or, of several files, the path itself."""
    for name, value in inputs.items():
        for path in [value] if isinstance(value, str) else value:
            yield (name if isinstance(value, str) else path), path
