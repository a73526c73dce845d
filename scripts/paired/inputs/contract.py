"""From runs to the data contract: the metrics to compare, a plan for them, and the files that hold both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import ContractError
from ..plan import Metric, Plan
from ..scores import NO_SEED, value_faults
from .runs import Item, Run

STRAY = 0.1  # of a yes/no metric's values at most this share may be anything else before it is taken for another kind


def choose_metrics(runs: Sequence[Run], chosen: Sequence[str]) -> list[str]:
    """The metrics to compare, the primary one first.

    Raises ContractError where the choice is not clear, where a run lacks a score of them that another has, or has one
    that is no number.
    """
    tasks: dict[str, set[str]] = {}
    for run in runs:
        for metric, own in run.values.items():
            tasks.setdefault(metric, set()).update(run.items[prompt_id].category for prompt_id, _ in own)
    known = "; ".join(f"{metric} ({', '.join(sorted(found)[:4])})" for metric, found in sorted(tasks.items()))
    for metric in chosen:
        for run in runs:
            if metric in run.faults:
                raise ContractError(run.faults[metric])
        if metric not in tasks:
            raise ContractError(f"--metric {metric}: not in the logs, which hold {known}")
    if not chosen and len(tasks) != 1:
        raise ContractError(
            f"which metric is the primary one? Name it first: --metric NAME [NAME ...]; there are {known}"
        )
    metrics = list(chosen or tasks)
    for metric in metrics:
        _check_complete(runs, metric)
    return metrics


def check_arms(arms: Iterable[str], plan: Plan, where: str) -> None:
    """ContractError unless the models are those that the plan compares."""
    found = sorted(set(arms))
    if found != sorted(plan.arms):
        raise ContractError(
            f"{where} compares {', '.join(sorted(plan.arms))}, but the models given are {', '.join(found)}; give the "
            "models of its contrasts, under these names"
        )


def _check_complete(runs: Sequence[Run], metric: str) -> None:
    """ContractError unless every run has a score, or a failed output, wherever another has."""
    for run in runs:
        if metric in run.faults:
            raise ContractError(run.faults[metric])
        own = run.values.get(metric, {})
        for (prompt_id, sample), score in own.items():
            if sample and (prompt_id, sample - 1) not in own:
                raise ContractError(
                    f"{score.where}: sample {sample} of {run.name} (metric {metric}, item {prompt_id}), but no "
                    f"sample {sample - 1}; samples are numbered 0, 1, 2, ... without a gap"
                )
        for other in runs:
            absent = sorted(other.values.get(metric, {}).keys() - own.keys())
            if not absent:
                continue
            prompt_id, sample = absent[0]
            category = run.items[prompt_id].category
            has = sorted(name for name, found in run.values.items() if any(key[0] == prompt_id for key in found))
            if not any(run.items[key[0]].category == category for key in own):
                raise ContractError(
                    f"{run.name} has no {metric} on {category}, which {other.name} has; what it has there: "
                    f"{', '.join(has) or 'nothing'}. Evaluate both alike"
                )
            raise ContractError(
                f"{run.name} has no {metric} of item {prompt_id}, sample {sample}, which {other.name} has "
                f"({other.values[metric][absent[0]].where}), and lacks {len(absent)} in all; evaluate it, or give it a "
                "row with a status if the output failed"
            )


def make_plan(
    runs: Sequence[Run],
    metrics: Sequence[str],
    margin: float | None = None,
    scope: str | None = None,
    continuous: Iterable[str] = (),
) -> dict:
    """An analysis plan for runs: every later model minus every earlier one on the first metric is primary.

    margin: smallest difference on the primary metric that matters, in its own unit. scope: of the primary claims; None:
    of the recipe where models have training seeds, which takes three. continuous: metrics that are not yes/no though
    most of their values are 0 or 1. A metric with no value but 0 and 1 is binary; one with inspect's "partly correct"
    is ordinal in steps of a half; any other is continuous.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    contrasts = {f"{b} − {a}": {b: 1, a: -1} for i, b in enumerate(arms) for a in arms[:i]}
    entries = {}
    for metric in metrics:
        kind = _kind(runs, metric, metric in continuous)
        entries[metric] = {
            "kind": kind,
            "higher_is_better": not any(metric in run.lower for run in runs),
            "bounds": None if kind == "continuous" else [0, 1],
            "step": 0.5 if kind == "ordinal" else None,
            "margin": margin if metric == metrics[0] else None,
            "role": "primary" if metric == metrics[0] else "secondary",
        }
    return {
        "primary_metric": metrics[0],
        "contrasts": contrasts,
        "primary_contrasts": list(contrasts),
        "primary_scope": scope or _scope(runs, arms),
        "metrics": entries,
    }


