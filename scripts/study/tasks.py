"""Tasks of lm-evaluation-harness in a study: what the configuration says of them, and the files that they are made of.

A task's metrics are named <task>.<metric>, or <task>.<metric>.<filter> where its answers are graded through several.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from study.datasets import TRAINED
from study.errors import ConfigError
from study.judges import Judges

# Metrics of the harness whose value for one item is 0 or 1; of others the configuration has to say what they are.
BINARY = (
    "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "pass@1",
    "prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc",
)  # fmt: skip
DEFAULTS = {"file": None, "few_shot": None, "chat_template": False, "limit": None, "higher_is_better": True}
PRIMARY = ("pref_acc", "pass_rate")  # of a study without tasks


class Tasks:
    """The tasks of one study.

    config: the checked configuration; without tasks everything here is empty.
    """

    def __init__(self, config: dict) -> None:
        self.config = config
        self.all: dict[str, dict] = config.get("evaluation", {}).get("tasks", {})

    def __iter__(self) -> Iterator[str]:
        return iter(self.all)

    @property
    def metrics(self) -> dict[str, dict]:
        """Metric -> how the statistics take it: kind and higher_is_better."""
        return {
            f"{name}.{metric}": {"kind": task["kind"], "higher_is_better": task["higher_is_better"]}
            for name, task in self.all.items()
            for metric in task["metric"]
        }

    def of(self, metric: str) -> str:
        """The task that a metric belongs to."""
        return metric.partition(".")[0]

    def files(self, name: str) -> list[str]:
        """The files of a task that is the user's own; of the harness's own none, since its version is pinned."""
        return task_files(self.all[name]["file"]) if self.all[name]["file"] else []

    @property
    def tokens(self) -> list[str]:
        """The token files of all tasks."""
        return [f"<results>/tasks/{name}.tokens.parquet" for name in self]

    def waited_for(self, dataset: str) -> list[str]:
        """What a training set waits for: the token files of all tasks, so that every request can be answered."""
        return self.tokens if dataset in TRAINED.values() else []

    @property
    def items(self) -> list[str]:
        """The lists of the items of all tasks."""
        return [f"<results>/tasks/{name}.items.parquet" for name in self]

    def answers(self, runs: list[str]) -> dict[str, list[str]]:
        """What the report shows of tasks: requests, answers, and scores by the first metric; {} without tasks."""
        if not self.all:
            return {}
        scores = [f"metric={name}.{task['metric'][0]}" for name, task in self.all.items()]
        return {
            "task_requests": [f"<results>/tasks/{name}.requests.parquet" for name in self],
            "task_answers": [f"<results>/{run}/{name}.answers.parquet" for name in self for run in runs],
            "task_scores": [f"<results>/scores/{metric}/part-{run}.parquet" for metric in scores for run in runs],
        }

    def settings(self, name: str) -> dict[str, Any]:
        """What decides a task's requests. What the metrics mean to the statistics is the plan's."""
        task = self.all[name]
        system = self.config["tokens"]["system_prompt"] if task["chat_template"] else None
        kept = ("task", "metric", "few_shot", "chat_template", "limit", "higher_is_better", "revision")
        given = {key: task[key] for key in kept if key in task}  # without a revision, the settings are as they were
        return {"name": name, "own": task["file"] is not None, "system_prompt": system, **given}


def check_tasks(config: dict, home: str | Path) -> None:
    """Fill the tasks' defaults, in place, and check what needs no harness. ConfigError on what is wrong.

    config: with the defaults of its schema. home: the repository, where files are looked for that the working directory
    does not have. Checks also which metric decides, and whose margins are given, as far as tasks are concerned.
    """
    tasks = Tasks(config)
    for name, task in tasks.all.items():
        where = f"evaluation.tasks.{name}"
        metrics = [task["metric"]] if isinstance(task["metric"], str) else task["metric"]
        task.update(DEFAULTS | {"task": name} | task | {"metric": metrics})
        if task["file"]:
            task["file"] = _found(task["file"], home, where)
            try:
                tasks.files(name)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
        unclear = [metric for metric in metrics if metric.partition(".")[0] not in BINARY]
        if "kind" not in task and unclear:
            raise ConfigError(
                f"{where}: kind is missing: is {unclear[0]} of one item 0 or 1 (kind: binary), or any number (kind: "
                "continuous)? The statistics have to know before they see scores"
            )
        task.setdefault("kind", "binary")
        if task["chat_template"] and config["tokens"]["template"] != "chat":
            raise ConfigError(f"{where}.chat_template: the study has none: tokens.template is a text; remove it")
    chosen, more = config["statistics"], [*tasks.metrics, *Judges(config).metrics]
    _known(chosen["primary_metric"], [*PRIMARY, *more], "statistics.primary_metric")
    for metric in chosen["margins"]:
        if "." in metric:
            _known(metric, more, "statistics.margins")


def task_files(path: str) -> list[str]:
    """Every file that a task in a YAML file is made of, the YAML first: what it includes, the Python beside it if it
    names a function, the tasks of its group that lie beside it, and its data.

    Paths of data are relative to the working directory, as the harness takes them. Raises ConfigError for a file
    that is not there, or that cannot be read.
    """
    found: dict[str, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop(0)
        if file in found:
            continue
        found[file] = None
        content, folder, functions = _read(file)
        if functions:
            found |= dict.fromkeys(sorted(glob.glob(os.path.join(glob.escape(folder), "*.py"))))
        includes = content.get("include", [])
        for name in [includes] if isinstance(includes, str) else includes:
            waiting.append(os.path.join(folder, name))
        if isinstance(content.get("task"), list):
            waiting += _members(content["task"], folder)
        found |= dict.fromkeys(_data(content, file))
    return list(found)


def _read(file: str) -> tuple[dict, str, bool]:
    """(content, folder, whether it names Python functions) of a task's YAML file."""
    functions = []

    class Loader(yaml.SafeLoader):
        """YAML with the harness's !function, which is not called here."""

    Loader.add_constructor("!function", lambda loader, node: functions.append(node.value))
    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader)  # noqa: S506  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        words = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ConfigError(f"{file}: {words}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: not a task of lm-evaluation-harness (its docs/task_guide.md describes one)")
    return content, os.path.dirname(file), bool(functions)


