"""Scores from the logs of evaluation tools, and from one plain table, in the form of the data contract.

Logs of lm-evaluation-harness (as 0.4.13 writes them with --log_samples) and inspect_ai (.eval and .json, as 0.3.285
writes them) are read as files; neither tool is needed. Every run must have answered the same items: an item that one
run lacks, or whose text or target differs, is an error that names it. Nothing is ever joined silently.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .files import ContractError
from .scores import NO_SEED, STATUSES

RUN = re.compile(r"(?P<name>.+?)(:(?P<seed>\d+))?=(?P<path>.+)", re.DOTALL)
ZIP_ZSTANDARD = 93
LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
TABLE_COLUMNS = ("arm", "prompt_id", "metric", "value")


@dataclass(frozen=True)
class Item:
    """What a run was asked: `content` identifies question and target, `prompt` the text as the model got it."""

    content: str
    prompt: str
    category: str
    cluster: str


@dataclass
class Run:
    """One model, or one training seed of it.

    items: by prompt id. rows: (prompt id, sample, metric, value, status, sha256 of the output); of a sample that failed
    before it was scored, metric and value are None. versions: task -> version. lower: metrics of which less is better.
    graded: metrics given as correct, partly correct or incorrect.
    """

    arm: str
    seed: int
    items: dict[str, Item] = field(default_factory=dict)
    rows: list[tuple] = field(default_factory=list)
    versions: dict[str, object] = field(default_factory=dict)
    lower: set[str] = field(default_factory=set)
    graded: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """As on the command line: NAME or NAME:SEED."""
        return self.arm if self.seed == NO_SEED else f"{self.arm}:{self.seed}"


def read_runs(tool: str, arguments: Sequence[str]) -> list[Run]:
    """Runs of a tool ("lm-eval" or "inspect") from NAME=PATH or NAME:SEED=PATH; a NAME may repeat for further tasks.

    Raises ContractError: an argument of another form, a file that is not the tool's, a task that a run has twice.
    """
    read = {"lm-eval": _read_lm_eval, "inspect": _read_inspect}[tool]
    runs: dict[tuple[str, int], Run] = {}
    for argument in arguments:
        match = RUN.fullmatch(argument)
        if not match:
            raise ContractError(f"--{tool} {argument}: write NAME=PATH, or NAME:SEED=PATH for one of several seeds")
        key = match["name"], int(match["seed"] or NO_SEED)
        read(Path(match["path"]), runs.setdefault(key, Run(*key)))
    return list(runs.values())


def _add_task(run: Run, task: str, version: object, path: Path) -> None:
    if task in run.versions:
        raise ContractError(
            f"{path}: {run.name} has task {task!r} already; name the one file to use, or tell training seeds apart "
            f"as {run.arm}:1=..., {run.arm}:2=..."
        )
    run.versions[task] = version


def _read_lm_eval(path: Path, run: Run) -> None:
    """Read a folder of lm-evaluation-harness (searched for results_*.json), or one results_*.json."""
    files = sorted(path.rglob("results_*.json")) if path.is_dir() else [path]
    if not files:
        raise ContractError(f"{path}: no results_*.json below this folder; give the folder of lm_eval's --output_path")
    for file in files:
        results = _json(file)
        if not {"configs", "versions", "higher_is_better"} <= results.keys():
            raise ContractError(f"{file}: not a results file of lm-evaluation-harness (keys: {', '.join(results)})")
        date = file.stem.removeprefix("results_")
        for task in sorted(results["configs"]):
            samples = file.with_name(f"samples_{task}_{date}.jsonl")
            if not samples.is_file():
                raise ContractError(f"{samples}: no such file; run lm_eval with --log_samples")
            _add_task(run, task, results["versions"].get(task), file)
            _read_lm_eval_samples(samples, task, run, results["higher_is_better"].get(task) or {})


def _read_lm_eval_samples(path: Path, task: str, run: Run, higher_is_better: dict) -> None:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
                prompt_id = f"{task}/{sample['doc_id']}"
                content = sample["doc_hash"] + sample["target_hash"]
                item = Item(content, sample["prompt_hash"], task, prompt_id)
                names, kind, output = sample["metrics"], sample["filter"], _sha256(sample["resps"])
                found = [(name, sample[name]) for name in names]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ContractError(
                    f"{path}, line {number}: not a sample of lm-evaluation-harness 0.4 ({error!r})"
                ) from None
            run.items[prompt_id] = item
            for name, value in found:
                metric = _safe(name if kind == "none" else f"{name},{kind}")
                if higher_is_better.get(name) is False:
                    run.lower.add(metric)
                if isinstance(
                    value, int | float
                ):  # a corpus metric logs lists or pairs, which are no score of a prompt
                    run.rows.append((prompt_id, 0, metric, *_status(float(value)), output))


def _read_inspect(path: Path, run: Run) -> None:
    """Read one .eval or .json log of inspect_ai."""
    if path.is_dir():
        raise ContractError(f"{path}: is a folder; name one log file (.eval or .json)")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if "header.json" not in members:
                raise ContractError(f"{path}: no header.json inside; the evaluation did not finish")
            header = json.loads(_member(path, archive, members["header.json"]))
            samples: Iterable[dict] = [
                json.loads(_member(path, archive, info))
                for name, info in sorted(members.items())
                if name.startswith("samples/")
            ]
    else:
        header = _json(path)
        samples = header.get("samples") or []
    if not {"eval", "status"} <= header.keys():
        raise ContractError(f"{path}: not a log of inspect_ai (keys: {', '.join(header)})")
    if header["status"] != "success":
        raise ContractError(f"{path}: the evaluation ended with status {header['status']!r}; `inspect eval-retry` it")
    if not samples:
        raise ContractError(f"{path}: no samples inside; run inspect with log_samples")
    task = header["eval"]["task"]
    _add_task(run, task, header["eval"].get("task_version"), path)
    for sample in samples:
        _add_inspect_sample(sample, task, run)


def _add_inspect_sample(sample: dict, task: str, run: Run) -> None:
    prompt_id, epoch = f"{task}/{sample['id']}", int(sample["epoch"]) - 1
    asked = [sample["input"], sample.get("choices")]
    item = Item(_sha256([_without_ids(asked), sample["target"]]), "", task, prompt_id)
    if run.items.setdefault(prompt_id, item) != item:
        raise ContractError(f"{run.name}: item {prompt_id!r} has another input in epoch {epoch + 1}")
    output = _sha256((sample.get("output") or {}).get("completion"))
    for scorer, score in (sample.get("scores") or {}).items():
        value = score["value"]
        parts = {f"{scorer}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {scorer: value}
        for metric, part in parts.items():
            number = LETTERS.get(part if part in LETTERS else part.lower()) if isinstance(part, str) else part
            if isinstance(part, str) and number is None:
                try:
                    number = float(part)
                except ValueError:
                    continue  # a text is no score; choosing this metric will say which items have none
            if part in ("C", "P", "I", "N"):
                run.graded.add(_safe(metric))
            if number is None or isinstance(number, int | float):
                run.rows.append((prompt_id, epoch, _safe(metric), *_status(number, sample.get("error")), output))
    if sample.get("error") and not sample.get("scores"):
        run.rows.append((prompt_id, epoch, None, None, "error", output))


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A file of a zip; inspect_ai compresses with zstd, which zipfile reads from Python 3.14 on."""
    if info.compress_type != ZIP_ZSTANDARD:
        return archive.read(info)
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        local = struct.unpack("<4s5H3L2H", stream.read(30))  # PKZIP application note, 4.3.7
        stream.seek(local[-2] + local[-1], 1)
        data = pa.input_stream(pa.BufferReader(stream.read(info.compress_size)), compression="zstd").read()
    if len(data) != info.file_size:
        raise ContractError(f"{path}: {info.filename} is cut off")
    return data


