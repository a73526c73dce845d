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
    return found


def _data_set(name: str, source: str | dict, home: str | os.PathLike) -> str | dict:
    if isinstance(source, dict):
        if ("path" in source) == ("hub" in source):
            raise ConfigError(f"data.{name}: give either path or hub")
        missing = [key for key in ("revision", "split") if key not in source]
        if "hub" in source and missing:
            raise ConfigError(
                f"data.{name}: {missing[0]} is missing; a data set on the hub is a commit's (40 hexadecimal digits, on "
                "its page under Files, History: a branch moves) and a split of it"
            )
        return {**source, "path": _data_set(name, source["path"], home)} if "path" in source else source
    for found in (source, os.path.join(home, source)):
        if os.path.exists(found):
            return found
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source)
    cure = f"; if it is on the hub, write {{hub: {source}, revision: ..., split: ...}}" if hub else ""
    raise ConfigError(f"data.{name}: no such file: {source} (relative to {os.getcwd()}){cure}")