def _members(names: list, folder: str) -> list[str]:
    """The YAML files beside a group that hold its tasks; those that are the harness's own lie elsewhere."""
    asked = {name.get("task") if isinstance(name, dict) else name for name in names}
    beside = sorted(glob.glob(os.path.join(glob.escape(folder), "*.y*ml")))
    return [file for file in beside if _is_one_of(_read(file)[0], asked)]


def _is_one_of(content: dict, names: set) -> bool:
    """Whether a YAML file holds one of some tasks or groups."""
    own = content.get("task"), content.get("group")
    return any(isinstance(name, str) and name in names for name in own)


def _data(content: dict, file: str) -> list[str]:
    """The local files that a task's data are read from."""
    given = (content.get("dataset_kwargs") or {}).get("data_files") or []
    patterns: list = list(given.values()) if isinstance(given, dict) else [given]
    flat = [one for entry in patterns for one in (entry if isinstance(entry, list) else [entry])]
    if os.path.isdir(str(content.get("dataset_path"))):
        flat.append(os.path.join(content["dataset_path"], "*"))
    files = []
    for pattern in flat:
        matches = sorted(path for path in glob.glob(str(pattern)) if os.path.isfile(path))
        if not matches:
            raise ConfigError(f"{file}: no such data file: {pattern} (relative to {os.getcwd()})")
        files += matches
    return files


def _found(path: str, home: str | Path, where: str) -> str:
    """The path as it is, or in the repository where only that has it; ConfigError if there is none."""
    for found in (path, os.path.join(home, path)):
        if os.path.isfile(found):
            return found
    raise ConfigError(f"{where}.file: no such file: {path} (relative to {os.getcwd()})")


def _known(metric: str, names: list[str], key: str) -> None:
    """ConfigError for a metric that the study does not have, with one that is spelled like it."""
    if metric not in names:
        close = difflib.get_close_matches(metric, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(names) or 'no tasks'}"
        raise ConfigError(f"{key}: {metric} is no metric of this study; {hint}")
