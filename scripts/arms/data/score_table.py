"""Score tables, as the statistics read them: one row for each answer of one run by one metric."""

from __future__ import annotations

from arms.job.files import atomic_path
from study.runs import Run

UNTRAINED = -1  # train_seed of the base


def write_scores(target: str, run: Run, rows: list[tuple]) -> None:
    """Write (prompt_id, sample_idx, value, status, gen_sha256) rows, sorted by their key, as one score table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, samples, values, statuses, hashes = zip(*rows, strict=True)

    def category(names: tuple[str, ...], index: pa.DataType) -> pa.DictionaryArray:
        levels = sorted(set(names))
        place = {name: number for number, name in enumerate(levels)}
        return pa.DictionaryArray.from_arrays(pa.array([place[name] for name in names], index), pa.array(levels))

    columns = {
        "arm": (category((run.arm,) * len(rows), pa.int8()), False),
        "train_seed": (pa.array([UNTRAINED if run.seed is None else run.seed] * len(rows), pa.int32()), False),
        "prompt_id": (category(ids, pa.int32()), False),
        "sample_idx": (pa.array(samples, pa.int16()), False),
        "value": (pa.array(values, pa.float64()), True),
        "status": (category(statuses, pa.int8()), False),
        "gen_sha256": (pa.array(hashes, pa.string()), True),
    }
    schema = pa.schema([pa.field(name, array.type, nullable) for name, (array, nullable) in columns.items()])
    table = pa.Table.from_arrays([array for array, _ in columns.values()], schema=schema)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")
