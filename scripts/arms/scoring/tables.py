"""Log-probability tables: the reference policy as a file, and what an arm thinks of the held-out pairs.

A table says in its own metadata which model, adapter and tokens it was made from. With the table in the DAG a wrong
reference is impossible by construction; reading one checks that it is the one that was asked for.
"""

from __future__ import annotations

import json
from pathlib import Path

from arms.job.files import UserError, atomic_path, canonical_json

KEY = b"sft-vs-dpo"


def write_table(path: str | Path, rows: list[dict], made_from: dict) -> None:
    """Write rows (pair_id, chosen_logp, chosen_tokens, rejected_logp, rejected_tokens) as parquet.

    made_from: model_sha256, adapter_sha256 (null for the base), tokens_sha256, precision; kept in the file's metadata.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("pair_id", pyarrow.string()),
            ("chosen_logp", pyarrow.float64()),
            ("chosen_tokens", pyarrow.int32()),
            ("rejected_logp", pyarrow.float64()),
            ("rejected_tokens", pyarrow.int32()),
        ],
        metadata={KEY: canonical_json(made_from).encode()},
    )
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def read_table(path: str | Path, expected: dict, pair_ids: list[str]) -> dict[str, dict]:
    """The table as pair_id -> row, after checking that it is the reference asked for.

    expected: the made_from that the caller observes itself. pair_ids: the pairs that are going to be trained on.
    Raises UserError on another origin, a missing pair or a foreign one.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    made_from = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    differing = [key for key in expected if made_from.get(key) != expected[key]]
    cure = f"delete {path} and run the same command again"
    if differing:
        found = ", ".join(f"{key} {_short(made_from.get(key))}, expected {_short(expected[key])}" for key in differing)
        raise UserError(f"{path}: this table is of another reference policy ({found}); {cure}")
    rows = {row["pair_id"]: row for row in table.to_pylist()}
    missing, foreign = sorted(set(pair_ids) - set(rows)), sorted(set(rows) - set(pair_ids))
    if missing or foreign or len(rows) != table.num_rows:
        raise UserError(
            f"{path}: {len(missing)} pairs are missing ({', '.join(missing[:3])}), {len(foreign)} are foreign "
            f"({', '.join(foreign[:3])}), {table.num_rows - len(rows)} occur twice; {cure}"
        )
    return rows


def _short(value: object) -> str:
    return str(value)[:12]
