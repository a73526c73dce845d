"""Log-probability tables: the reference policy as a file, and what an arm thinks of the held-out pairs.

A table says in its own metadata which model, adapter and tokens it was made from. With the table in the DAG a wrong
reference is impossible by construction; reading one checks that it is the one that was asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, atomic_path, canonical_json, sha256_file
from arms.job.out_of_memory import naming_the_cure
from arms.scoring.logps import pair_batch, pair_logps, takes_forks

if TYPE_CHECKING:
    from arms.scoring.policy import Policy

KEY = b"sft-vs-dpo"
COLUMNS = ("chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens")


def origin_of(card: dict, adapter_sha256: str | None, tokens: str | Path, precision: str) -> dict[str, str | None]:
    """What a table is made from: the model (`card`: model.json), its adapter (None: the base), and the pairs' ids."""
    return {
        "model_sha256": card["sha256"],
        "adapter_sha256": adapter_sha256,
        "tokens_sha256": sha256_file(tokens),
        "precision": precision,
    }


def score(policy: Policy, pairs: list[dict], size: int) -> list[dict]:
    """Rows of a table for one batch of pairs; `size` is what scoring.batch_size asked for."""
    import torch

    forking = takes_forks(policy.model)
    batch = pair_batch(pairs, policy.tokenizer.pad_token_id, forking)
    with torch.no_grad(), naming_the_cure("scoring.batch_size", size):
        batch = {name: tensor.to(policy.device) for name, tensor in batch.items()}
        scores = [values.tolist() for values in pair_logps(policy.model, batch, forking, policy.dtype)]
    return [
        {"pair_id": pair["id"], **dict(zip(COLUMNS, values, strict=True))}
        for pair, *values in zip(pairs, *scores, strict=True)
    ]


def write_table(path: str | Path, rows: list[dict], made_from: dict) -> None:
    """Write rows (pair_id, chosen_logp, chosen_tokens, rejected_logp, rejected_tokens) as parquet.

    made_from: its `origin_of`, kept in the file's metadata.
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

    expected: the `origin_of` that the caller observes itself. pair_ids: the pairs that are going to be trained on.
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
