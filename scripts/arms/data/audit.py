"""What must hold of the data before anything is trained on it, and what is worth knowing about it.

A data file is read once, row by row; what is kept of a row is some hundred bytes: digests of its texts, their lengths,
where it stood. A finding that would make the comparison wrong is a UserError that names file, lines and cure; the rest
goes into the audit as a number or a warning.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from arms.data.leakage import Prompt, digest
from arms.data.rows import TEXTS, BadRow, whole_prompt
from arms.data.sources import DataSet
from arms.job.files import UserError

SHOWN = 5  # offending lines in a message
MOST_KINDS = 20  # of findings, at which reading stops
Rows = int | tuple[int, ...]  # the index of a row, or of rows that belong together
Each = Callable[[dict, Prompt], None]
Check = Callable[[dict], None]


class Table:
    """What is remembered of the rows of one data file: n rows, of one kind.

    ids, prompts, answers (for each completion): digests of 16 bytes, as numpy arrays (n,) of dtype S16; a prompt's is
    taken after `normalise`, an answer's together with its exact prompt. lengths: characters of each text, (n,).
    """

    def __init__(self, source: DataSet, each: Sequence[Each], checks: Sequence[Check], rows: Iterable[dict]) -> None:
        """Take the rows of `source`, and give each good one and its prompt to every one of `each`.

        checks: further checks of single rows, which raise BadRow. UserError for bad rows, one line for each kind.
        """
        kind = source.kind
        self.path, self.kind, self.texts = source.words, kind, TEXTS[kind]
        self.findings = Findings(self)
        self.numbers = array("q")  # of each row in its file
        self.files: dict[int, str] = {}  # first row of each file: what comes before its number in messages
        self.began = ""  # the last of them
        self.lengths = {name: array("q") for name in self.texts}
        self.categories: Counter[str] = Counter()
        self.negatives: Counter[str] = Counter()
        self.early = 0
        self.by_length: Counter[tuple[str, int]] = Counter()  # pairs by category and which is longer: 1 chosen, 0, -1
        found = {name: bytearray() for name in ("id", *self.texts)}
        for row in rows:
            self._place(row)
            try:
                row = source.complete(row)
                for check in checks:
                    check(row)
            except BadRow as bad:
                self.findings.add(len(self.numbers) - 1, bad.problem, bad.cure)
            else:
                prompt = Prompt(row["prompt"])
                self._remember(row, prompt.normal, found)
                for use in each:
                    use(row, prompt)
        self.findings.refuse()
        digests = {name: np.frombuffer(bytes(found[name]), dtype="S16") for name in found}
        self.ids, self.prompts = digests["id"], digests["prompt"]
        self.answers = [digests[name] for name in self.texts[1:]]
        self._check_repeats()

    def __len__(self) -> int:
        return len(self.numbers)

    def _place(self, row: dict) -> None:
        words = row["_place"].removesuffix(str(row["_row"]))
        if words != self.began:
            self.files[len(self.numbers)] = self.began = words
        self.numbers.append(row["_row"])

    def _remember(self, row: dict, normal: str, found: dict[str, bytearray]) -> None:
        found["id"] += digest(row["id"])
        found["prompt"] += digest(normal)
        whole = whole_prompt(row)
        for name in self.texts[1:]:
            found[name] += digest(whole, row[name])
        for name in self.texts:
            self.lengths[name].append(len(row[name]))
        self.categories[row["category"]] += 1
        if self.kind == "pairs":
            self.negatives[row["negative"] or ""] += 1
            one, other = len(row["chosen"]), len(row["rejected"])
            self.by_length[row["category"], (one > other) - (one < other)] += 1
            self.early += row["chosen"].split(None, 1)[0] != row["rejected"].split(None, 1)[0]

    def where(self, index: int) -> str:
        """Where a row stood, its file included."""
        return f"{self.path}, {self.words(index)}"

    def words(self, index: int) -> str:
        """Where a row stood beside the table's own path: "line 3", of a folder with the file."""
        file, unit, number = self.place(index)
        return f"{unit} {number}" if file == self.path else f"{file} {unit} {number}"

    def place(self, index: int) -> tuple[str, str, str]:
        """Where a row stood: file, "line" or "row", its number."""
        words = self.files[max(first for first in self.files if first <= index)]
        file, _, unit = words.rpartition(", ")
        return file, unit.strip(), str(self.numbers[index])

    def _check_repeats(self) -> None:
        """UserError for rows that are there twice, and pairs that teach the opposite of another."""
        if self.kind == "sft":
            self.findings.add_all(
                repeats(self.answers[0]),
                "the same prompt and completion",
                "remove one of the two rows: a row that is trained on twice weighs twice",
            )
        if self.kind == "pairs":
            _check_pairs(self.answers[0], self.answers[1], self.findings)
        told = self.findings.told  # an id that is made of a row's texts is there twice if the row is
        twins = [rows for rows in repeats(self.ids) if not told.issuperset(rows)]
        self.findings.add_all(
            twins, "'id' occurs twice (where there is none, it is made of the texts)", "give every row an id of its own"
        )
        self.findings.refuse()


