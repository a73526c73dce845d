"""Defaults of the schema, and numbers in the spelling that is one with others."""

from __future__ import annotations

import copy
import math

from study.errors import ConfigError


def plain(value: object) -> object:
    """A number in its shortest spelling: 1 for 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_defaults(value: dict, schema: dict, definitions: dict) -> dict:
    """`value` with the schema's defaults for every key that it lacks, in place, depth first."""
    for name, entry in schema.get("properties", {}).items():
        if "$ref" in entry:
            entry = {**definitions[entry["$ref"].rpartition("/")[2]], **entry}
        if "default" in entry:
            value.setdefault(name, copy.deepcopy(entry["default"]))
        if isinstance(value.get(name), dict):
            with_defaults(value[name], entry, definitions)
        elif name in value:
            value[name] = _whole(value[name], entry)
    return value


def _whole(value: object, schema: dict) -> object:
    """The same with integers that are spelled 1.0, which the schema takes for integers, as integers."""
    if isinstance(value, list):
        return [_whole(one, schema.get("items", {})) for one in value]
    return plain(value) if "integer" in str(schema.get("type")) else value


def refuse_infinite(value: object, key: str = "") -> None:
    """ConfigError on a number that is none, or has no bounds: .nan, .inf, and what is too large, such as 1e400."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        refuse_infinite(one, f"{key}.{name}".strip("."))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: {value} is not a finite number; write one, such as 1.0e-5")
