"""The `data` section of a configuration: its data sets, as files or on the hub, and those that are split off."""

from __future__ import annotations

import os
import re

from study.datasets import DATA, PARTS
from study.errors import ConfigError


def checked_data(data: dict, home: str | os.PathLike) -> dict:
    """The section with each path as it is, or in the repository where only that has it; ConfigError if it cannot be."""
    if "heldout" in data and "heldout_pairs" in data:
        raise ConfigError("data: heldout makes held-out pairs of data.pairs, and heldout_pairs names some; remove one")
    if "heldout" not in data and "heldout_pairs" not in data:
        raise ConfigError(
            "data.heldout_pairs is missing; name held-out pairs, or have some split off data.pairs: heldout: "
            "{fraction: 0.1}"
        )
    for part in ("heldout", "development"):
        if part in data and ("fraction" in data[part]) == ("rows" in data[part]):
            raise ConfigError(f"data.{part}: give either fraction or rows, such as {part}: {{fraction: 0.1}}")
    if sum(data.get(part, {}).get("fraction", 0) for part in ("heldout", "development")) >= 1:
        raise ConfigError("data: heldout.fraction and development.fraction leave nothing to train on; lower them")
    if "graders" in data and "heldout_prompts" not in data:
        raise ConfigError("data.graders: there are no data.heldout_prompts to grade; add them or remove it")
    for name, source in data.items():
        if isinstance(source, dict) and {"sample", "mix"} & source.keys() and name in data.get("rows", {}):
            raise ConfigError(f"data.rows.{name}: how many rows a sample or a mix has is said by data.{name}.sample")
    return {**data, **{name: _data_set(name, data[name], home) for name in (*DATA, "graders") if name in data}}


def data_sets(data: dict) -> dict[str, str | dict]:
    """Every data set of a checked section by name: where it is, or which part of a split (arms/data/sources.py)."""
    found = {name: data[name] for name in DATA if name in data}
    split = {part: data[part] for part in ("heldout", "development") if part in data}
    if split:
        among = {name: data[name] for name in ("sft", "pairs")}
        for name, (part, origin) in PARTS.items():
            if part == "training" or part in split:
                found[name] = {"part": part, "of": origin, "split": split, "among": among}
    return {name: found[name] for name in DATA if name in found}


def without_paths(source: str | dict) -> dict:
    """What decides a data set's rows but for its files, whose content counts by itself."""
    if isinstance(source, str):
        return {}
    found = {key: value for key, value in source.items() if key != "path"}
    if "among" in found:
        found["among"] = {name: without_paths(one) for name, one in found["among"].items()}
    if "mix" in found:
        found["mix"] = [without_paths(one) for one in found["mix"]]
    return found


def _mixture(key: str, source: dict, home: str | os.PathLike) -> dict:
    """A mixture, each of its data sets with a name and a weight."""
    if others := sorted(source.keys() - {"mix", "sample", "seed"}):
        raise ConfigError(f"data.{key}: {others[0]} belongs to one of the data sets in mix; move it there")
    members = []
    for number, one in enumerate(source["mix"]):
        found = _source(f"{key}.mix[{number}]", one, home)
        file = os.path.basename(found.get("path", "").rstrip("/")).partition(".")[0]
        members.append({"weight": 1, "name": found.get("hub", file), **found})
    names = [one["name"] for one in members]
    if twin := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"data.{key}.mix: two data sets are called {twin!r}; give each a name: {{name: ..., path: ...}}"
        )
    return {**source, "mix": members}


def _data_set(name: str, source: str | dict, home: str | os.PathLike) -> str | dict:
    """A data set as it is, its paths where they are found."""
    if isinstance(source, str):
        return _found(name, source, home)
    return _mixture(name, source, home) if "mix" in source else _source(name, source, home)


def _source(name: str, source: dict, home: str | os.PathLike) -> dict:
    """One data set that is described by keys."""
    if ("path" in source) == ("hub" in source):
        raise ConfigError(f"data.{name}: give either path or hub")
    missing = [key for key in ("revision", "split") if key not in source]
    if "hub" in source and missing:
        raise ConfigError(
            f"data.{name}: {missing[0]} is missing; a data set on the hub is a commit's (40 hexadecimal digits, on "
            "its page under Files, History: a branch moves) and a split of it"
        )
    return {**source, "path": _found(name, source["path"], home)} if "path" in source else source


def _found(name: str, path: str, home: str | os.PathLike) -> str:
    """A path as it is, or in the repository where only that has it."""
    for found in (path, os.path.join(home, path)):
        if os.path.exists(found):
            return found
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", path)
    cure = f"; if it is on the hub, write {{hub: {path}, revision: ..., split: ...}}" if hub else ""
    raise ConfigError(f"data.{name}: no such file: {path} (relative to {os.getcwd()}){cure}")
