"""Errors of TRL and transformers that were measured, recognised in a traceback, with their cures.

The patterns are the errors on record (benchmarks/trl_map/results.json), none is kept by hand.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from arms.job.files import UserError, read_json
from arms.training.cures import cure

ERROR = re.compile(r"\b((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): ?(.*)$")
VERSION = re.compile(r"\btrl(?:==|[ /@-]v?|[ :]+version:? )(\d+\.\d+(?:\.\d+)?)", re.IGNORECASE)
KEPT = 400  # characters of a message on record
LARGEST = 20_000_000  # bytes of a file that may be a traceback


def explain(path: str | Path, record: str | Path, version: str = "") -> str:
    """What to do about the error that a file's traceback ends with, one line each.

    record: results.json. version: of TRL, if the file does not say it (`trl==0.12.2`). UserError, if the file is no
    text, has no error or one that nothing is known about.
    """
    versions = read_json(record)["versions"]
    text = read_text(path)
    lines = [found for line in text.splitlines() if (found := ERROR.search(line))]
    if not lines:
        raise UserError(f"{path}: no line like 'TypeError: ...' in it; a traceback ends with one, paste it whole")
    known = errors(versions)
    asked = version or next(iter(VERSION.findall(text)[-1:]), "")
    for found in reversed(lines):
        if calls := known.get(normalised(found[0])):
            return "\n".join([found[0], *answers(calls, versions, asked)])
    raise UserError(
        f"{path}: nothing is known here about {lines[-1][0]!r}; "
        f"{len(known)} errors of TRL {', '.join(versions)} are (docs/trl-versions.md)"
    )


def read_text(path: str | Path) -> str:
    """The text of a file, or of the standard input for "-"; UserError if it is missing, empty, too long, or no text."""
    if str(path) != "-" and (not Path(path).exists() or Path(path).is_dir()):
        raise UserError(f"{path}: no such file; save the traceback in one")
    with sys.stdin.buffer if str(path) == "-" else Path(path).open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST // 1_000_000} MB; save the traceback alone in a file")
    if b"\0" in data:
        raise UserError(f"{path}: not a text file; save the traceback as text")
    text = data.decode("utf-8", errors="replace")
    if not text.strip():
        raise UserError(f"{path}: empty; paste the traceback into it")
    return text


def errors(versions: dict[str, dict]) -> dict[str, dict[str, list[str]]]:
    """Each error on record, normalised -> call that ends in it -> versions in which it does."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for version, one in versions.items():
        for call, outcome in refused(one):
            found[normalised(outcome)][call].append(version)
    return found


def refused(one: dict) -> list[tuple[str, str]]:
    """(call, error) of each call that a version refused, and of reference columns that clash with the flag."""
    calls = [(call, outcome["error"]) for call, outcome in one["calls"].items() if outcome["outcome"] == "error"]
    for name, case in one["cases"].items():
        if name.startswith("columns_") and case["outcome"] == "error":
            calls.append(("columns of reference log-probabilities and precompute_ref_log_probs=True", case["error"]))
    return calls


def normalised(line: str) -> str:
    """An error's line without what differs between users: the file of an import, the name of a model's class."""
    line = re.sub(r" \(/[^)]*\)$", "", " ".join(line.split()))
    return re.sub(r"\b\w+ForCausalLM\.__init__", "Model.__init__", line)[:KEPT]


def answers(calls: dict[str, list[str]], versions: dict[str, dict], asked: str) -> list[str]:
    """For each call, and each cure of its versions, a line; only for the version asked about, if that was tried."""
    lines, told = [], {version for found in calls.values() for version in found}
    if asked and asked not in versions:
        lines.append(f"TRL {asked} was not tried; tried were {', '.join(versions)}.")
    elif asked and asked not in told:
        lines.append(f"TRL {asked} did not end so when it was tried.")
    for call, found in calls.items():
        cures: dict[str, list[str]] = defaultdict(list)
        for version in found:
            if version == asked or asked not in told:
                cures[cure(call, taken(versions[version]))].append(version)
        for text, those in cures.items():
            lines.append(f"{call} ends so on TRL {', '.join(those)}. Cure: {text}.")
    return lines


def taken(one: dict) -> set[str]:
    """The calls that a version took."""
    return {call for call, outcome in one["calls"].items() if outcome["outcome"] == "accepted"}
