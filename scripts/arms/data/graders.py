"""How an answer to a held-out prompt is graded: by IFEval's instructions, or by a grader that its row names.

A row has `instruction_id_list` and `kwargs` (arms/data/grading.py), or `grader`, an object of one of these kinds:

    {"exact": "Paris"}                   the whole answer, but for white space at its ends; a list: one of them;
                                         "ignore_case": true
    {"number": 42, "tolerance": 0}       the last number in the answer
    {"regex": "answer: *(\\w+)"}         found somewhere in the answer; "equals": "yes" asks its last match's first
                                         group (without one, the match) to be that text
    {"choice": "B", "of": "ABCD"}        the letter that the answer settles on (`chosen_letter`)
    {"json_schema": {"type": "object"}}  the answer, with or without a code fence, is JSON of that schema (2020-12)
    {"python": "is_prime", ...}          is_prime(prompt, answer, ...) of the file `data.graders`, True or False

A grader sees the answer alone and gives the same at every time; one that takes longer than SECONDS is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from arms.data.functions import FunctionFailed, Functions
from arms.data.grading import check_instructions, follows
from arms.data.rows import BadRow

SECONDS = 10.0  # for one answer
SAMPLES = ("A sentence to try the grader on.", "")
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
FENCE = re.compile(r"\A```\w*\n(.*)\n```\Z", re.DOTALL)
# kind -> (keys beside its own, what its own key holds)
KINDS: dict[str, tuple[set[str], str]] = {
    "exact": ({"ignore_case"}, "a text, or a list of texts"),
    "number": ({"tolerance"}, "a finite number"),
    "regex": ({"equals"}, "a regular expression"),
    "choice": ({"of"}, "one of the letters of 'of'"),
    "json_schema": (set(), "a JSON schema"),
    "python": (set(), "the name of a function in the file data.graders"),
}


class Graders:
    """Grades answers, with the functions of the user's file if there is one; a context, which ends their process."""

    def __init__(self, path: str | None = None) -> None:
        """path: Python file with the functions that rows name under "python"; UserError if it cannot be loaded."""
        self.functions = Functions(path, SECONDS) if path else None

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        if self.functions:
            self.functions.close()

    def check(self, row: dict) -> None:
        """BadRow for a row that cannot be graded: no grader or two, an unknown or a wrong one."""
        grader = row.get("grader")
        if grader is None:
            return check_instructions(row)
        if row.get("instruction_id_list"):
            raise BadRow("both 'grader' and 'instruction_id_list'", "keep one of them")
        kind = kind_of(grader)
        self._check_values(kind, grader)
        try:
            for sample in SAMPLES:
                self.passes(row, sample)
        except FunctionFailed as error:
            raise BadRow(str(error), "correct the function or the row") from error
        except TimeoutError as error:
            raise BadRow(f"the grader takes more than {SECONDS:g} s for one sentence", "make it simpler") from error
        return None

    def _check_values(self, kind: str, grader: dict[str, Any]) -> None:
        """BadRow for a grader of a known kind whose values are wrong."""
        own, wrong = grader[kind], None
        if kind == "exact":
            texts = own if isinstance(own, list) else [own]
            wrong = not texts or not all(isinstance(text, str) and text.strip() for text in texts)
        elif kind == "number":
            wrong = not all(map(_is_number, (own, grader.get("tolerance", 0)))) or grader.get("tolerance", 0) < 0
        elif kind == "choice":
            letters = grader.get("of")
            if not isinstance(letters, str) or not letters.isalpha() or not 1 < len(set(letters)) == len(letters):
                raise BadRow("grader 'choice' needs 'of', the letters to choose from", 'write such as "of": "ABCD"')
            wrong = not isinstance(own, str) or len(own) != 1 or own not in letters
        elif kind == "regex":
            self._check_regex(own)
        elif kind == "json_schema":
            _check_schema(own)
        elif self.functions is None:
            raise BadRow(f"grader {own!r} is a Python function", "name its file in the config: data.graders: FILE.py")
        elif own not in self.functions.names:
            found = ", ".join(self.functions.names) or "none"
            raise BadRow(f"no function {own!r} in {self.functions.path} (found: {found})", "correct the name")
        if wrong:
            raise BadRow(f"grader {kind!r} is {json.dumps(own)[:60]}, it must be {KINDS[kind][1]}", "correct the row")

    def _check_regex(self, pattern: object) -> None:
        import regex

        try:
            regex.compile(pattern)
        except (regex.error, TypeError) as error:
            raise BadRow(f"grader 'regex': {json.dumps(pattern)[:60]} is none ({error})", "correct it") from None

    def passes(self, row: dict, text: str) -> bool:
        """Whether an answer passes. Raises TimeoutError, and FunctionFailed if the user's function does."""
        grader = row.get("grader")
        if grader is None:
            return follows(row, text)
        kind = kind_of(grader)
        if kind == "python":
            assert self.functions is not None, "`check` refuses rows that need it"
            arguments = {name: value for name, value in grader.items() if name != "python"}
            return self.functions.call(grader["python"], row["prompt"], text, arguments)
        return PASSES[kind](grader, text)


