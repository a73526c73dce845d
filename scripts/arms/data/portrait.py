"""The portrait of one data set: what is odd about its rows, how long its texts are, and the rows to look at first.

Made row by row while the file is read; the texts of the few rows that are shown are read again from the checked table.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from arms.data.audit import Table
from arms.data.leakage import Prompt, normalise
from arms.data.near import MOST, Signatures, candidates, near_rows
from arms.data.rows import TEXTS, rows_at
from arms.data.suspects import KINDS, LETTERS, common_words, is_unended, look, script

FIRST = 20  # rows to look at first
NAMED = 10  # rows of a kind that are named
RARE = 0.05  # share of unended answers up to which they stand out
BINS = 30  # of a histogram
HEAD, TAIL = 1000, 300  # characters of a long text that are shown


class Portrait:
    """What is remembered of the rows of one kind for the portrait: some hundred bytes of each."""

    def __init__(self, kind: str) -> None:
        self.sides = TEXTS[kind][1:]
        self.rows = 0
        self.found: dict[str, array] = defaultdict(lambda: array("q"))  # kind of oddity: rows
        self.common = array("q", [0] * 51)  # pairs by the words that both answers begin with
        self.scripts: Counter[str] = Counter()  # of prompts
        self.signatures = Signatures()
        self.uncompared = ""

    def add(self, row: dict, prompt: Prompt) -> None:
        """One row, and its prompt."""
        for kind in {*look(row, self.sides)}:
            self.found[kind].append(self.rows)
        if any(is_unended(row[name]) for name in self.sides):
            self.found["unended"].append(self.rows)
        if len(self.sides) == 2:
            self.common[common_words(*(row[name] for name in self.sides))] += 1
        if len(row["prompt"]) >= LETTERS:
            self.scripts["LATIN" if prompt.normal.isascii() else script(row["prompt"]) or "several"] += 1
        self.signatures.add(prompt.shingles)
        self.rows += 1

    def describe(self, table: Table, path: str | Path) -> dict:
        """The part of the audit: suspicions, look_first, histograms, scripts. path: the checked table."""
        odd = self._of_the_whole(table, path)
        first = {kind: rows[:NAMED].tolist() for kind, rows in odd.items()}
        shown = _choose(odd, table)
        otherwise = "a large difference in length" if len(self.sides) == 2 else "one of the longest"
        texts = rows_at(path, {*chain(*first.values()), *shown}, ["id", "_place", *TEXTS[table.kind]])
        return {
            "suspicions": [
                {
                    "kind": kind,
                    "words": KINDS[kind] + (self.uncompared if kind == "near" else ""),
                    "rows": len(rows),
                    "first": [_named(texts[index]) for index in first[kind]],
                }
                for kind, rows in odd.items()
            ],
            "look_first": [
                {
                    **_named(texts[index]),
                    "odd": bool(kinds),
                    "why": [KINDS[kind] for kind in kinds] or [otherwise],
                    "texts": {name: shortened(texts[index][name]) for name in TEXTS[table.kind]},
                }
                for index, kinds in shown.items()
            ],
            "histograms": histograms(table) | ({"common_words": _counts(self.common)} if any(self.common) else {}),
            "scripts": dict(sorted(self.scripts.items())),
        }

    def _of_the_whole(self, table: Table, path: str | Path) -> dict[str, np.ndarray]:
        """Kind -> rows, by all rows together, in the order of KINDS."""
        found = {kind: np.frombuffer(rows, dtype="int64") for kind, rows in self.found.items()}
        if len(found.get("unended", [])) > RARE * self.rows:
            del found["unended"]
        found["long"] = np.unique(np.concatenate([_outliers(lengths) for lengths in table.lengths.values()]))
        pairs = candidates(self.signatures.keys(), table.prompts)

        def read(rows: np.ndarray) -> dict[int, str]:
            return {row: normalise(texts["prompt"]) for row, texts in rows_at(path, rows.tolist(), ["prompt"]).items()}

        found["near"] = np.array(sorted(near_rows(pairs, read)), dtype="int64")
        self.uncompared = f"; {len(pairs) - MOST} more candidates were not compared" if len(pairs) > MOST else ""
        return {kind: found[kind] for kind in KINDS if len(found.get(kind, ()))}


def _named(row: dict) -> dict[str, str]:
    """A row's id, and where it stood, without folders."""
    return {"id": row["id"], "place": row["_place"].rpartition("/")[2]}


def _outliers(lengths: array) -> np.ndarray:
    values = np.frombuffer(lengths, dtype="int64")
    return np.flatnonzero(values > max(2000, 10 * np.quantile(values, 0.95)))


def _choose(odd: dict[str, np.ndarray], table: Table) -> dict[int, list[str]]:
    """FIRST rows, with the kinds of each: some of every kind, those of several kinds first; then the most unequal.

    The pairs of the largest difference in length, or the longest texts, are of no kind: they come where few are odd.
    """
    kinds = np.zeros(len(table), dtype="uint8")
    for rows in odd.values():
        kinds[rows] += 1
    by_kind = [rows[np.argsort(-kinds[rows].astype("int8"), kind="stable")][:FIRST].tolist() for rows in odd.values()]
    chosen = dict.fromkeys(row for row in chain(*zip_longest(*by_kind)) if row is not None)
    lengths = [np.frombuffer(table.lengths[name], dtype="int64") for name in table.texts]
    sizes = np.abs(lengths[1] - lengths[2]) if len(lengths) == 3 else lengths[-1]
    chosen |= dict.fromkeys(row for row in np.argsort(-sizes, kind="stable")[:FIRST].tolist() if row not in chosen)
    return {row: [kind for kind, rows in odd.items() if row in rows] for row in list(chosen)[:FIRST]}


def histograms(table: Table) -> dict[str, dict]:
    """Of the characters of each text, and of chosen minus rejected: the edges of BINS bins, and counts.

    The 0.5% at either end are counted in the first and the last bin; "min" and "max" tell how far they go.
    """
    found = {name: np.frombuffer(lengths, dtype="int64") for name, lengths in table.lengths.items()}
    if table.kind == "pairs":
        found["chosen_minus_rejected"] = found["chosen"] - found["rejected"]
    return {name: _histogram(values) for name, values in found.items()}


def _histogram(values: np.ndarray) -> dict:
    low, high = (float(np.quantile(values, share)) for share in (0.005, 0.995))
    width = max(1, int(np.ceil((high - low) / BINS)))
    start = int(np.floor(low / width)) * width
    edges = np.arange(start, start + width * (BINS + 1) + 1, width)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "min": int(values.min()), "max": int(values.max())}


def _counts(values: Iterable[int]) -> dict:
    counts = list(values)
    last = max(number for number, count in enumerate(counts) if count)
    return {"edges": list(range(last + 2)), "counts": counts[: last + 1], "min": 0, "max": last}


def shortened(text: str) -> str:
    """A text, or of a long one its head and its tail."""
    left_out = len(text) - HEAD - TAIL
    return text if left_out <= 0 else f"{text[:HEAD]} [... {left_out} characters ...] {text[-TAIL:]}"
