"""The prompts of a study, and the checkpoints that its runs started from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .files import ContractError, read_parquet

PROMPT_COLUMNS = ("prompt_id", "prompt_sha256", "category", "cluster_id", "split")


def read_prompts(path: str | Path) -> pd.DataFrame:
    """The prompts, sorted by prompt_id, with the columns of PROMPT_COLUMNS as strings.

    Raises ContractError: a missing column, a null, a duplicate prompt_id, or a held-out prompt whose text (sha256) is
    also a prompt of another split.
    """
    table = read_parquet(path)
    for column in PROMPT_COLUMNS:
        if column not in table.column_names:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(table.column_names)})")
        if table[column].null_count:
            row = pc.index(pc.is_null(table[column]), True).as_py()
            raise ContractError(f"{path}, row {row}: column {column!r} is null")
    prompts = table.select(PROMPT_COLUMNS).to_pandas().astype(str)
    prompts = prompts.sort_values("prompt_id", kind="stable", ignore_index=True)
    doubled = prompts["prompt_id"].duplicated()
    if doubled.any():
        raise ContractError(f"{path}: prompt_id {prompts['prompt_id'][doubled].iloc[0]!r} occurs more than once")
    heldout = prompts["split"] == "heldout"
    leaked = heldout & prompts["prompt_sha256"].isin(set(prompts["prompt_sha256"][~heldout]))
    if leaked.any():
        raise ContractError(
            f"{path}: held-out prompt {prompts['prompt_id'][leaked].iloc[0]!r} has the text (prompt_sha256) of a "
            "training prompt; remove it from one of them"
        )
    return prompts


def shared_parents(path: str | Path) -> list[str]:
    """A sentence for each arm whose training seeds all start from one checkpoint: its claims are conditional on that.

    path: runs.parquet with arm, train_seed and parent_sha256 (null: no parent).
    """
    table = read_parquet(path)
    for column in ("arm", "train_seed", "parent_sha256"):
        if column not in table.column_names:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(table.column_names)})")
        if pa.types.is_nested(table.schema.field(column).type):
            raise ContractError(f"{path}, column {column!r}: must hold plain values")
    runs = table.select(["arm", "train_seed", "parent_sha256"]).to_pandas().dropna().astype({"parent_sha256": str})
    return [
        f"All {len(own)} seeds of {arm} start from one checkpoint ({own['parent_sha256'].iloc[0][:12]}), so claims "
        "about it are conditional on that checkpoint: its seeds do not show how much training the parent again varies."
        for arm, own in runs.groupby("arm")
        if len(own) > 1 and own["parent_sha256"].nunique() == 1
    ]