def kind_of(grader: object) -> str:
    """The one key of KINDS that a grader has; BadRow if it has none, several, or keys that its kind does not take."""
    if not isinstance(grader, dict):
        raise BadRow(f"'grader' must be an object, found {type(grader).__name__}", f"one of {', '.join(KINDS)}")
    kinds = [name for name in KINDS if name in grader]
    if "python" in kinds:  # whose other keys are the function's
        return "python"
    if len(kinds) != 1:
        found = ", ".join(map(repr, grader)) or "nothing"
        raise BadRow(f"'grader' has {found}", f"give it one of {', '.join(KINDS)}")
    others = set(grader) - KINDS[kinds[0]][0] - {kinds[0]}
    if others:
        known = ", ".join(sorted(KINDS[kinds[0]][0])) or "no other key"
        raise BadRow(f"grader {kinds[0]!r} does not take {sorted(others)[0]!r}", f"it takes {known}")
    return kinds[0]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_schema(schema: object) -> None:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise BadRow(f"grader 'json_schema': {error.message}", "correct the schema") from None


def is_exact(grader: dict, text: str) -> bool:
    """Whether the answer is the text, or one of the texts.

    >>> is_exact({"exact": ["Paris", "paris."]}, " Paris \\n"), is_exact({"exact": "Paris"}, "It is Paris.")
    (True, False)
    """
    wanted = grader["exact"] if isinstance(grader["exact"], list) else [grader["exact"]]
    fold: Callable[[str], str] = str.casefold if grader.get("ignore_case") else str
    return fold(text.strip()) in {fold(one.strip()) for one in wanted}


def has_number(grader: dict, text: str) -> bool:
    """Whether the last number of the answer is the one wanted; thousands may have commas.

    >>> has_number({"number": 1200}, "3 x 400 = 1,200."), has_number({"number": 3}, "3 x 400 = 1,200.")
    (True, False)
    >>> has_number({"number": 0.3, "tolerance": 0.01}, "about 0.305")
    True
    """
    found = NUMBER.findall(text)
    if not found:
        return False
    last = Decimal(found[-1].replace(",", "").replace("−", "-"))
    return abs(last - Decimal(str(grader["number"]))) <= Decimal(str(grader.get("tolerance", 0)))


def matches(grader: dict, text: str) -> bool:
    """Whether the expression is found, and where `equals` is given, its last match is that text. TimeoutError.

    >>> matches({"regex": r"answer: *(\\w+)", "equals": "yes"}, "answer: no, no: answer: yes")
    True
    """
    import regex

    found = list(regex.finditer(grader["regex"], text, timeout=SECONDS))
    if not found or "equals" not in grader:
        return bool(found)
    last = found[-1]
    return bool(last[1 if last.re.groups else 0] == grader["equals"])


def chosen_letter(letters: str, text: str) -> str | None:
    """The letter that an answer to a multiple-choice question settles on; None if it does not.

    That is the one after the last "answer is", "answer:" or the like; else, unless several stand in brackets, the one
    that the answer begins with, alone or before one of ).:, or a line break; else the only one in brackets.

    >>> [chosen_letter("ABCD", text) for text in ("B", "(c)", "A good question. The answer is **D**.", "A bird.")]
    ['B', 'C', 'D', None]
    """
    among, stripped = f"[{re.escape(letters)}]", text.strip()
    said = re.findall(rf"(?i)(?:answer|choice|option)(?: is)?\s*:?\s*[*(\[\"']*({among})(?!\w)", stripped)
    first = re.match(rf"(?i)[*(\[]*({among})(?=[*)\].:,\n]|\Z)", stripped)
    bracketed = set(re.findall(rf"\(({among})\)", stripped))
    if said:
        found = said[-1]
    elif len(bracketed) > 1:
        return None
    else:
        found = first[1] if first else next(iter(bracketed), None)
    if found is None or found in letters:
        return found
    return found.swapcase()


def chooses(grader: dict, text: str) -> bool:
    """Whether the answer settles on the right letter."""
    return chosen_letter(grader["of"], text) == grader["choice"]


def is_json(grader: dict, text: str) -> bool:
    """Whether the answer is JSON that the schema allows.

    >>> is_json({"json_schema": {"type": "array"}}, "```json\\n[1]\\n```"), is_json({"json_schema": {}}, "{'a': 1}")
    (True, False)
    """
    import jsonschema

    fenced = FENCE.match(text.strip())
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return bool(jsonschema.Draft202012Validator(grader["json_schema"]).is_valid(value))


PASSES = {"exact": is_exact, "number": has_number, "regex": matches, "choice": chooses, "json_schema": is_json}
