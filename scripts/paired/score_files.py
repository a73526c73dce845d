"""Score tables on disk: DIR/metric=<name>/part-*.parquet, read into dense arrays, every rule of the contract checked.

One row for each (arm, train_seed, prompt_id, sample_idx) of the design, missing outputs included (a null value and a
status); columns: SCORE_COLUMNS, types in docs/statistics.md, section 2. A truncated output may have a value: its
outcome was seen in full, so it is counted as truncated and is not missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .files import ContractError
from .plan import STEPS, Metric, Plan
from .scores import NO_SEED, STATUSES, Scores, unequal_seeds, value_faults

SCORE_COLUMNS = ("arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256")
BATCH_ROWS = 2**20


def find_scores(paths: Sequence[str | Path], plan: Plan) -> dict[str, list[Path]]:
    """Metric -> its score files, sorted, from folders (all their metric=<name>/part-*.parquet) or the files themselves.

    Metrics that the plan does not name come last (see `unplanned_metric`). Raises ContractError: a file outside a
    metric=<name> folder, or a metric of the plan without files.
    """
    files: set[Path] = set()
    for path in map(Path, paths):
        files.update(path.glob("metric=*/part-*.parquet") if path.is_dir() else [path])
    found: dict[str, list[Path]] = {}
    for path in sorted(files):
        if not path.parent.name.startswith("metric="):
            raise ContractError(f"{path}: score tables are metric=<name>/part-*.parquet; its folder names no metric")
        found.setdefault(path.parent.name.removeprefix("metric="), []).append(path)
    for name in plan.metrics:
        if name not in found:
            raise ContractError(
                f"{', '.join(map(str, paths))}: no metric={name}/part-*.parquet; "
                f"metric {name!r} of the plan has no scores"
            )
    return {name: found[name] for name in (*plan.metrics, *sorted(set(found) - set(plan.metrics)))}


def unplanned_metric(name: str, files: Sequence[Path]) -> Metric:
    """A metric outside the plan (docs/statistics.md, 1.10): exploratory, without a margin, more taken as better.

    binary if its scores are all 0 or 1, pairwise if two arms stand in each row, else continuous.
    """
    if "arm_a" in _names(files[0]):
        return Metric(name, "pairwise", True, bounds=(0.0, 1.0), step=STEPS["pairwise"], role="exploratory")
    seen: set[float] = set()
    for path in files:
        for batch in _open(path).iter_batches(BATCH_ROWS, columns=["value"]):
            seen.update(pc.unique(batch.column("value")).drop_null().to_pylist())
            if not seen <= {0, 1}:
                return Metric(name, "continuous", higher_is_better=True, role="exploratory")
    return Metric(name, "binary", higher_is_better=True, bounds=(0.0, 1.0), step=1.0, role="exploratory")


def _open(path: Path, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A score file with all columns of the contract."""
    names = _names(path)
    for column in SCORE_COLUMNS:
        if column not in names:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(names)})")
    try:
        return pq.ParquetFile(path, read_dictionary=list(dictionaries))
    except KeyError as error:  # of a column that holds lists or records
        raise ContractError(f"{path}, column {error}: must hold plain values") from None


def _names(path: Path) -> list[str]:
    """The columns of a parquet file."""
    try:
        return pq.read_schema(path).names
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path}: not a readable parquet file ({error})") from None


