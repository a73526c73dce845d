"""Logs of inspect_ai, .eval and .json, as 0.3.285 writes them."""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa

from ..files import ContractError, read_json, well_formed
from .runs import Grouping, Item, Run, Value, safe, sha256

NOT_OURS = "not as inspect_ai writes it; evaluate again, or mend the log"
ZIP_ZSTANDARD = 93
LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def read(path: Path, run: Run, grouping: Grouping) -> None:
    """Read one log. Epochs are samples of their items.

    A sample that failed, was invalidated or that a scorer left unscored has no value: status "error" or "judge_fail".
    """
    if path.is_dir():
        raise ContractError(f"{path}: is a folder; name one log file (.eval or .json)")
    if zipfile.is_zipfile(path):
        with well_formed(f"{path}: {NOT_OURS}"):
            header, samples = _zipped(path)
    else:
        header = read_json(path)
        samples = header.get("samples") or []
    if not {"eval", "status"} <= header.keys():
        raise ContractError(f"{path}: not a log of inspect_ai (keys: {', '.join(header)})")
    if header["status"] != "success":
        raise ContractError(f"{path}: the evaluation ended with status {header['status']!r}; `inspect eval-retry` it")
    if not samples:
        raise ContractError(f"{path}: no samples inside; run inspect with log_samples")
    with well_formed(f"{path}: {NOT_OURS}"):
        task = header["eval"]["task"]
        run.add_task(task, header["eval"].get("task_version"), path)
        log = _Task(run, task, grouping)
        for sample in samples:
            where = f"{path}, sample {sample['id']} epoch {sample['epoch']}"
            with well_formed(f"{where}: {NOT_OURS}"):
                log.add(sample, where)
    log.finish()


class _Task:
    """The samples of one task on their way into a run."""

    def __init__(self, run: Run, task: str, grouping: Grouping) -> None:
        self.run, self.task, self.grouping = run, task, grouping
        self.unscored: dict[tuple[str, int], Value] = {}  # what a sample counts as in metrics that it has no value of
        self.metrics: set[str] = set()

    def add(self, sample: dict, where: str) -> None:
        """One sample in one epoch."""
        prompt_id, epoch = f"{self.task}/{sample['id']}", int(sample["epoch"]) - 1
        asked = sha256([_without_ids([sample["input"], sample.get("choices")]), sample["target"]])
        document = sample.get("metadata") or {}
        item = Item(asked, "", *self.grouping.of(prompt_id, self.task, self.task, document, where))
        if self.run.items.setdefault(prompt_id, item) != item:
            raise ContractError(f"{where}: item {prompt_id!r} has another input, category or cluster in another epoch")
        output = sha256((sample.get("output") or {}).get("completion"))
        lost = bool(sample.get("error") or sample.get("invalidation"))
        self.unscored[prompt_id, epoch] = Value(None, "error" if lost else "judge_fail", output, where)
        for scorer, score in (sample.get("scores") or {}).items():
            value = score["value"]
            parts = (
                {f"{scorer}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {scorer: value}
            )
            for metric, part in parts.items():
                self._add_score(safe(metric), part, (prompt_id, epoch), output, where, lost)

    def _add_score(self, metric: str, part: object, key: tuple[str, int], output: str, where: str, lost: bool) -> None:
        """A score; NaN is inspect's mark of a sample that a scorer left unscored."""
        number = part
        if isinstance(part, str):
            number = LETTERS.get(part, LETTERS.get(part.lower()))
            if number is None:
                try:
                    number = float(part)
                except ValueError:
                    self.run.fault(metric, where, part)
                    return
        if part in ("C", "P", "I", "N"):
            self.run.graded.add(metric)
        if number is None or isinstance(number, int | float):
            self.metrics.add(metric)
            if not lost and number is not None and not math.isnan(number):
                self.run.add(metric, *key, Value(float(number), "ok", output, where))

    def finish(self) -> None:
        """Every sample has every metric of the log, with a value or without."""
        for metric in self.metrics:
            for key, unscored in self.unscored.items():
                if key not in self.run.values.get(metric, {}):
                    self.run.add(metric, *key, unscored)


def _zipped(path: Path) -> tuple[dict, list[dict]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if "header.json" not in members:
                raise ContractError(f"{path}: no header.json inside; the evaluation did not finish")
            names = sorted(name for name in members if name.startswith("samples/"))
            header, *samples = (json.loads(_member(path, archive, members[name])) for name in ("header.json", *names))
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, RuntimeError, pa.ArrowException) as error:
        raise ContractError(f"{path}: cannot be unpacked ({error}); copy it again") from None
    return header, samples


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A file of a zip; inspect_ai compresses with zstd, which zipfile reads from Python 3.14 on."""
    if info.compress_type != ZIP_ZSTANDARD:
        return archive.read(info)
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        local = struct.unpack("<4s5H3L2H", stream.read(30))  # PKZIP application note, 4.3.7
        stream.seek(local[-2] + local[-1], 1)
        data = pa.input_stream(pa.BufferReader(stream.read(info.compress_size)), compression="zstd").read()
    if len(data) != info.file_size:
        raise ContractError(f"{path}: {info.filename} is cut off")
    return data


def _without_ids(value: object) -> object:
    """A chat without the random ids of its messages."""
    if isinstance(value, list):
        return [_without_ids(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_ids(one) for key, one in value.items() if key != "id"}
    return value
