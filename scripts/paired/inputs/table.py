"""Scores from one plain table, csv or parquet: a row for each model, training seed, prompt, metric and sample."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ..files import ContractError
from ..scores import NO_SEED, STATUSES
from .runs import Item, Run, Value, safe, sha256

NEEDED = ("arm", "prompt_id", "metric", "value")
SHA256 = re.compile("[0-9a-f]{64}")


def read_table(path: str | Path) -> list[Run]:
    """Runs from a table: arm, prompt_id, metric, value; also train_seed, sample_idx, status, category, cluster_id,
    prompt_sha256, gen_sha256 where they are known (docs/statistics.md, section 2).

    Raises ContractError naming file, line (row of a parquet file, from 1) and column: a cell that is not what its
    column holds, a value without status ok or none with it, a key or a description of a prompt that occurs twice.
    """
    runs: dict[tuple[str, int], Run] = {}
    described: dict[str, Item] = {}
    named: dict[str, str] = {}
    for row in rows_of(path, NEEDED):
        key = row.text("arm"), row.integer("train_seed", NO_SEED, minimum=NO_SEED)
        run = runs.setdefault(key, Run(*key))
        prompt_id = row.text("prompt_id")
        content = row.text("prompt_sha256", sha256(prompt_id))
        item = Item(content, "", row.text("category", "all"), row.text("cluster_id", prompt_id))
        if described.setdefault(prompt_id, item) != item:
            raise ContractError(f"{row.where}: prompt_id {prompt_id!r} has another category, cluster or prompt_sha256")
        run.items[prompt_id] = item
        run.add(
            row.metric(named),
            prompt_id,
            row.integer("sample_idx", 0),
            score_of(row, "value", row.number("value")),
        )
    return list(runs.values())


@dataclass(frozen=True)
class Row:
    """One row: cells by column, None where a cell is empty. where: file and line."""

    cells: dict[str, object]
    where: str

    def text(self, column: str, default: str | None = None) -> str:
        """A text; ContractError if it is empty and has no default."""
        value = self.cells.get(column)
        if value is None and default is None:
            raise ContractError(f"{self.where}: column {column!r} is empty")
        return str(default if value is None else value)

    def metric(self, named: dict[str, str], default: str | None = None) -> str:
        """The metric's name as a folder's; ContractError if another one has it. named: those so far, by folder."""
        given = self.text("metric", default)
        try:
            name = safe(given)
        except ContractError as error:
            raise ContractError(f"{self.where}: {error}") from None
        if (other := named.setdefault(name, given)) != given:
            raise ContractError(f"{self.where}: metrics {other!r} and {given!r} would both be {name!r}; rename one")
        return name

    def number(self, column: str) -> float | None:
        """A number, None where the cell is empty; ContractError for anything else."""
        value = self.cells.get(column)
        try:
            text = str(value)  # Python would also take 1_000 and the digits of other scripts
            plain = text.isascii() and "_" not in text and not isinstance(value, bool)
            number = float(text) if value is not None and plain else None
        except ValueError:
            number = None
        if value is not None and (number is None or not abs(number) < float("inf")):
            raise ContractError(f"{self.where}: column {column!r} holds {value!r}, which is no finite number")
        return number

    def integer(self, column: str, default: int, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """A whole number."""
        number = self.number(column)
        if number is None:
            return default
        if not number.is_integer() or not minimum <= number <= maximum:
            found = self.cells[column]
            raise ContractError(
                f"{self.where}: column {column!r} holds {found!r}, must be a whole number from {minimum} on"
            )
        return int(number)


def rows_of(path: str | Path, needed: tuple[str, ...]) -> list[Row]:
    """The rows of a csv or parquet file, those that are wholly empty left out."""
    csv = Path(path).suffix != ".parquet"
    try:
        if csv:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], skip_blank_lines=False)
        else:
            frame = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ContractError(f"{path}: not a readable table ({error})") from None
    for column in needed:
        if column not in frame:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(map(str, frame.columns))})")
    # A NaN in parquet is no empty cell but a value that is no number; pandas can only tell in a column of numbers.
    numbers = [] if csv else [name for name in frame if pd.api.types.is_float_dtype(frame[name])]
    cells = frame.astype(object).where(frame.notna(), None)
    for name in numbers:
        cells[name] = frame[name].astype(object)
    named = ("line", 2) if csv else ("row", 1)
    names = list(map(str, cells.columns))
    rows = []
    for number, values in enumerate(cells.itertuples(index=False, name=None)):
        if any(value is not None for value in values):
            rows.append(Row(dict(zip(names, values, strict=True)), f"{path}, {named[0]} {number + named[1]}"))
    if not rows:
        raise ContractError(f"{path}: the table has no rows")
    return rows


def score_of(row: Row, column: str, value: float | None) -> Value:
    """The score of a row: a value (of the column) with status ok or truncated, or a status without one."""
    status, output = row.text("status", "ok"), row.cells.get("gen_sha256")
    if status not in STATUSES:
        raise ContractError(f"{row.where}: column 'status' holds {status!r}, must be one of {', '.join(STATUSES)}")
    if value is None and status == "ok":
        raise ContractError(
            f"{row.where}: column {column!r} is empty; an output that failed needs a status ({', '.join(STATUSES[1:])})"
        )
    if value is not None and status not in ("ok", "truncated"):
        raise ContractError(f"{row.where}: column {column!r} holds {value!r} with status {status!r}; leave it empty")
    if output is not None and not SHA256.fullmatch(str(output)):
        raise ContractError(f"{row.where}: column 'gen_sha256' holds {output!r}, no sha256 (64 hexadecimal digits)")
    return Value(value, status, None if output is None else str(output), row.where)
