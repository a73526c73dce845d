"""The data contract: the analysis plan, the prompts and the score tables, every rule checked before any statistics.

Score tables: DIR/metric=<name>/part-*.parquet with the columns of SCORE_COLUMNS, one row for each
(arm, train_seed, prompt_id, sample_idx) of the design, missing outputs included (a null value and a status).
Prompts: one row each, with a category, a cluster (prompts that share a source or template) and the split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

STATUSES = ("ok", "empty", "truncated", "parse_fail", "error", "judge_fail")
MODEL_FAILURES = ("empty", "truncated", "parse_fail")
INFRA_FAILURES = ("error", "judge_fail")
SCORE_COLUMNS = ("arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256")
PROMPT_COLUMNS = ("prompt_id", "prompt_sha256", "category", "cluster_id", "split")
KINDS = ("binary", "ordinal", "continuous")
ROLES = ("primary", "secondary", "guardrail", "exploratory")
SCOPES = ("method", "checkpoint")
WEIGHTINGS = ("micro", "macro")
NO_SEED = -1
BATCH_ROWS = 2**20

# The 2 x 2 factorial (SFT yes/no x DPO yes/no); C7 asks whether DPO's gain depends on SFT.
CONTRASTS = {
    "C1": {"sft_dpo": 1, "sft": -1},
    "C2": {"sft_dpo": 1, "dpo_only": -1},
    "C3": {"dpo_only": 1, "base": -1},
    "C4": {"sft": 1, "base": -1},
    "C5": {"sft_dpo": 1, "base": -1},
    "C6": {"sft": 1, "dpo_only": -1},
    "C7": {"sft_dpo": 1, "sft": -1, "dpo_only": -1, "base": 1},
}


class ContractError(Exception):
    """Input that breaks the data contract. The message names the file, the column and the key."""


@dataclass(frozen=True)
class Metric:
    """One metric of the plan.

    kind: binary, ordinal or continuous. bounds: (worst possible low, high) or None. margin: the smallest difference
    that matters, in the metric's unit; None: no equivalence or non-inferiority test. step: grid of an ordinal metric.
    role: primary, secondary, guardrail (must not get worse) or exploratory (not pre-registered).
    """

    name: str
    kind: str
    higher_is_better: bool
    bounds: tuple[float, float] | None = None
    margin: float | None = None
    step: float | None = None
    role: str = "secondary"


@dataclass(frozen=True)
class Plan:
    """The pre-registered analysis plan; `sha256` is that of its canonical JSON, so a changed plan is another plan."""

    metrics: dict[str, Metric]
    primary_metric: str
    contrasts: dict[str, dict[str, int]]
    primary_contrasts: tuple[str, ...]
    primary_scope: str
    secondary_scope: str
    weighting: str
    seed: int
    alpha: float
    q: float
    min_prompts_category: int
    draws: int
    train_seeds: tuple[int, ...] | None
    sha256: str = field(repr=False)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that a contrast names, in order of first appearance among the standard four, then by name."""
        named = {arm for weights in self.contrasts.values() for arm in weights}
        standard = [arm for arm in ("base", "sft", "sft_dpo", "dpo_only") if arm in named]
        return (*standard, *sorted(named.difference(standard)))


