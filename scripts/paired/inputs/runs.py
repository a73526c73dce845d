"""A run: what one model, or one training seed of it, was asked, and its scores. And whether runs can be compared."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..files import ContractError
from ..scores import NO_SEED, STATUSES, unequal_seeds

LONGEST_NAME = 200  # bytes: "metric=" before it, and the folder's name has at most 255
RUN = re.compile(r"(?P<name>.+?)(:(?P<seed>\d{1,9}))?=(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """What a run was asked: `content` identifies question and target, `prompt` the text as the model got it."""

    content: str
    prompt: str
    category: str
    cluster: str


@dataclass(frozen=True)
class Grouping:
    """What an item of a log belongs to: its task ("task"), the task's group ("group"), or a field of its document.

    cluster: None, every item is a cluster of its own.
    """

    category: str = "task"
    cluster: str | None = None

    def of(self, prompt_id: str, task: str, group: str, document: Mapping, where: str) -> tuple[str, str]:
        """(category, cluster) of an item; ContractError if its document lacks the field. where: file and line of it."""

        def found(name: str) -> str:
            if name in ("task", "group"):
                return task if name == "task" else group
            if document.get(name) is None:
                known = ", ".join(map(str, document)) or "none"
                raise ContractError(f"{where}: the item's document has no field {name!r} (its fields: {known})")
            value = document[name]
            return str(value) if isinstance(value, str | int | float) else sha256(value)

        if self.cluster is None:
            return found(self.category), prompt_id
        own = found(self.cluster)
        # The same number in two tasks is not the same passage.
        return found(self.category), own if self.cluster in ("task", "group") else f"{task}/{own}"


class Value(NamedTuple):
    """One score. value: None where the output has none (status says why). where: file and line that it comes from."""

    value: float | None
    status: str
    output: str | None
    where: str


@dataclass
class Run:
    """One model, or one training seed of it.

    items: by prompt id. values: metric -> (prompt id, sample) -> score. faults: metric -> what is wrong with a score of
    it; an error once the metric is chosen. versions: task -> version. lower: metrics of which less is better. graded:
    metrics given as correct, partly correct or incorrect.
    """

    arm: str
    seed: int
    items: dict[str, Item] = field(default_factory=dict)
    values: dict[str, dict[tuple[str, int], Value]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    versions: dict[str, object] = field(default_factory=dict)
    lower: set[str] = field(default_factory=set)
    graded: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """As on the command line: NAME or NAME:SEED."""
        return self.arm if self.seed == NO_SEED else f"{self.arm}:{self.seed}"

    def add_task(self, task: str, version: object, path: object) -> None:
        """Note a task and its version; ContractError if the run has it already."""
        if not isinstance(task, str):
            raise TypeError(f"its task is {task!r}")
        if task in self.versions:
            raise ContractError(
                f"{path}: {self.name} has task {task!r} already; name the one file to use, or tell training seeds "
                f"apart as {self.arm}:1=..., {self.arm}:2=..."
            )
        self.versions[task] = version

    def add(self, metric: str, prompt_id: str, sample: int, score: Value) -> None:
        """Note a score; ContractError if the run has one of that metric, item and sample already."""
        own = self.values.setdefault(metric, {})
        if (prompt_id, sample) in own:
            raise ContractError(
                f"{score.where}: a second score of {self.name} (metric {metric}, item {prompt_id}, sample {sample}); "
                f"the first is in {own[prompt_id, sample].where}. Remove one of them"
            )
        if score.value is not None and not math.isfinite(score.value):
            self.fault(metric, score.where, score.value)
        own[prompt_id, sample] = score

    def fault(self, metric: str, where: str, value: object) -> None:
        """Note that a score of the metric is no finite number."""
        self.faults.setdefault(
            metric,
            f"{where}: {metric} is {value!r}, which is no finite number; correct it, or give a failed output "
            f"no value and a status ({', '.join(STATUSES[1:])})",
        )


def check_runs(
    runs: Sequence[Run],
    own_prompts: bool = False,
    common_seeds: bool = False,
    planned_seeds: Sequence[int] | None = None,
) -> list[str]:
    """Raise ContractError unless all runs were asked the same; returns what a reader should be told.

    own_prompts: models may have got the same items in texts of their own (chat template, few-shot examples).
    common_seeds: models may have different training seeds. planned_seeds: those that a plan names.
    """
    if len({run.arm for run in runs}) < 2:
        raise ContractError("a comparison needs at least two models")
    for run in runs:
        if run.seed == NO_SEED and any(other.arm == run.arm and other.seed != NO_SEED for other in runs):
            raise ContractError(
                f"{run.arm} has a run without a training seed beside seeded ones; number every run of it"
            )
    if not common_seeds:
        _check_seeds(runs, planned_seeds)
    first, notes = runs[0], []
    for run in runs[1:]:
        for task in sorted({*first.versions, *run.versions}):
            pair = [one.versions.get(task, "absent") for one in (first, run)]
            if pair[0] != pair[1]:
                raise ContractError(
                    f"task {task!r}: version {pair[0]} in {first.name}, {pair[1]} in {run.name}; evaluate both on one"
                )
        for one, other in ((first, run), (run, first)):
            if absent := sorted(set(one.items) - set(other.items)):
                shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
                raise ContractError(
                    f"{other.name} lacks {len(absent)} of the {len(one.items)} items of {one.name}: {shown}; "
                    "evaluate all models on the same items"
                )
        for prompt_id, item in first.items.items():
            _check_item(prompt_id, item, run.items[prompt_id], (first.name, run.name), own_prompts)
    differing = sum(len({run.items[name].prompt for run in runs}) > 1 for name in first.items)
    if differing:
        notes.append(f"The models got {differing} of {len(first.items)} prompts in texts of their own (--own-prompts).")
    return notes


def _check_seeds(runs: Sequence[Run], planned: Sequence[int] | None) -> None:
    """ContractError if a model lacks a training seed that another has, or the plan."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.arm, set()).add(run.seed)
    fault = unequal_seeds(seeds, planned)
    if fault:
        raise ContractError(
            f"{fault}; evaluate what is missing, leave that seed of the others out, or compare the seeds that all "
            "models have with --common-seeds (the summary will say so)"
        )


def _check_item(prompt_id: str, item: Item, theirs: Item, names: tuple[str, str], own_prompts: bool) -> None:
    """ContractError unless both runs were asked the same."""
    both = " and ".join(names)
    if theirs.content != item.content:
        raise ContractError(f"item {prompt_id}: question or target differ between {both}")
    if theirs.prompt != item.prompt and not own_prompts:
        raise ContractError(
            f"item {prompt_id}: {both} got the question in different words (chat template or few-shot examples?); "
            "evaluate both alike, or allow it with --own-prompts"
        )
    if (theirs.category, theirs.cluster) != (item.category, item.cluster):
        raise ContractError(f"item {prompt_id}: category or cluster differ between {both}")


def safe(metric: str) -> str:
    """A metric's name as a folder's: inspect names scorers package/scorer. ContractError if it is too long for one."""
    size = len(metric.encode())
    if size > LONGEST_NAME:
        raise ContractError(f"metric {metric[:30]!r}...: its name has {size} bytes; shorten it to {LONGEST_NAME}")
    return metric.replace("/", ".")


def sha256(value: object) -> str:
    """sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
