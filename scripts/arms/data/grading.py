"""Strict IFEval grading with the checkers of lm-evaluation-harness, made deterministic and silent.

Only this module imports the checkers. It runs in the `grade` environment, which holds no torch.

As a program it grades what `make_data.py` samples, one JSON object a line in, `true` or `false` a line out:

    echo '{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "text": "A, b."}' \
        | python -m arms.data.grading
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import cache

from arms.data.rows import BadRow
from arms.data.steady import steady_checkers
from arms.job.files import exit_with_message


@cache
def checkers():
    """The module lm_eval.tasks.ifeval.utils, which loads and grades without the network, the same at every time."""
    steady_checkers()
    from lm_eval.tasks.ifeval import utils

    return utils


def check_instructions(row: dict) -> None:
    """BadRow for a row that cannot be graded reproducibly.

    row: dict with "prompt", "instruction_id_list", "kwargs". Every argument of a checker must be given: the checkers
    invent a missing one with `random`.
    """
    registry = checkers().instructions_registry.INSTRUCTION_DICT
    for name in ("instruction_id_list", "kwargs"):
        if row.get(name) is None:
            cure = "say what the answer is graded by: grader, or IFEval's instruction_id_list and kwargs"
            raise BadRow(f"column {name!r} is missing", cure)
    ids, kwargs = row["instruction_id_list"], row["kwargs"]
    if not ids or len(ids) != len(kwargs):
        raise BadRow(f"{len(ids)} instruction ids and {len(kwargs)} kwargs", "give one kwargs object for each id")
    for name, given in zip(ids, kwargs, strict=True):
        if name not in registry:
            raise BadRow(f"unknown instruction {name!r}", f"choose from {', '.join(sorted(registry))}")
        if not isinstance(given, dict):
            raise BadRow(f"kwargs of {name!r} must be an object, found {type(given).__name__}", "correct the row")
        # The harness drops falsy values (IFEval's files hold null for the arguments of other checkers).
        names = {key for key, value in given.items() if value}
        wanted = set(registry[name](name).get_instruction_args_keys())
        if names != wanted:
            raise BadRow(
                f"{name!r} takes the kwargs {sorted(wanted)}, found {sorted(names)}",
                "correct the row (a missing one would be drawn at random)",
            )
    try:
        drawn = [name for name, given in zip(ids, kwargs, strict=True) if draws(registry[name], name, given)]
        follows(row, "A sentence to try the checkers on.")
    except Exception as error:
        raise BadRow(f"the checkers refuse these kwargs ({error})", "correct the row") from error
    if drawn:
        raise BadRow(f"{drawn[0]!r} would replace one of these kwargs by a random one", "give one within its range")


def draws(checker: Callable, name: str, given: dict) -> bool:
    """Whether a checker puts a random argument in place of a given one, such as for paragraph 4 of 3."""
    found = set()
    for seed in range(8):
        random.seed(seed)
        instruction = checker(name)
        instruction.build_description(**{key: value for key, value in given.items() if value})
        found.add(repr(instruction.get_instruction_args()))
    return len(found) > 1


def follows(row: dict, text: str) -> bool:
    """Whether `text` follows every instruction of `row`: IFEval's prompt-level strict accuracy.

    row: dict with "prompt", "instruction_id_list", "kwargs" (Zhou et al. 2023, https://arxiv.org/abs/2311.07911).

    >>> row = {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    >>> follows(row, "No comma here."), follows(row, "One, here.")
    (True, False)
    """
    utils = checkers()
    example = utils.InputExample(
        key=0, instruction_id_list=row["instruction_id_list"], prompt=row["prompt"], kwargs=row["kwargs"]
    )
    return bool(utils.test_instruction_following_strict(example, text).follow_all_instructions)


def main() -> None:
    """Grade standard input, line by line."""
    for line in sys.stdin:
        row = json.loads(line)
        print(json.dumps(follows(row, row["text"])))


if __name__ == "__main__":
    exit_with_message(main)