def plan_sha256(plan: dict) -> str:
    """sha256 of the plan's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_plan(plan: dict, *, where: str = "plan") -> Plan:
    """Check the plan (keys as in spec section 2) and fill its defaults.

    where: how messages call it. Raises ContractError naming the key: unknown or missing keys, wrong values, contrast
    coefficients that do not sum to zero, a primary metric or contrast that is not in the plan.
    """
    known = {
        "seed", "alpha", "q", "primary_metric", "contrasts", "primary_contrasts", "primary_scope", "secondary_scope",
        "weighting", "min_prompts_category", "monte_carlo", "metrics", "train_seeds",
    }  # fmt: skip
    _require_keys(plan, where, known, {"metrics", "primary_metric"})
    if not isinstance(plan["metrics"], dict) or not plan["metrics"]:
        raise ContractError(f"{where}, key 'metrics': must name at least one metric")
    metrics = {
        name: _read_metric(name, entry, f"{where}, metric {name!r}") for name, entry in sorted(plan["metrics"].items())
    }
    primary = plan["primary_metric"]
    if primary not in metrics:
        raise ContractError(f"{where}, key 'primary_metric': {primary!r} is not in 'metrics' ({', '.join(metrics)})")
    contrasts = {name: dict(weights) for name, weights in (plan.get("contrasts") or CONTRASTS).items()}
    for name, weights in contrasts.items():
        if any(isinstance(k, bool) or not isinstance(k, int) or k == 0 for k in weights.values()):
            raise ContractError(f"{where}, contrast {name!r}: coefficients must be non-zero integers, found {weights}")
        if sum(weights.values()) != 0 or not weights:
            raise ContractError(
                f"{where}, contrast {name!r}: coefficients sum to {sum(weights.values())}, must sum to 0 ({weights})"
            )
    default_primary = [name for name in ("C1", "C2", "C3") if name in contrasts] or list(contrasts)
    primary_contrasts = tuple(plan.get("primary_contrasts") or default_primary)
    for name in primary_contrasts:
        if name not in contrasts:
            raise ContractError(f"{where}, key 'primary_contrasts': {name!r} is not one of {', '.join(contrasts)}")
    train_seeds = plan.get("train_seeds")
    if train_seeds is not None and not (isinstance(train_seeds, list) and all(type(s) is int for s in train_seeds)):
        raise ContractError(f"{where}, key 'train_seeds': must be a list of integers, found {train_seeds!r}")
    monte_carlo = plan.get("monte_carlo") or {}
    _require_keys(monte_carlo, f"{where}, key 'monte_carlo'", {"B"}, set())
    return Plan(
        metrics=metrics,
        primary_metric=primary,
        contrasts=contrasts,
        primary_contrasts=primary_contrasts,
        primary_scope=_one_of(plan, where, "primary_scope", SCOPES, "method"),
        secondary_scope=_one_of(plan, where, "secondary_scope", SCOPES, "checkpoint"),
        weighting=_one_of(plan, where, "weighting", WEIGHTINGS, "micro"),
        seed=_integer(plan, where, "seed", 0, minimum=0),
        alpha=_probability(plan, where, "alpha"),
        q=_probability(plan, where, "q"),
        min_prompts_category=_integer(plan, where, "min_prompts_category", 20, minimum=1),
        draws=_integer(monte_carlo, f"{where}, key 'monte_carlo'", "B", 19_999, minimum=99),
        train_seeds=None if train_seeds is None else tuple(sorted(set(train_seeds))),
        sha256=plan_sha256(plan),
    )


def require_frozen(plan: Plan, frozen_sha256: str, *, where: str) -> None:
    """Raise ContractError unless the plan is the one that is on record."""
    if plan.sha256 != frozen_sha256:
        raise ContractError(
            f"{where}: the analysis plan has sha256 {plan.sha256[:12]}..., the one on record {frozen_sha256[:12]}...; "
            "restore the plan, or put the change on record with freeze_plan.py (the results are then exploratory)"
        )


def _require_keys(value: object, where: str, known: set[str], required: set[str]) -> None:
    if not isinstance(value, dict):
        raise ContractError(f"{where}: expected an object with keys {', '.join(sorted(known))}")
    for name in sorted(set(value) - known):
        raise ContractError(f"{where}: unknown key {name!r} (known: {', '.join(sorted(known))})")
    for name in sorted(required - set(value)):
        raise ContractError(f"{where}: key {name!r} is missing")


def _one_of(value: dict, where: str, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    found = value.get(key, default)
    if found not in allowed:
        raise ContractError(f"{where}, key {key!r}: must be one of {', '.join(allowed)}, found {found!r}")
    return found


def _integer(value: dict, where: str, key: str, default: int, minimum: int) -> int:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < minimum:
        raise ContractError(f"{where}, key {key!r}: must be an integer of at least {minimum}, found {found!r}")
    return found


def _probability(value: dict, where: str, key: str) -> float:
    found = value.get(key, 0.05)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1:
        raise ContractError(f"{where}, key {key!r}: must be a number between 0 and 1, found {found!r}")
    return float(found)


def _read_metric(name: str, entry: object, where: str) -> Metric:
    known = {"kind", "higher_is_better", "bounds", "margin", "step", "role"}
    _require_keys(entry, where, known, {"kind", "higher_is_better"})
    kind = _one_of(entry, where, "kind", KINDS)
    if not isinstance(entry["higher_is_better"], bool):
        raise ContractError(f"{where}, key 'higher_is_better': must be true or false")
    for key in ("margin", "step"):
        found = entry.get(key)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float) or found <= 0):
            raise ContractError(f"{where}, key {key!r}: must be a positive number or null, found {found!r}")
    bounds = entry.get("bounds")
    if kind == "continuous" and entry.get("step") is not None:
        raise ContractError(f"{where}, key 'step': a continuous metric has none; set it to null, or kind to ordinal")
    if kind == "binary":
        if bounds not in (None, [0, 1], (0, 1)):
            raise ContractError(f"{where}, key 'bounds': a binary metric has bounds [0, 1], found {bounds!r}")
        bounds = (0.0, 1.0)
    elif bounds is not None:
        if not isinstance(bounds, list | tuple) or len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ContractError(f"{where}, key 'bounds': must be [low, high] or null, found {bounds!r}")
        bounds = (float(bounds[0]), float(bounds[1]))
    if bounds is not None and (entry.get("margin") or 0) >= bounds[1] - bounds[0]:
        raise ContractError(
            f"{where}, key 'margin': {entry['margin']} is no smaller than the range of the metric, "
            f"{bounds[0]:g} to {bounds[1]:g}; no difference could reach it"
        )
    return Metric(
        name=name,
        kind=kind,
        higher_is_better=entry["higher_is_better"],
        bounds=bounds,
        margin=entry.get("margin"),
        step=1.0 if kind == "binary" else entry.get("step"),
        role=_one_of(entry, where, "role", ROLES, "secondary"),
    )


def read_prompts(path: str | Path) -> pd.DataFrame:
    """The prompts, sorted by prompt_id, with the columns of PROMPT_COLUMNS as strings.

    Raises ContractError: a missing column, a null, a duplicate prompt_id, or a held-out prompt whose text (sha256) is
    also a prompt of another split.
    """
    table = _read_parquet(path)
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
    table = _read_parquet(path)
    for column in ("arm", "train_seed", "parent_sha256"):
        if column not in table.column_names:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(table.column_names)})")
    runs = table.select(["arm", "train_seed", "parent_sha256"]).to_pandas().dropna()
    return [
        f"All {len(own)} seeds of {arm} start from one checkpoint ({own['parent_sha256'].iloc[0][:12]}), so claims "
        "about it are conditional on that checkpoint: its seeds do not show how much training the parent again varies."
        for arm, own in runs.groupby("arm")
        if len(own) > 1 and own["parent_sha256"].nunique() == 1
    ]


def _read_parquet(path: str | Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path}: not a readable parquet file ({error})") from None


@dataclass
class Scores:
    """One metric as dense arrays.

    seeds: training seeds that every trained arm has. untrained: arms without training seeds.
    dropped_seeds: arm -> seeds left out because another arm lacks them.
    prompts: int [N], rows of the prompts table that are this metric's design. n_samples: K.
    cells: arm -> float [S_a, N, K], NaN where the output is missing; S_a is 1 for an arm without training seeds.
    status: arm -> int8 [S_a, N, K], index into STATUSES.
    identical: pairs of arms that gave the very same generations for a seed.
    """

    metric: Metric
    seeds: tuple[int, ...]
    untrained: frozenset[str]
    dropped_seeds: dict[str, tuple[int, ...]]
    prompts: np.ndarray
    n_samples: int
    cells: dict[str, np.ndarray]
    status: dict[str, np.ndarray]
    identical: list[tuple[str, str]]

    @property
    def n_seeds(self) -> int:
        """Training seeds (1 when no arm has any)."""
        return max(1, len(self.seeds))

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds along the first axis of an arm's arrays; (-1,) for an arm without training."""
        return (NO_SEED,) if arm in self.untrained else self.seeds

    @cached_property
    def complete(self) -> bool:
        """Whether no output is missing."""
        return not any(status.any() for status in self.status.values())

    @cached_property
    def kept(self) -> np.ndarray:
        """bool [N]: prompts that the estimates use (spec 1.8).

        A failure of the infrastructure in any arm or seed drops the prompt; so does a failed output of a metric
        without bounds.
        """
        kept = np.ones(len(self.prompts), dtype=bool)
        if not self.complete:
            dropping = INFRA_FAILURES if self.metric.bounds else INFRA_FAILURES + MODEL_FAILURES
            codes = [STATUSES.index(name) for name in dropping]
            for status in self.status.values():
                kept &= ~np.isin(status, codes).any(axis=(0, 2))
        return kept

    def sample_means(self, arm: str, fill: float | None = None) -> np.ndarray:
        """float [S_a, N]: mean over samples, missing outputs counted as `fill`; NaN where they are not filled."""
        cells = self.cells[arm]
        if fill is not None and not self.complete:
            cells = np.where(np.isnan(cells), fill, cells)
        return cells[:, :, 0] if self.n_samples == 1 else cells.mean(axis=2)

    def values(self, arm: str) -> np.ndarray:
        """float [S_a, kept prompts]: a model's missing output counts as the worst value, so silence cannot gain."""
        worst = None
        if self.metric.bounds:
            worst = self.metric.bounds[0 if self.metric.higher_is_better else 1]
        means = self.sample_means(arm, worst)
        return means if self.kept.all() else means[:, self.kept]

    def missing_rate(self, arm: str) -> float:
        """Share of the arm's outputs that are missing for whatever reason."""
        return float((self.status[arm] != 0).mean())