def read_table(path: str | Path) -> list[Run]:
    """Runs from a csv or parquet table: arm, prompt_id, metric, value; also train_seed, sample_idx, status, category,
    cluster_id, prompt_sha256, gen_sha256 where they are known.
    """
    try:
        frame = (
            pd.read_parquet(path) if Path(path).suffix == ".parquet" else pd.read_csv(path, dtype={"prompt_id": str})
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ContractError(f"{path}: not a readable table ({error})") from None
    for column in TABLE_COLUMNS:
        if column not in frame:
            raise ContractError(f"{path}: column {column!r} is missing (found: {', '.join(map(str, frame.columns))})")
    defaults = {"train_seed": NO_SEED, "sample_idx": 0, "status": None, "category": "all", "cluster_id": None}
    frame = frame.assign(**{name: value for name, value in defaults.items() if name not in frame})
    frame = frame.assign(**{name: None for name in ("prompt_sha256", "gen_sha256") if name not in frame})
    frame = frame.astype({"prompt_id": str}).astype(object).where(frame.notna(), None)
    runs: dict[tuple[str, int], Run] = {}
    for row in frame.itertuples():
        key = str(row.arm), NO_SEED if row.train_seed is None else int(row.train_seed)
        run = runs.setdefault(key, Run(*key))
        content = row.prompt_sha256 or _sha256(row.prompt_id)
        item = Item(str(content), "", str(row.category), str(row.cluster_id or row.prompt_id))
        if run.items.setdefault(row.prompt_id, item) != item:
            raise ContractError(f"{path}: prompt_id {row.prompt_id!r} has two categories, clusters or prompt_sha256")
        value, status = _status(row.value)
        metric = _safe(str(row.metric))
        run.rows.append((row.prompt_id, int(row.sample_idx), metric, value, row.status or status, row.gen_sha256))
    return list(runs.values())


def check_runs(runs: Sequence[Run], own_prompts: bool = False) -> list[str]:
    """Raise ContractError unless all runs were asked the same; returns what a reader should be told.

    own_prompts: models may have got the same items in texts of their own (chat template, few-shot examples).
    """
    if len({run.arm for run in runs}) < 2:
        raise ContractError("a comparison needs at least two models (NAME=PATH for each)")
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
            theirs = run.items[prompt_id]
            if theirs.content != item.content:
                raise ContractError(f"item {prompt_id}: question or target differ between {first.name} and {run.name}")
            if theirs.prompt != item.prompt and not own_prompts:
                raise ContractError(
                    f"item {prompt_id}: {first.name} and {run.name} got the question in different words (chat template "
                    "or few-shot examples?); evaluate both alike, or allow it with --own-prompts"
                )
            if (theirs.category, theirs.cluster) != (item.category, item.cluster):
                raise ContractError(f"item {prompt_id}: category or cluster differ between {first.name} and {run.name}")
    differing = sum(len({run.items[name].prompt for run in runs}) > 1 for name in first.items)
    if differing:
        notes.append(f"The models got {differing} of {len(first.items)} prompts in texts of their own (--own-prompts).")
    return notes


def choose_metrics(runs: Sequence[Run], chosen: Sequence[str]) -> list[str]:
    """The metrics to compare, the primary one first. Raises ContractError where the choice is not clear."""
    tasks: dict[str, set[str]] = {}
    for run in runs:
        for prompt_id, _, metric, *_ in run.rows:
            if metric is not None:
                tasks.setdefault(metric, set()).add(run.items[prompt_id].category)
    known = "; ".join(f"{metric} ({', '.join(sorted(found)[:4])})" for metric, found in sorted(tasks.items()))
    for metric in chosen:
        if metric not in tasks:
            raise ContractError(f"--metric {metric}: not in the logs, which hold {known}")
    if not chosen and len(tasks) != 1:
        raise ContractError(
            f"which metric is the primary one? Name it first: --metric NAME [NAME ...]; there are {known}"
        )
    return list(chosen or tasks)


def make_plan(runs: Sequence[Run], metrics: Sequence[str], margin: float | None = None) -> dict:
    """An analysis plan for logs: every later model minus every earlier one on the first metric is primary.

    margin: smallest difference on the primary metric that matters, in its own unit. A metric with no value but 0 and 1
    is binary; one with inspect's "partly correct" is ordinal in steps of a half; any other is continuous.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    contrasts = {f"{b} − {a}": {b: 1, a: -1} for i, b in enumerate(arms) for a in arms[:i]}
    entries = {}
    for metric in metrics:
        values = {row[3] for run in runs for row in run.rows if row[2] == metric and row[3] is not None}
        kind = "ordinal" if any(metric in run.graded for run in runs) else "continuous"
        kind = "binary" if values <= {0, 1} else kind
        entries[metric] = {
            "kind": kind,
            "higher_is_better": not any(metric in run.lower for run in runs),
            "bounds": None if kind == "continuous" else [0, 1],
            "step": 0.5 if kind == "ordinal" else None,
            "margin": margin if metric == metrics[0] else None,
            "role": "primary" if metric == metrics[0] else "secondary",
        }
    seeds = [{run.seed for run in runs if run.arm == arm} - {NO_SEED} for arm in arms]
    common = set.intersection(*(found for found in seeds if found)) if any(seeds) else set()
    return {
        "primary_metric": metrics[0],
        "contrasts": contrasts,
        "primary_contrasts": list(contrasts),
        "primary_scope": "method" if len(common) >= 3 else "checkpoint",
        "metrics": entries,
    }


def write_contract(runs: Sequence[Run], metrics: Iterable[str], folder: Path) -> None:
    """Write FOLDER/prompts.parquet and FOLDER/scores/metric=<name>/part-0.parquet.

    Rows are sorted, so the order of the logs leaves no trace. A metric's prompts are those for which some run has it; a
    run without a value there has the status of its sample, or judge_fail.
    """
    items = sorted(runs[0].items.items())
    prompts = pd.DataFrame(
        [(name, item.content, item.category, item.cluster, "heldout") for name, item in items],
        columns=["prompt_id", "prompt_sha256", "category", "cluster_id", "split"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    prompts.to_parquet(folder / "prompts.parquet", index=False)
    for metric in metrics:
        rows = sorted(_rows_of(runs, metric), key=lambda row: row[:4])
        columns = list(zip(*rows, strict=True))
        types = (pa.string(), pa.int32(), pa.string(), pa.int16(), pa.float64(), pa.string(), pa.string())
        names = ("arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256")
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        target = folder / "scores" / f"metric={metric}" / "part-0.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, names), target, compression="zstd")


def _rows_of(runs: Sequence[Run], metric: str) -> Iterator[tuple]:
    own = [[row for row in run.rows if row[2] == metric] for run in runs]
    tasks = {run.items[row[0]].category for run, rows in zip(runs, own, strict=True) for row in rows}
    design = {(row[0], row[1]) for rows in own for row in rows}
    for run, rows in zip(runs, own, strict=True):
        failed = {(row[0], row[1]): row[4:] for row in run.rows if row[2] is None}
        for prompt_id, sample, _, value, status, output in rows:
            yield run.arm, run.seed, prompt_id, sample, value, status, output
        for prompt_id, sample in design - {(row[0], row[1]) for row in rows}:
            status, output = failed.get((prompt_id, sample), ("judge_fail", None))
            if run.items[prompt_id].category in tasks:
                yield run.arm, run.seed, prompt_id, sample, None, status, output


def _status(value: float | None, error: object = None) -> tuple[float | None, str]:
    if error:
        return None, "error"
    if value is None or not math.isfinite(value):
        return None, "judge_fail"
    return float(value), STATUSES[0]


def _without_ids(value: object) -> object:
    """A chat without the random ids of its messages."""
    if isinstance(value, list):
        return [_without_ids(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_ids(one) for key, one in value.items() if key != "id"}
    return value


def _safe(metric: str) -> str:
    """A metric's name as a folder's: inspect names scorers package/scorer."""
    return metric.replace("/", ".")


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ContractError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(found, dict):
        raise ContractError(f"{path}: expected a JSON object")
    return found
