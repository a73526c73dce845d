"""Judges of a study: what the configuration says of them, whom they compare, and the files that come of it.

A judge's metric is named judge.<name>; it compares answers to the held-out prompts in pairs (docs/judge.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from study.base_files import base_files
from study.checksums import portable
from study.errors import ConfigError
from study.runs import Run
from study.vocabulary import ADDED_CONTRASTS, ALL_CONTRASTS, DPO_ARMS, PRIMARY_CONTRASTS

KEPT = "results/.judgements"  # every answer that was paid for, whichever study asked; no study's name begins with a dot
TABLES = ("preferences", "strengths")  # what the statistics say of judgements besides
DEFAULTS: dict[str, Any] = {
    "key": None,
    "prompt": None,
    "temperature": 0,
    "max_tokens": 1024,
    "parameters": {},
    "requests_per_minute": None,
    "parallel": 4,
    "timeout": 120,
    "retries": 6,
    "most_requests": None,
    "most_tokens": None,
    "before_training": True,
    "contrasts": list(PRIMARY_CONTRASTS),
}
OF_REWARDS = ("contrasts", "before_training")  # keys that a reward model has, too
REACH = ("endpoint", "key", "requests_per_minute", "parallel", "timeout", "retries", "most_requests", "most_tokens")
OURS = ("model", "messages", "n", "stream", "temperature", "max_tokens")  # fields of a request that have keys of theirs


class Judges:
    """The judges of one study.

    config: the checked configuration; without judges everything here is empty.
    """

    def __init__(self, config: dict) -> None:
        self.config = config
        self.all: dict[str, dict] = config.get("evaluation", {}).get("judges", {})

    def __iter__(self) -> Iterator[str]:
        return iter(self.all)

    @property
    def asking(self) -> list[str]:
        """Those behind an endpoint."""
        return [name for name, judge in self.all.items() if "reward_model" not in judge]

    @property
    def scoring(self) -> list[str]:
        """Reward models."""
        return [name for name, judge in self.all.items() if "reward_model" in judge]

    @property
    def metrics(self) -> dict[str, dict]:
        """Metric -> how the statistics take it: kind and higher_is_better."""
        return {f"judge.{name}": {"kind": "pairwise", "higher_is_better": True} for name in self}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that the statistics of a study with judges have besides."""
        return TABLES if self.all else ()

    def pairs(self, name: str, variant: str = "") -> list[str]:
        """What a judge compares, seed by seed: the runs of both arms of each contrast, as `<run>-vs-<run>`."""
        found = []
        for contrast in self.all[name]["contrasts"]:
            if variant and contrast in ADDED_CONTRASTS:
                continue  # added arms have no variants
            arms = sorted(ALL_CONTRASTS[contrast][0].items(), key=lambda item: -item[1])
            for seed in self.config["seeds"]:
                runs = [run_of(arm, variant, seed) for arm, _ in arms]
                found.append("-vs-".join(map(str, runs)))
        return found

    def scores(self, variant: str = "") -> list[str]:
        """The score files of all judges."""
        return [
            f"<results>/scores/metric=judge.{name}/part-{pair}.parquet"
            for name in self
            for pair in self.pairs(name, variant)
        ]

    @property
    def report(self) -> dict[str, list[str]]:
        """What the report shows of judges: who they are, and what they said."""
        said = [f"<results>/judge/{name}/{pair}.parquet" for name in self for pair in self.pairs(name)]
        return {"judges": [f"<results>/judge/{name}.json" for name in self], "judgements": said} if self.all else {}

    @property
    def waited_for(self) -> list[str]:
        """What training waits for: that each judge answers."""
        return [f"<results>/judge/{name}.json" for name, judge in self.all.items() if judge["before_training"]]

    def prompt(self, name: str) -> list[str]:
        """The user's file with a judge's prompt, or none."""
        return [path for path in (self.all[name]["prompt"],) if path]

    def settings(self, name: str) -> dict:
        """What decides a judge's answers, but for the content of its prompt. Where it is reached decides nothing."""
        judge = self.all[name]
        given = {key: judge[key] for key in ("temperature", "max_tokens") if judge[key] is not None}
        return {"model": judge["model"], "parameters": {**given, **judge["parameters"]}}

    def reward_files(self, name: str) -> list[str]:
        """The files of a reward model in a folder; of the hub's none, since its revision is pinned."""
        return base_files({"model": self.reward_settings(name)["model"]})

    def reward_settings(self, name: str) -> dict:
        """What decides a reward model's scores."""
        given = self.all[name]["reward_model"]
        model = {key: value for key, value in given.items() if key != "precision"}
        return {"model": {"source": "path" if "path" in given else "hub", **model}, "precision": given["precision"]}

    def reach(self, wildcards, output) -> str:
        """How a judge is reached, and within which limits, as JSON: no setting of any job. The key is only named."""
        name = wildcards.judge
        ledger = f"{self.config['study']}.{name}"
        return json.dumps({**{key: self.all[name][key] for key in REACH}, "kept": KEPT, "ledger": ledger})

    def refuse_without_key(self, names: set[str], environ: Mapping[str, str]) -> None:
        """ConfigError if one of these judges, who are to be asked, needs a key that is not there."""
        for name in sorted(names):
            variable = self.all[name]["key"]
            if variable and not environ.get(variable):
                raise ConfigError(
                    f"evaluation.judges.{name}: the environment variable {variable}, which is to hold its key, is not "
                    f"set; run `export {variable}=...` first, or remove `key` for a server that needs none"
                )