def find_scores(paths: Sequence[str | Path], plan: Plan) -> dict[str, list[Path]]:
    """Metric -> its score files, sorted, from folders (all their metric=<name>/part-*.parquet) or the files themselves.

    Raises ContractError: a file outside a metric=<name> folder, a metric that is not in the plan (results outside the
    plan must stay visible), or a metric of the plan without files.
    """
    files: set[Path] = set()
    for path in map(Path, paths):
        files.update(path.glob("metric=*/part-*.parquet") if path.is_dir() else [path])
    found: dict[str, list[Path]] = {}
    for path in sorted(files):
        if not path.parent.name.startswith("metric="):
            raise ContractError(f"{path}: score tables are metric=<name>/part-*.parquet; its folder names no metric")
        found.setdefault(path.parent.name.removeprefix("metric="), []).append(path)
    for name, own in found.items():
        if name not in plan.metrics:
            raise ContractError(
                f"{own[0].parent}: metric {name!r} is not in the analysis plan ({', '.join(plan.metrics)}); "
                "add it with role 'exploratory', or leave it out"
            )
    for name in plan.metrics:
        if name not in found:
            raise ContractError(
                f"{', '.join(map(str, paths))}: no metric={name}/part-*.parquet; "
                f"metric {name!r} of the plan has no scores"
            )
    return found


