"""Logs of lm-evaluation-harness, as 0.4.9 to 0.4.13 write them with --log_samples."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import ContractError, read_json, well_formed
from .runs import Grouping, Item, Run, Value, safe, sha256

NOT_OURS = "not as lm-evaluation-harness writes it; evaluate again, or mend the log"
NEEDED = ("doc_id", "doc", "resps", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash")


def read(path: Path, run: Run, grouping: Grouping) -> None:
    """Read a folder of lm_eval's --output_path (searched for results_*.json), or one results_*.json."""
    files = sorted(path.rglob("results_*.json")) if path.is_dir() else [path]
    if not files:
        raise ContractError(f"{path}: no results_*.json below this folder; give the folder of lm_eval's --output_path")
    for file in files:
        results = read_json(file)
        if not {"results", "configs", "versions"} <= results.keys():
            raise ContractError(f"{file}: not a results file of lm-evaluation-harness (keys: {', '.join(results)})")
        with well_formed(f"{file}: {NOT_OURS}"):
            _read_tasks(file, results, run, grouping)


def _read_tasks(file: Path, results: dict, run: Run, grouping: Grouping) -> None:
    """The tasks of one results file."""
    date = file.stem.removeprefix("results_")
    groups = {task: group for group, tasks in (results.get("group_subtasks") or {}).items() for task in tasks}
    for task in sorted(results["configs"]):
        samples = file.with_name(f"samples_{task}_{date}.jsonl")
        if not samples.is_file():
            raise ContractError(f"{samples}: no such file; run lm_eval with --log_samples")
        run.add_task(task, results["versions"].get(task), file)
        log = _Task(run, task, groups.get(task, task), grouping, results)
        with samples.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{samples}, line {number}"
                with well_formed(f"{where}: {NOT_OURS}"):
                    log.add(line, where)


class _Task:
    """The samples of one task on their way into a run."""

    def __init__(self, run: Run, task: str, group: str, grouping: Grouping, results: dict) -> None:
        self.run, self.task, self.group, self.grouping = run, task, group, grouping
        self.version = results.get("lm_eval_version") or "(an old version)"
        self.higher_is_better = (results.get("higher_is_better") or {}).get(task) or {}

    def add(self, line: str, where: str) -> None:
        """One line: a sample under one filter."""
        sample = json.loads(line)
        if not isinstance(sample, dict) or "doc_id" not in sample:
            raise ContractError(f"{where}: not a sample of lm-evaluation-harness")
        if absent := [key for key in NEEDED if key not in sample]:
            raise ContractError(
                f"{where}: the sample has no {', '.join(absent)}; lm-evaluation-harness {self.version} wrote the log, "
                "and unedited logs of 0.4.9 and later are read: evaluate again with one of these"
            )
        prompt_id = f"{self.task}/{sample['doc_id']}"
        document = sample["doc"] if isinstance(sample["doc"], dict) else {}
        self.run.items[prompt_id] = Item(
            sample["doc_hash"] + sample["target_hash"],
            sample["prompt_hash"],
            *self.grouping.of(prompt_id, self.task, self.group, document, where),
        )
        for name in sample["metrics"]:
            self._add_score(name, sample, prompt_id, where)

    def _add_score(self, name: str, sample: dict, prompt_id: str, where: str) -> None:
        kind, value = sample["filter"], sample.get(name)
        metric = safe(name if kind == "none" else f"{name},{kind}")
        if self.higher_is_better.get(name) is False:
            self.run.lower.add(metric)
        if isinstance(value, list | dict):
            return  # what a corpus metric (F1, BLEU, perplexity) is computed from, which is no score of a prompt
        if isinstance(value, int | float):
            self.run.add(metric, prompt_id, 0, Value(float(value), "ok", sha256(sample["resps"]), where))
        else:
            self.run.fault(metric, where, value)