def run_of(arm: str, variant: str, seed: int) -> Run:
    """The run of an arm in the statistics of one recipe."""
    return Run("base") if arm == "base" else Run(arm, variant if arm in DPO_ARMS else "", seed)


def check_judges(config: dict, home: str | Path) -> None:
    """Fill the judges' defaults, in place, and check what needs no endpoint. ConfigError on what is wrong.

    home: the repository, where a prompt is looked for that the working directory does not have.
    """
    judges = Judges(config)
    for name, judge in judges.all.items():
        where = f"evaluation.judges.{name}"
        if "heldout_prompts" not in config["data"]:
            raise ConfigError(f"{where}: it compares answers to data.heldout_prompts, which is missing; add it")
        if "reward_model" in judge:
            _check_reward(judge, where)
            judge.update({key: DEFAULTS[key] for key in OF_REWARDS} | judge)
        elif "endpoint" not in judge or "model" not in judge:
            lost = "model" if "endpoint" in judge else "endpoint"
            raise ConfigError(f"{where}.{lost} is missing; give endpoint and model, or reward_model")
        else:
            judge.update(DEFAULTS | judge)
        _check_contrasts(config, name, judge, where)
        if "reward_model" in judge:
            continue
        if judge["prompt"]:
            places = (judge["prompt"], os.path.join(home, judge["prompt"]))
            judge["prompt"] = next((path for path in places if os.path.isfile(path)), "")
            if not judge["prompt"]:
                raise ConfigError(f"{where}.prompt: no such file: {places[0]} (relative to {os.getcwd()})")
        for field in judge["parameters"]:
            if field in OURS:
                cure = f"set {where}.{field}" if field in judge else "remove it"
                raise ConfigError(f"{where}.parameters.{field}: the study sets this field itself; {cure}")
    taken = [metric for metric in judges.metrics if metric.removeprefix("judge.") in _metrics_of_a_task(config)]
    if taken:
        raise ConfigError(f"evaluation: a task and a judge share the metric {taken[0]}; rename one of them")


def _check_contrasts(config: dict, name: str, judge: dict, where: str) -> None:
    missing = [contrast for contrast in PRIMARY_CONTRASTS if contrast not in judge["contrasts"]]
    if missing and config["statistics"]["primary_metric"] == f"judge.{name}":
        judged = ", ".join(PRIMARY_CONTRASTS)
        raise ConfigError(f"{where}.contrasts: {missing[0]} is missing; the primary metric is judged on {judged}")


def _check_reward(judge: dict, where: str) -> None:
    """Fill a reward model's defaults, in place, and refuse what it does not know."""
    for key in judge:
        if key not in ("reward_model", *OF_REWARDS):
            raise ConfigError(f"{where}: a reward model has no {key}; remove it, or name an endpoint instead")
    model = judge["reward_model"]
    model.setdefault("precision", "fp32")
    if ("path" in model) == ("id" in model) or ("id" in model) != ("revision" in model):
        raise ConfigError(f"{where}.reward_model: give the path of a folder, or id and revision on the hub")
    if "path" in model:
        model["path"] = portable(os.path.expanduser(model["path"]))
        if not os.path.isfile(os.path.join(model["path"], "config.json")):
            raise ConfigError(f"{where}.reward_model.path: no config.json in {model['path']}; name a model's folder")


def _metrics_of_a_task(config: dict) -> list[str]:
    """The metrics of a task that is named like the first part of judges' metrics."""
    given = config["evaluation"].get("tasks", {}).get("judge", {}).get("metric", [])
    return [given] if isinstance(given, str) else list(given)