def read_scores(files: Sequence[Path], plan: Plan, metric: Metric, prompts: pd.DataFrame) -> Scores:
    """Read the files of one metric into dense arrays and check them against the contract.

    Raises ContractError naming file, column and key: missing files or columns, nulls, unknown arms, statuses or
    prompts, seeds of the seedless base, duplicate or absent keys, values that contradict status, kind, bounds or
    step, prompts that are not held out.
    """
    table = _Cells(files, plan, metric, prompts)
    for path, batch in table.batches(SCORE_COLUMNS):
        table.place(path, batch)
    return table.finish()


class _Cells:
    """The arrays of one metric while its files are being read."""

    def __init__(self, files: Sequence[Path], plan: Plan, metric: Metric, prompts: pd.DataFrame) -> None:
        self.files, self.plan, self.metric = files, plan, metric
        self.folder = files[0].parent
        self.prompt_ids = pa.array(prompts["prompt_id"], pa.string())
        self.heldout = (prompts["split"] == "heldout").to_numpy()
        self.first_row = 0  # of the batch that is being read, in its file
        self.seeds, self.n_samples = self._design()
        shape = (len(prompts), self.n_samples)
        self.values = {arm: np.full((len(self.seeds[arm]), *shape), np.nan) for arm in plan.arms}
        self.status = {arm: np.full((len(self.seeds[arm]), *shape), -1, dtype=np.int8) for arm in plan.arms}
        self.outputs: dict[str, np.ndarray] = {}

    def batches(self, columns: tuple[str, ...]) -> Iterator[tuple[Path, pa.RecordBatch]]:
        for path in self.files:
            try:
                names = pq.read_schema(path).names
                for column in SCORE_COLUMNS:
                    if column not in names:
                        raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(names)})")
                file = pq.ParquetFile(path, read_dictionary=["arm", "status", "prompt_id"])
            except FileNotFoundError:
                raise ContractError(f"{path}: no such file") from None
            except (pa.ArrowException, OSError) as error:
                raise ContractError(f"{path}: not a readable parquet file ({error})") from None
            self.first_row = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield path, batch
                self.first_row += len(batch)

    def _design(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """The seeds of each arm and the number of samples, from a first pass over three columns."""
        seeds: dict[str, set[int]] = {arm: set() for arm in self.plan.arms}
        last_sample = -1
        for path, batch in self.batches(("arm", "train_seed", "sample_idx")):
            arms = self._codes(path, batch, "arm", self.plan.arms)
            numbers = self._integers(path, batch, "train_seed")
            samples = self._integers(path, batch, "sample_idx")
            for code, arm in enumerate(self.plan.arms):
                seeds[arm].update(pd.unique(numbers[arms == code]).tolist())
            if len(samples):
                if samples.min() < 0:
                    raise ContractError(f"{path}: column 'sample_idx' holds {samples.min()}, must be 0 or more")
                last_sample = max(last_sample, int(samples.max()))
        for arm, found in seeds.items():
            if not found:
                raise ContractError(f"{self.folder}: column 'arm': no row of arm {arm!r}, which a contrast needs")
            unplanned = found.difference({NO_SEED, *(self.plan.train_seeds or found)})
            if unplanned:
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(unplanned)}, which the plan does not "
                    f"name (train_seeds {list(self.plan.train_seeds)}); seeds are part of the plan"
                )
            if (NO_SEED in found and len(found) > 1) or min(found) < NO_SEED:
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(found)}; an arm has either "
                    "training seeds of 0 or more, or only -1 (no training)"
                )
            study = set(seeds) == {"base", "sft", "sft_dpo", "dpo_only"}  # in other comparisons a name means nothing
            if study and (arm == "base") != (found == {NO_SEED}):
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(found)}; -1 belongs to base, and "
                    "base to -1"
                )
        return {arm: tuple(sorted(found)) for arm, found in seeds.items()}, last_sample + 1

    def _codes(self, path: Path, batch: pa.RecordBatch, column: str, names: tuple[str, ...]) -> np.ndarray:
        """Index of each entry of a text column in `names`."""
        texts, indices = self._encoded(path, batch, column)
        lookup = []
        for name in texts.to_pylist():
            if name not in names:
                raise ContractError(f"{path}, column {column!r}: {name!r} is not one of {', '.join(names)}")
            lookup.append(names.index(name))
        return np.asarray(lookup, dtype=np.int64)[indices]

    def _required(self, path: Path, batch: pa.RecordBatch, column: str) -> pa.Array:
        """A column that may not be null."""
        array = batch.column(column)
        if array.null_count:
            row = self.first_row + pc.index(pc.is_null(array), True).as_py()
            raise ContractError(f"{path}, row {row}: column {column!r} is null")
        return array

    def _encoded(self, path: Path, batch: pa.RecordBatch, column: str) -> tuple[pa.Array, np.ndarray]:
        """(texts, indices) of a text column: only texts that occur, and int64 [rows] into them."""
        array = self._required(path, batch, column)
        try:
            if not pa.types.is_dictionary(array.type):
                array = array.cast(pa.string()).dictionary_encode()
            texts = array.dictionary.cast(pa.string())
        except pa.ArrowException:
            raise ContractError(f"{path}, column {column!r}: must hold text, found {array.type}") from None
        indices = array.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        # A filtered table keeps the texts of the rows that it lost; they must not be judged.
        used = np.flatnonzero(np.bincount(indices, minlength=len(texts)))
        if len(used) < len(texts):
            position = np.zeros(len(texts), dtype=np.int64)
            position[used] = np.arange(len(used))
            texts, indices = texts.take(pa.array(used)), position[indices]
        return texts, indices

    def _integers(self, path: Path, batch: pa.RecordBatch, column: str) -> np.ndarray:
        array = self._required(path, batch, column)
        if not pa.types.is_integer(array.type):
            raise ContractError(f"{path}, column {column!r}: must hold integers, found {array.type}")
        return array.to_numpy(zero_copy_only=False).astype(np.int64)

    def place(self, path: Path, batch: pa.RecordBatch) -> None:
        """Check one batch of rows and write it into the arrays."""
        arms = self._codes(path, batch, "arm", self.plan.arms)
        seeds = self._integers(path, batch, "train_seed")
        samples = self._integers(path, batch, "sample_idx")
        prompts = self._prompts(path, batch)
        statuses = self._codes(path, batch, "status", STATUSES)
        value = batch.column("value")
        if not (pa.types.is_floating(value.type) or pa.types.is_integer(value.type)):
            raise ContractError(f"{path}, column 'value': must hold numbers, found {value.type}")
        present = pc.is_valid(value).to_numpy(zero_copy_only=False)
        values = pc.fill_null(value.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)

        def fail(rows: np.ndarray, what: str) -> None:
            if rows.any():
                row = int(np.argmax(rows))
                key = self._key(self.plan.arms[arms[row]], seeds[row], prompts[row], samples[row])
                raise ContractError(f"{path}, column 'value': {what.format(values[row])} ({key})")

        ok = statuses == 0
        fail(ok & ~np.isfinite(values), "{} with status ok; a missing output needs another status")
        fail(~ok & present, "{} with a status that is not ok; it must be null")
        if self.metric.kind == "binary":
            fail(ok & (values != 0) & (values != 1), "{} in a binary metric, must be 0 or 1")
        if self.metric.bounds:
            low, high = self.metric.bounds
            fail(ok & ((values < low) | (values > high)), f"{{}} outside the bounds [{low:g}, {high:g}]")
        if self.metric.kind == "ordinal" and self.metric.step:
            steps = values / self.metric.step
            fail(ok & (np.abs(steps - np.rint(steps)) > 1e-9), f"{{}} is no multiple of the step {self.metric.step:g}")
        hashes = self._output_hashes(path, batch)
        for code, arm in enumerate(self.plan.arms):
            rows = np.flatnonzero(arms == code)
            if not len(rows):
                continue
            seed_index = np.searchsorted(self.seeds[arm], seeds[rows])
            cell = (seed_index * len(self.prompt_ids) + prompts[rows]) * self.n_samples + samples[rows]
            flat = self.status[arm].reshape(-1)
            self._forbid_duplicates(path, arm, cell, flat)
            flat[cell] = statuses[rows]
            self.values[arm].reshape(-1)[cell] = values[rows]
            if hashes is not None:
                if arm not in self.outputs:
                    self.outputs[arm] = np.zeros(self.status[arm].shape, dtype=np.uint64)
                self.outputs[arm].reshape(-1)[cell] = hashes[rows]

    def _forbid_duplicates(self, path: Path, arm: str, cell: np.ndarray, seen: np.ndarray) -> None:
        ordered = np.sort(cell)
        doubled = np.concatenate([cell[seen[cell] >= 0], ordered[1:][ordered[1:] == ordered[:-1]]])
        if len(doubled):
            seed, prompt, sample = np.unravel_index(int(doubled.min()), self.status[arm].shape)
            key = self._key(arm, self.seeds[arm][seed], prompt, sample)
            raise ContractError(f"{path}: duplicate key ({key}); each key has exactly one row")

    def _prompts(self, path: Path, batch: pa.RecordBatch) -> np.ndarray:
        texts, indices = self._encoded(path, batch, "prompt_id")
        index = pc.index_in(texts, value_set=self.prompt_ids)
        if index.null_count:
            unknown = texts[pc.index(pc.is_null(index), True).as_py()].as_py()
            raise ContractError(f"{path}, column 'prompt_id': {unknown!r} is not in the prompts file")
        index = index.to_numpy(zero_copy_only=False).astype(np.int64)
        training = index[~self.heldout[index]]
        if len(training):
            name = self.prompt_ids[int(training.min())].as_py()
            raise ContractError(f"{path}, column 'prompt_id': {name!r} is not a held-out prompt (its split says so)")
        return index[indices]

    @staticmethod
    def _output_hashes(path: Path, batch: pa.RecordBatch) -> np.ndarray | None:
        """The first 64 bits of each generation's sha256, 0 for none; None when the whole batch has none."""
        array = batch.column("gen_sha256")
        if array.null_count == len(array):
            return None
        try:
            text = array.cast(pa.string())
            wrong = pc.invert(pc.fill_null(pc.match_substring_regex(text, "^[0-9a-f]{64}$"), True))
        except pa.ArrowException:
            raise ContractError(f"{path}, column 'gen_sha256': must hold text, found {array.type}") from None
        if pc.any(wrong).as_py():
            found = text[pc.index(wrong, True).as_py()].as_py()
            raise ContractError(f"{path}, column 'gen_sha256': {found!r} is not a sha256 (64 hexadecimal digits)")
        first = pc.fill_null(pc.utf8_slice_codeunits(text, 0, 16), "0" * 16)
        return np.frombuffer(bytes.fromhex("".join(first.to_pylist())), dtype=">u8").astype(np.uint64)

    def _key(self, arm: str, seed: int, prompt: int, sample: int) -> str:
        name = self.prompt_ids[int(prompt)].as_py()
        return (
            f"metric={self.metric.name}, arm={arm}, train_seed={int(seed)}, prompt_id={name}, sample_idx={int(sample)}"
        )

    def finish(self) -> Scores:
        """Check that no row of the design is absent, and settle which seeds all arms have."""
        design = np.zeros(len(self.prompt_ids), dtype=bool)
        for status in self.status.values():
            design |= (status >= 0).any(axis=(0, 2))
        prompts = np.flatnonzero(design)
        for arm, status in self.status.items():
            absent = np.argwhere(status[:, prompts] < 0)
            if len(absent):
                seed, prompt, sample = absent[0]
                key = self._key(arm, self.seeds[arm][seed], prompts[prompt], sample)
                raise ContractError(
                    f"{self.folder}: no row for ({key}), and {len(absent) - 1} more like it; a missing output needs "
                    "a row with a null value and a status"
                )
        seeded = {arm: found for arm, found in self.seeds.items() if found != (NO_SEED,)}
        common = set.intersection(*map(set, seeded.values())) if seeded else set()
        if seeded and not common:
            raise ContractError(f"{self.folder}: column 'train_seed': no seed is common to all arms ({seeded})")
        dropped = {arm: tuple(s for s in found if s not in common) for arm, found in seeded.items()}
        everything = len(prompts) == len(self.prompt_ids)

        def select(arm: str, array: np.ndarray) -> np.ndarray:
            keep = [i for i, seed in enumerate(self.seeds[arm]) if arm not in seeded or seed in common]
            array = array if len(keep) == len(array) else array[keep]
            return array if everything else array[:, prompts]

        return Scores(
            metric=self.metric,
            seeds=tuple(sorted(common)),
            untrained=frozenset(self.seeds).difference(seeded),
            dropped_seeds={arm: seeds for arm, seeds in dropped.items() if seeds},
            prompts=prompts,
            n_samples=self.n_samples,
            cells={arm: select(arm, array) for arm, array in self.values.items()},
            status={arm: select(arm, array) for arm, array in self.status.items()},
            identical=self._identical_outputs({arm: select(arm, array) for arm, array in self.outputs.items()}),
        )

    @staticmethod
    def _identical_outputs(outputs: dict[str, np.ndarray]) -> list[tuple[str, str]]:
        """Pairs of arms with the same generation for every prompt of a seed: usually an adapter that was not loaded."""
        pairs = []
        names = sorted(outputs)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                one, other = np.broadcast_arrays(outputs[first], outputs[second])
                # Zeros are outputs without a hash, which say nothing.
                if any((a == b).all() and a.any() for a, b in zip(one, other, strict=True)):
                    pairs.append((first, second))
        return pairs