def _kind(runs: Sequence[Run], metric: str, continuous: bool) -> str:
    """Of a metric from its values; ContractError for a yes/no metric with a few values of another sort."""
    scores = [score for run in runs for score in run.values.get(metric, {}).values() if score.value is not None]
    stray = [score for score in scores if score.value not in (0, 1)]
    if any(metric in run.graded for run in runs):
        return "ordinal" if stray else "binary"
    if continuous or not scores:
        return "continuous"
    if stray and len(stray) <= max(1, STRAY * len(scores)):
        raise ContractError(
            f"{stray[0].where}: {metric} is {stray[0].value:g}, though {len(scores) - len(stray)} of its {len(scores)} "
            f"values are 0 or 1; correct it, or if {metric} is no yes/no metric, say --continuous {metric}"
        )
    return "continuous" if stray else "binary"


def _scope(runs: Sequence[Run], arms: Sequence[str]) -> str:
    """Training seeds are there for claims about the recipe; with one run of each there is no such claim."""
    seeds = {arm: {run.seed for run in runs if run.arm == arm} - {NO_SEED} for arm in arms}
    arm = max(seeds, key=lambda name: len(seeds[name]))
    return scope_of_seeds(arm, seeds[arm])


def scope_of_seeds(name: str, seeds: set[int]) -> str:
    """The scope of the primary claims for so many training seeds; ContractError for two, which allow either reading."""
    if len(seeds) == 2:
        raise ContractError(
            f"{name} has 2 training seeds ({', '.join(map(str, sorted(seeds)))}), and a claim about the recipe takes "
            "3; add a seed, or say --scope checkpoint for claims about these checkpoints only"
        )
    return "method" if len(seeds) > 2 else "checkpoint"


def check_values(runs: Sequence[Run], metrics: Mapping[str, Metric]) -> None:
    """ContractError for a score that contradicts kind, bounds or step of its metric."""
    for name, metric in metrics.items():
        for run in runs:
            scores = list(run.values.get(name, {}).values())
            values = np.array([np.nan if score.value is None else score.value for score in scores])
            for wrong, what in value_faults(values, metric):
                if wrong.any():
                    first = int(np.argmax(wrong))
                    raise ContractError(f"{scores[first].where}: {name} is {what.format(values[first])}")


def write_contract(runs: Sequence[Run], metrics: Iterable[str], folder: Path) -> None:
    """Write FOLDER/prompts.parquet and FOLDER/scores/metric=<name>/part-0.parquet.

    Rows are sorted, so the order of the logs leaves no trace. A metric's prompts are those for which runs have it.
    """
    write_prompts(runs[0].items, folder)
    for metric in metrics:
        columns = list(zip(*sorted(_rows_of(runs, metric), key=lambda row: row[:4]), strict=True))
        types = (pa.string(), pa.int32(), pa.string(), pa.int32(), pa.float64(), pa.string(), pa.string())
        names = ("arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256")
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        target = folder / "scores" / f"metric={metric}" / "part-0.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, names), target, compression="zstd")


def write_prompts(items: Mapping[str, Item], folder: Path) -> None:
    """Write FOLDER/prompts.parquet, sorted."""
    prompts = pd.DataFrame(
        [(name, item.content, item.category, item.cluster, "heldout") for name, item in sorted(items.items())],
        columns=["prompt_id", "prompt_sha256", "category", "cluster_id", "split"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    prompts.to_parquet(folder / "prompts.parquet", index=False)


def _rows_of(runs: Sequence[Run], metric: str) -> Iterator[tuple]:
    for run in runs:
        for (prompt_id, sample), score in run.values.get(metric, {}).items():
            yield run.arm, run.seed, prompt_id, sample, score.value, score.status, score.output
