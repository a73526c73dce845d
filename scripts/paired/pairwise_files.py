"""Pairwise outcomes on disk: which of two answers a judge preferred, read into one table and into scores by contrast.

DIR/metric=<name>/part-*.parquet, a row for each judgement; columns: PAIRWISE_COLUMNS (docs/statistics.md, section 2).
The answer of arm_a was shown first. value: 1 if it won, 0 if that of arm_b did, 0.5 for a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .files import ContractError
from .plan import Metric, Plan
from .question import Weights
from .scores import INFRA_FAILURES, NO_SEED, STATUSES, Scores, unequal_seeds

PAIRWISE_COLUMNS = (
    "arm_a", "arm_b", "train_seed", "prompt_id", "sample_idx", "value", "status", "length_a", "length_b"
)  # fmt: skip
JUDGEMENT = ["arm_a", "arm_b", "train_seed", "prompt_id", "sample_idx"]
PAIRWISE_STATUSES = ("ok", *INFRA_FAILURES)


def read_judgements(files: Sequence[Path], plan: Plan, prompts: pd.DataFrame) -> pd.DataFrame:
    """All judgements of one metric, sorted: PAIRWISE_COLUMNS, prompt (position in `prompts`), cluster (int).

    Raises ContractError naming file, row and column: a column that is missing or of another type, a null, an unknown
    arm or prompt, an arm against itself, a value that is no outcome or contradicts the status, a judgement that occurs
    twice.
    """
    tables = [_checked(path, plan, prompts) for path in files]
    found = pd.concat(tables, ignore_index=True).sort_values(JUDGEMENT, kind="stable", ignore_index=True)
    doubled = found.duplicated(JUDGEMENT)
    if doubled.any():
        key = found.loc[doubled, JUDGEMENT].iloc[0].to_dict()
        raise ContractError(f"{files[0].parent}: two rows of one judgement ({key}); each has exactly one")
    return found


def _checked(path: Path, plan: Plan, prompts: pd.DataFrame) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path}: not a readable parquet file ({error})") from None
    for column in PAIRWISE_COLUMNS:
        if column not in table.column_names:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(table.column_names)})")
    found = table.select(PAIRWISE_COLUMNS).to_pandas()

    def refuse(rows: pd.Series | np.ndarray, column: str, what: str) -> None:
        if (rows := np.asarray(rows, dtype=bool)).any():
            row = int(np.argmax(rows))
            raise ContractError(f"{path}, row {row}: column {column!r} holds {found[column].iloc[row]!r}, {what}")

    for column in ("train_seed", "sample_idx", "value", "length_a", "length_b"):
        kind = table.schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise ContractError(f"{path}, column {column!r}: must hold numbers, found {kind}")
        found[column] = found[column].astype(float)
    for column in JUDGEMENT:
        refuse(found[column].isna(), column, "must not be empty")
    for column in ("train_seed", "sample_idx"):
        low = NO_SEED if column == "train_seed" else 0
        refuse((found[column] % 1 != 0) | (found[column] < low), column, f"must be a whole number from {low} on")
        found[column] = found[column].astype(np.int64)
    for column in ("arm_a", "arm_b"):
        refuse(~found[column].isin(plan.arms), column, f"is not one of {', '.join(plan.arms)}")
    refuse(found["arm_a"] == found["arm_b"], "arm_b", "which is arm_a too; two arms are compared")
    refuse(~found["status"].isin(PAIRWISE_STATUSES), "status", f"must be one of {', '.join(PAIRWISE_STATUSES)}")
    ok = found["status"] == "ok"
    refuse(ok & ~found["value"].isin((0, 0.5, 1)), "value", "must be 1 (arm_a won), 0 (arm_b won) or 0.5 (a tie)")
    refuse(~ok & found["value"].notna(), "value", "must be empty where the status is not ok")
    for column in ("length_a", "length_b"):
        refuse(found[column].notna() & ~found[column].between(0, 1e12), column, "must be a length of 0 or more")
    heldout = prompts["split"] == "heldout"
    position = pd.Series(np.arange(len(prompts))[heldout], index=prompts["prompt_id"][heldout])
    found["prompt"] = found["prompt_id"].astype(str).map(position)
    refuse(found["prompt"].isna(), "prompt_id", "is no held-out prompt of the prompts file")
    found["prompt"] = found["prompt"].astype(np.int64)
    found["cluster"] = pd.factorize(prompts["cluster_id"])[0][found["prompt"]]
    return found


def judged_contrasts(judgements: pd.DataFrame, plan: Plan) -> dict[str, Weights]:
    """The contrasts of the plan that are one arm minus another and have judgements."""
    pairs = set(map(frozenset, zip(judgements["arm_a"], judgements["arm_b"], strict=True)))
    return {
        name: weights
        for name, weights in plan.contrasts.items()
        if sorted(weights.values()) == [-1, 1] and frozenset(weights) in pairs
    }


def of_contrast(judgements: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """The judgements of one contrast: outcome (1: its first arm won), shown_first (bool), longer (its first arm's
    length minus the other's) beside the other columns.
    """
    plus = next(arm for arm, weight in weights.items() if weight > 0)
    own = judgements[judgements["arm_a"].isin(weights) & judgements["arm_b"].isin(weights)]
    first = (own["arm_a"] == plus).to_numpy()
    longer = (own["length_a"] - own["length_b"]).to_numpy()
    value = own["value"].to_numpy()
    return own.assign(
        shown_first=first, outcome=np.where(first, value, 1 - value), longer=np.where(first, longer, -longer)
    )


def pairwise_scores(
    judgements: pd.DataFrame, metric: Metric, contrasts: Mapping[str, Weights], plan: Plan, common_seeds: bool
) -> dict[str, Scores]:
    """Contrast -> scores of its two arms: the share of a prompt's judgements that an arm won, a tie counting half.

    The orders of presentation are averaged first; a judgement that failed leaves the comparison without an outcome. The
    difference of the two arms is the net win rate. Raises ContractError: a seed, prompt or sample that is judged for a
    part of the contrast only.
    """
    own = {name: of_contrast(judgements, weights) for name, weights in contrasts.items()}
    seeds = {name: set(frame["train_seed"]) for name, frame in own.items()}
    for name, found in seeds.items():
        if NO_SEED in found and len(found) > 1:
            raise ContractError(f"metric {metric.name!r}, {name}: judgements with a train_seed and without one")
    fault = None if common_seeds else unequal_seeds(seeds, plan.train_seeds)
    if fault:
        raise ContractError(
            f"metric {metric.name!r}: {fault}; judge what is missing, or ask for the seeds that all have with "
            "--common-seeds"
        )
    seeded = [found for found in seeds.values() if found != {NO_SEED}]
    common = set.intersection(*seeded) if seeded else set()
    if seeded and not common:
        raise ContractError(f"metric {metric.name!r}: no training seed is common to all contrasts")
    return {
        name: _scores(frame, contrasts[name], metric, seeds[name], common, f"metric {metric.name!r}, {name}")
        for name, frame in own.items()
    }


def _scores(
    frame: pd.DataFrame, weights: Weights, metric: Metric, found: set[int], common: set[int], where: str
) -> Scores:
    seeds = tuple(sorted(common)) if found != {NO_SEED} else ()
    frame = frame[frame["train_seed"].isin(seeds or (NO_SEED,))]
    prompts = np.unique(frame["prompt"])
    n_samples = int(frame["sample_idx"].max()) + 1
    axes = [np.array(seeds or (NO_SEED,)), prompts, np.arange(n_samples)]
    cell = np.ravel_multi_index(
        [
            np.searchsorted(axis, frame[column])
            for axis, column in zip(axes, ("train_seed", "prompt", "sample_idx"), strict=True)
        ],
        shape := tuple(map(len, axes)),
    )
    size = int(np.prod(shape))
    count = np.bincount(cell, minlength=size)
    if not count.all():
        seed, prompt, sample = (
            axis[i] for axis, i in zip(axes, np.unravel_index(np.argmin(count), shape), strict=True)
        )
        name = frame.loc[frame["prompt"] == prompt, "prompt_id"].iloc[0]
        raise ContractError(
            f"{where}: no judgement of prompt {name}, train_seed {seed}, sample {sample}, though others of the "
            "contrast have it; one that failed needs a row with a status"
        )
    wins = np.bincount(cell, weights=frame["outcome"], minlength=size) / count  # NaN where one of them failed
    status = np.zeros(size, dtype=np.int8)
    np.maximum.at(status, cell, frame["status"].map(STATUSES.index).to_numpy(dtype=np.int8))
    plus, minus = sorted(weights, key=lambda arm: -weights[arm])
    wins = wins.reshape(shape)
    return Scores(
        metric=metric,
        seeds=seeds,
        untrained=frozenset() if seeds else frozenset(weights),
        dropped_seeds={arm: tuple(sorted(found - common)) for arm in weights if seeds and found - common},
        prompts=prompts,
        n_samples=n_samples,
        cells={plus: wins, minus: 1 - wins},
        status=dict.fromkeys((plus, minus), status.reshape(shape)),
        identical=[],
    )
