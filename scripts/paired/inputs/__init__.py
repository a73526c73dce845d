"""Scores as people have them, in the form of the data contract: logs of evaluation tools, and plain tables.

Logs are read as files; no tool is needed. Every run must have answered the same items: an item that one run lacks, or
whose text or target differs, is an error that names it. Nothing is ever joined silently, and a value that cannot be a
score is an error that names the file and the line that it comes from.

runs         what one model or training seed was asked, and its scores; whether runs can be compared
lm_eval      lm-evaluation-harness
inspect_log  inspect_ai
table        one plain table of scores, csv or parquet
preferences  one plain table of pairwise outcomes
contract     the choice of metrics, a plan for them, and the files that `score_files` and `prompts` read
"""

from collections.abc import Sequence
from pathlib import Path

from ..files import ContractError
from ..scores import NO_SEED
from . import inspect_log, lm_eval
from .runs import RUN, Grouping, Run

TOOLS = {"lm-eval": lm_eval.read, "inspect": inspect_log.read}


def read_runs(tool: str, arguments: Sequence[str], grouping: Grouping | None = None) -> list[Run]:
    """Runs of a tool ("lm-eval" or "inspect") from NAME=PATH or NAME:SEED=PATH; a NAME may repeat for further tasks.

    Raises ContractError: an argument of another form, a file that is not the tool's, a task that a run has twice.
    """
    runs: dict[tuple[str, int], Run] = {}
    for argument in arguments:
        match = RUN.fullmatch(argument)
        if not match:
            raise ContractError(f"--{tool} {argument}: write NAME=PATH, or NAME:SEED=PATH for one of several seeds")
        key = match["name"], int(match["seed"] or NO_SEED)
        TOOLS[tool](Path(match["path"]), runs.setdefault(key, Run(*key)), grouping or Grouping())
    return list(runs.values())