def _check_pairs(chosen: np.ndarray, rejected: np.ndarray, findings: Findings) -> None:
    both, swapped = _joined(chosen, rejected), _joined(rejected, chosen)
    same = repeats(both)
    findings.add_all(
        same,
        "the same prompt, chosen and rejected",
        "remove one of the two rows: a pair that is trained on twice weighs twice",
    )
    turned = [(int(other), row) for row, other in enumerate(first_match(swapped, both)) if 0 <= other < row]
    findings.add_all(turned, "swapped: one row's chosen is the other's rejected", "remove the row that is wrong")
    findings.add_all(
        [
            (int(o), row)
            for row, o in enumerate(first_match(rejected, chosen))
            if o >= 0 and not {row, int(o)} <= findings.told
        ],
        "an answer is chosen in the one row and rejected in the other, for the same prompt",
        "decide whether it is good and remove the other row",
    )


def check_pair(row: dict) -> None:
    """BadRow for a pair without a difference."""
    if row["chosen"].strip() == row["rejected"].strip():
        raise BadRow("'chosen' and 'rejected' are the same", "remove the row or give it another answer")


class Findings:
    """What is wrong with the rows of a table: each problem with its cure, and the first few rows that have it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        self.count: Counter[tuple[str, str]] = Counter()
        self.told: set[int] = set()  # the index of every row with a finding

    def add(self, rows: Rows, problem: str, cure: str) -> None:
        """Put one finding down; UserError if there are too many kinds, as in a file of another layout."""
        kind = (problem, cure)
        self.count[kind] += 1
        self.told |= {*rows} if isinstance(rows, tuple) else {rows}
        if self.count[kind] <= SHOWN:
            self.rows.setdefault(kind, []).append(rows if isinstance(rows, tuple) else (rows,))
        if len(self.rows) > MOST_KINDS:
            self.refuse()

    def add_all(self, found: Iterable[Rows], problem: str, cure: str) -> None:
        """Put findings of one kind down."""
        for rows in found:
            self.add(rows, problem, cure)

    def refuse(self) -> None:
        """UserError if there is any finding: one line for each kind."""
        if self.rows:
            raise UserError("\n".join(self._line(*kind) for kind in self.rows))

    def _line(self, problem: str, cure: str) -> str:
        """Such as "my.jsonl, 7 times: line 3, lines 4 and 9, and 5 more: ..."; of several files each row's is named."""
        count, found = self.count[problem, cure], self.rows[problem, cure]
        places = [[self.table.place(row) for row in rows] for rows in found]
        times = f"{count} times: " if count > 1 else ""
        more = f", and {count - len(found)} more" if count > len(found) else ""
        files = {file for rows in places for file, _, _ in rows}
        if len(files) == 1:
            words = [f"{rows[0][1]}{'s' * (len(rows) > 1)} {' and '.join(row[2] for row in rows)}" for rows in places]
            return f"{files.pop()}, {times}{', '.join(words)}{more}: {problem}; {cure}"
        words = [" and ".join(f"{file} {unit} {number}" for file, unit, number in rows) for rows in places]
        return f"{times}{', '.join(words)}{more}: {problem}; {cure}"


def repeats(keys: np.ndarray) -> list[tuple[int, int]]:
    """(first row, later row) of every row whose key was there before. keys: (n,)."""
    order = np.argsort(keys, kind="stable")
    groups = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    ends = np.append(groups[1:], len(order))
    found = [
        (int(order[start]), int(later))
        for start, end in zip(groups[ends - groups > 1], ends[ends - groups > 1], strict=True)
        for later in order[start + 1 : end]
    ]
    return sorted(found, key=lambda rows: rows[1])


def first_match(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each of `keys` the first place in `among` that is equal to it; -1 if there is none. Shape of `keys`."""
    values, first = np.unique(among, return_index=True)
    position = np.minimum(np.searchsorted(values, keys), len(values) - 1)
    return np.where(values[position] == keys, first[position], -1)


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Digests side by side: (n,) of dtype S32."""
    return np.frombuffer(np.stack([one, other], axis=1).tobytes(), dtype="S32")
