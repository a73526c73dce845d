"""Token rows as tables: read, sliced and written, so that memory does not grow with Python's objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, overload

from arms.job.files import UserError, atomic_path

if TYPE_CHECKING:
    import pyarrow

BATCH = 256  # rows that are Python objects at a time
GROUP = 2048  # rows of a row group of a token file


class TokenRows(Sequence):
    """Token rows in a table: each is a dict with id, category and lists of int ids, made when it is asked for.

    Four bytes a token are in memory, not Python's thirty. Also what TRL's trainers take as a dataset.
    """

    def __init__(self, table: pyarrow.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, rows: Iterable[dict]) -> TokenRows:
        """Of dicts with the same keys, which need not be in memory together."""
        import pyarrow

        return cls(pyarrow.concat_tables(token_tables(rows)))

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> dict: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index):
        """The row, or, without copying, some rows side by side."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("token rows are sliced with step 1")
            return TokenRows(self.table.slice(start, max(0, stop - start)))
        index = range(len(self))[index]
        return _dicts(self.table.slice(index, 1).to_batches()[0])[0]

    def __iter__(self) -> Iterator[dict]:
        for batch in self.table.to_batches(max_chunksize=BATCH):
            yield from _dicts(batch)

    def ids(self) -> list[str]:
        """The id of every row."""
        return self.table["id"].to_pylist()

    def longest_first(self) -> list[int]:
        """The positions of the rows, by the number of their ids: batches of like rows have little padding."""
        import pyarrow.compute

        names = [field.name for field in self.table.schema if field.name.endswith("_ids")]
        lengths = sum(pyarrow.compute.list_value_length(self.table[name]).to_numpy() for name in names)
        return (-lengths).argsort(kind="stable").tolist()

    def with_columns(self, **columns: Sequence[float]) -> TokenRows:
        """The same rows with further columns, a number for each row."""
        import pyarrow

        table = self.table
        for name, values in columns.items():
            table = table.append_column(name, pyarrow.array(values, pyarrow.float64()))
        return TokenRows(table)

    def map(self, *_, **__) -> TokenRows:
        """The rows themselves: TRL's trainers would tokenise a dataset by its `map`."""
        return self


def _dicts(batch: pyarrow.RecordBatch) -> list[dict]:
    """The rows of a batch. Arrow's own to_pylist takes a microsecond for each token."""
    columns = []
    for column in batch.columns:
        if hasattr(column, "offsets"):  # lists of ids
            offsets = column.offsets.to_pylist()
            ids = column.values[offsets[0] : offsets[-1]].to_numpy().tolist()
            columns.append([ids[start - offsets[0] : end - offsets[0]] for start, end in pairwise(offsets)])
        else:
            columns.append(column.to_pylist())
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def token_schema(row: dict) -> pyarrow.Schema:
    """Columns of the table of rows like this one: texts, int32 ids, float64 numbers."""
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.int32())}
    return pa.schema([(name, types[type(value)]) for name, value in row.items()])


def write_tokens(path: str | Path, tables: Iterable[pyarrow.Table]) -> None:
    """Write tables of token rows to the parquet file `path`, GROUP rows at a time; it stays as it was if they raise."""
    import pyarrow
    import pyarrow.parquet

    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        remaining = iter(tables)
        waiting = next(remaining, None)
        if waiting is None:
            raise UserError(f"{path}: no rows to write")
        file = stack.enter_context(pyarrow.parquet.ParquetWriter(temporary, waiting.schema, compression="zstd"))
        for table in remaining:
            waiting = pyarrow.concat_tables([waiting, table])
            while waiting.num_rows >= GROUP:
                file.write_table(waiting.slice(0, GROUP).combine_chunks())
                waiting = waiting.slice(GROUP)
        if waiting.num_rows:
            file.write_table(waiting.combine_chunks())


def read_tokens(path: str | Path) -> TokenRows:
    """The rows of a token file (tokens/*.parquet)."""
    import pyarrow.parquet

    return TokenRows(pyarrow.parquet.read_table(path))


def token_tables(rows: Iterable[dict]) -> Iterator[pyarrow.Table]:
    """Token rows as tables of at most GROUP rows; they need not be in memory together."""
    import pyarrow

    remaining = iter(rows)
    while batch := list(islice(remaining, GROUP)):
        yield pyarrow.Table.from_pylist(batch, schema=token_schema(batch[0]))