def read_scores(
    files: Sequence[Path], plan: Plan, metric: Metric, prompts: pd.DataFrame, *, common_seeds: bool = False
) -> Scores:
    """Read the files of one metric into dense arrays and check them against the contract.

    common_seeds: use the training seeds that all arms have; else seeds that an arm lacks are an error. Raises
    ContractError naming file, column and key: missing files or columns, nulls, unknown arms, statuses or prompts, seeds
    of the seedless base, duplicate or absent keys, values that contradict status, kind, bounds or step, prompts that
    are not held out.
    """
    table = _Cells(files, plan, metric, prompts)
    if not common_seeds:
        table.require_all_seeds()
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
            file = _open(path, ("arm", "status", "prompt_id"))
            self.first_row = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield path, batch
                self.first_row += len(batch)

    def _design(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """The seeds of each arm and the number of samples, from a first pass over three columns."""
        seeds: dict[str, set[int]] = {arm: set() for arm in self.plan.arms}
        numbered: set[int] = set()
        for path, batch in self.batches(("arm", "train_seed", "sample_idx")):
            arms = self._codes(path, batch, "arm", self.plan.arms)
            numbers = self._integers(path, batch, "train_seed")
            samples = self._integers(path, batch, "sample_idx")
            for code, arm in enumerate(self.plan.arms):
                seeds[arm].update(pd.unique(numbers[arms == code]).tolist())
            if len(samples):
                if samples.min() < 0:
                    raise ContractError(f"{path}: column 'sample_idx' holds {samples.min()}, must be 0 or more")
                numbered.update(pd.unique(samples).tolist())
        if numbered and len(numbered) <= max(numbered):
            gap = next(number for number in range(len(numbered) + 1) if number not in numbered)
            raise ContractError(
                f"{self.folder}: column 'sample_idx' holds {max(numbered)} but never {gap}; samples are "
                "numbered 0, 1, 2, ... without a gap"
            )
        for arm, found in seeds.items():
            if not found:
                raise ContractError(f"{self.folder}: column 'arm': no row of arm {arm!r}, which a contrast needs")
            unplanned = found.difference({NO_SEED, *(self.plan.train_seeds or found)})
            if unplanned:
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(unplanned)}, which the plan does not "
                    f"name (train_seeds {list(self.plan.train_seeds or ())}); seeds are part of the plan"
                )
            if (NO_SEED in found and len(found) > 1) or min(found) < NO_SEED:
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(found)}; an arm has either "
                    "training seeds of 0 or more, or only -1 (no training)"
                )
            untrained = self.plan.question.untrained
            asked = set().union(*self.plan.question.contrasts.values())
            whole = bool(asked) and set(seeds) == asked  # in other comparisons a name means nothing
            if whole and (arm in untrained) != (found == {NO_SEED}):
                names = ", ".join(sorted(untrained))
                raise ContractError(
                    f"{self.folder}: column 'train_seed': arm {arm!r} has {sorted(found)}; -1 belongs to {names}, and "
                    f"{names} to -1"
                )
        return {arm: tuple(sorted(found)) for arm, found in seeds.items()}, len(numbered)

    def require_all_seeds(self) -> None:
        """ContractError unless every trained arm has every training seed: of the plan, or else of any arm."""
        fault = unequal_seeds(self.seeds, self.plan.train_seeds)
        if fault:
            raise ContractError(
                f"{self.folder}: column 'train_seed': {fault}; train and score what is missing, or ask for the seeds "
                "that all arms have with --common-seeds"
            )

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
        try:
            return array.cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            raise ContractError(f"{path}, column {column!r}: holds a number beyond 2^63") from None

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
        values = pc.fill_null(value.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)

        def fail(rows: np.ndarray, what: str) -> None:
            if rows.any():
                row = int(np.argmax(rows))
                key = self._key(self.plan.arms[arms[row]], seeds[row], prompts[row], samples[row])
                where = f"{path}, row {self.first_row + row}"
                raise ContractError(f"{where}, column 'value': {what.format(values[row])} ({key})")

        ok = statuses == 0
        fail(ok & ~np.isfinite(values), "{} with status ok; a missing output needs another status")
        seen = ok | ((statuses == STATUSES.index("truncated")) & np.isfinite(values))
        fail(~seen & present, "{} with a status that is not ok; it must be null")
        for rows, what in value_faults(values, self.metric):
            fail(seen & rows, what)
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
            key = self._key(arm, self.seeds[arm][seed], int(prompt), int(sample))
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
