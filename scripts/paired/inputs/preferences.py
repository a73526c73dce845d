"""Pairwise outcomes from one plain table, csv or parquet: a row for each judgement of two answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..files import ContractError
from ..pairwise_files import PAIRWISE_COLUMNS, PAIRWISE_STATUSES
from ..scores import NO_SEED
from .contract import scope_of_seeds, write_prompts
from .runs import Item, sha256
from .table import Row, rows_of

NEEDED = ("arm_a", "arm_b", "prompt_id", "winner")
WINNERS = {"a": 1.0, "b": 0.0, "tie": 0.5}
METRIC = "preference"


class Judgement(NamedTuple):
    """One judgement, the answer of arm_a shown first. value: 1 if it won, 0 if the other did, 0.5 for a tie."""

    arm_a: str
    arm_b: str
    train_seed: int
    prompt_id: str
    sample_idx: int
    value: float | None
    status: str
    length_a: float | None
    length_b: float | None


class Judgements(NamedTuple):
    """A table of judgements. rows: by metric. arms: in the order of the table."""

    rows: dict[str, list[Judgement]]
    items: dict[str, Item]
    arms: list[str]


def read_preferences(path: str | Path) -> Judgements:
    """Judgements from a table: arm_a (shown first), arm_b, prompt_id, winner (a, b or tie); also train_seed,
    sample_idx, status, metric, category, cluster_id, prompt_sha256, length_a and length_b where they are known.

    Raises ContractError naming file, line and column, as `table.read_table` does.
    """
    rows: dict[str, list[Judgement]] = {}
    items: dict[str, Item] = {}
    seen: dict[tuple, str] = {}
    named: dict[str, str] = {}
    arms: dict[str, None] = {}
    for row in rows_of(path, NEEDED):
        judgement = _judgement(row)
        metric = row.metric(named, METRIC)
        key = (metric, *judgement[:5])
        if key in seen:
            raise ContractError(f"{row.where}: a second judgement of the one in {seen[key]}. Remove one of them")
        seen[key] = row.where
        content = row.text("prompt_sha256", sha256(judgement.prompt_id))
        item = Item(content, "", row.text("category", "all"), row.text("cluster_id", judgement.prompt_id))
        if items.setdefault(judgement.prompt_id, item) != item:
            raise ContractError(
                f"{row.where}: prompt_id {judgement.prompt_id!r} has another category, cluster or prompt_sha256"
            )
        rows.setdefault(metric, []).append(judgement)
        arms |= dict.fromkeys((judgement.arm_a, judgement.arm_b))
    return Judgements(rows, items, list(arms))


def _judgement(row: Row) -> Judgement:
    winner, status = row.cells.get("winner"), row.text("status", "ok")
    if status not in PAIRWISE_STATUSES:
        raise ContractError(
            f"{row.where}: column 'status' holds {status!r}, must be one of {', '.join(PAIRWISE_STATUSES)}; a "
            "model that gave no answer has lost"
        )
    if (status == "ok") != (winner in WINNERS):
        raise ContractError(
            f"{row.where}: column 'winner' holds {winner!r} with status {status!r}; write {', '.join(WINNERS)}, or "
            f"leave it empty and give a status ({', '.join(PAIRWISE_STATUSES[1:])})"
        )
    judgement = Judgement(
        row.text("arm_a"),
        row.text("arm_b"),
        row.integer("train_seed", NO_SEED, minimum=NO_SEED),
        row.text("prompt_id"),
        row.integer("sample_idx", 0),
        WINNERS.get(str(winner)),
        status,
        row.number("length_a"),
        row.number("length_b"),
    )
    if judgement.arm_a == judgement.arm_b:
        raise ContractError(f"{row.where}: arm_a and arm_b are both {judgement.arm_a!r}; two models are compared")
    return judgement


def choose(judgements: Judgements, chosen: Sequence[str]) -> list[str]:
    """The metrics to compare, the primary one first; ContractError where the choice is not clear."""
    known = sorted(judgements.rows)
    for metric in chosen:
        if metric not in judgements.rows:
            raise ContractError(f"--metric {metric}: not in the table, which holds {', '.join(known)}")
    if not chosen and len(known) != 1:
        raise ContractError(
            f"which metric is the primary one? Name it first with --metric; there are {', '.join(known)}"
        )
    return list(chosen or known)


def plan_for(judgements: Judgements, metrics: Sequence[str], margin: float | None, scope: str | None) -> dict:
    """An analysis plan: every pair of models that was judged is a primary contrast on the first metric.

    margin: smallest net win rate that matters.
    """
    pairs = {frozenset((row.arm_a, row.arm_b)) for own in judgements.rows.values() for row in own}
    arms = judgements.arms
    contrasts = {
        f"{b} − {a}": {b: 1, a: -1} for i, b in enumerate(arms) for a in arms[:i] if frozenset((a, b)) in pairs
    }
    seeds = {row.train_seed for own in judgements.rows.values() for row in own} - {NO_SEED}
    entries = {
        metric: {
            "kind": "pairwise",
            "higher_is_better": True,
            "margin": margin if metric == metrics[0] else None,
            "role": "primary" if metric == metrics[0] else "secondary",
        }
        for metric in metrics
    }
    return {
        "primary_metric": metrics[0],
        "contrasts": contrasts,
        "primary_contrasts": list(contrasts),
        "primary_scope": scope or scope_of_seeds("the table", seeds),
        "metrics": entries,
    }


def write(judgements: Judgements, metrics: Iterable[str], folder: Path) -> None:
    """Write FOLDER/prompts.parquet and FOLDER/scores/metric=<name>/part-0.parquet, rows sorted."""
    write_prompts(judgements.items, folder)
    for metric in metrics:
        target = folder / "scores" / f"metric={metric}" / "part-0.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = sorted(judgements.rows[metric], key=lambda row: row[:5])
        pd.DataFrame(rows, columns=list(PAIRWISE_COLUMNS)).to_parquet(target, index=False)
