"""What decides a job (rule, wildcards, settings, code, environment), and in words how two such descriptions differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def environment(lock: str | Path) -> dict[str, str]:
    """Name of an envs/*.yaml file and sha256 of what it pins: its lines without comments and blank ones."""
    lock = Path(lock)
    lines = (line.partition("#")[0].rstrip() for line in lock.read_text(encoding="utf-8").splitlines())
    return {"file": lock.name, "sha256": hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()}


def differences(recorded: dict, job: dict) -> Iterator[str]:
    """In words, how what decides a job today differs from what a manifest recorded. 1 and 1.0 are the same."""
    if (recorded.get("rule"), recorded.get("wildcards")) != (job["rule"], job["wildcards"]):
        yield f"made by another job, {recorded.get('rule')}"
    if words := changed_settings(recorded.get("settings") or {}, job["settings"]):
        yield words
    if recorded.get("code") != job["code"]:
        yield f"other code: was {recorded.get('code')}, is {job['code']}"
    if recorded.get("lock") != job["lock"]:
        yield f"other packages in {job['lock']['file']}"


def changed_settings(recorded: dict, settings: dict) -> str:
    """The first three settings that differ, in words; "" if none does."""
    was, now = flat(recorded), flat(settings)
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    shown = ", ".join(f"{name} was {was.get(name)!r}, is {now.get(name)!r}" for name in names[:3])
    return f"{shown}{' ...' * (len(names) > 3)}"


def flat(value: object, name: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted names."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    found = [flat(inner, f"{name}.{key}".lstrip(".")) for key, inner in value.items()]
    return {key: inner for settings in found for key, inner in settings.items()}
