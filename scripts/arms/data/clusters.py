"""Clusters of prompts that must not be parted: equal ones, and what a chain of near-duplicates connects. All, exactly.

The join is that of arms.data.leakage, of a set with itself: two sets of shingles that reach NEAR share one of the
rarest shingles of each (prefix filtering), and sets most of whose shingles nobody else has are compared with none.
Which shingle stands for which words does not matter to the result, nor does the order of the rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from arms.data.leakage import TENTHS, digest, is_near, word_shingles

CHUNK = 2**20  # shingles that are looked up at once


class Forest:
    """Groups of whole numbers that grow together (union-find; Tarjan 1975)."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def add(self) -> int:
        """One more, in a group of its own."""
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def root(self, one: int) -> int:
        """What stands for the group of `one`."""
        while self.parent[one] != one:
            self.parent[one] = one = self.parent[self.parent[one]]
        return one

    def join(self, one: int, other: int) -> None:
        """Make their groups one, which the smaller number stands for."""
        one, other = sorted((self.root(one), self.root(other)))
        self.parent[other] = one


class Clusters:
    """Takes prompts one after another; of each distinct one its shingles are kept, 8 bytes a word."""

    def __init__(self) -> None:
        self.forest = Forest()
        self.seen: dict[bytes, int] = {}  # digest of a normalised prompt, or of a cluster's name: its number
        self.shingles, self.ends, self.numbers = array("q"), array("q", [0]), array("q")

    def add(self, normal: str, name: str | None = None) -> int:
        """The number of a normalised prompt, for `labels`. name: rows of the same are kept together too."""
        key = digest("prompt", normal)
        if key not in self.seen:
            self.seen[key] = self.forest.add()
            self.shingles.extend(word_shingles(normal))
            self.ends.append(len(self.shingles))
            self.numbers.append(self.seen[key])
        if name is not None:
            other = digest("cluster", name)
            if other not in self.seen:
                self.seen[other] = self.forest.add()
            self.forest.join(self.seen[key], self.seen[other])
        return self.seen[key]

    def labels(self, numbers: Iterable[int]) -> list[int]:
        """For each of `numbers` the cluster that it is in, by a number that stands for it. After the last `add`."""
        if self.shingles:
            self._join()
            self.shingles, self.ends = array("q"), array("q", [0])
        return [self.forest.root(number) for number in numbers]

    def _join(self) -> None:
        """Join the groups of all prompts that are near-duplicates."""
        flat, ends = np.frombuffer(self.shingles, dtype="int64"), np.frombuffer(self.ends, dtype="int64")
        sizes = np.diff(ends)
        owners, count = np.repeat(np.arange(len(sizes), dtype="int32"), sizes), occurrences(flat)
        least = -(-TENTHS * sizes // 10)  # of its shingles, how many a set must share to reach NEAR
        enough = np.bincount(owners[count > 1], minlength=len(sizes)) >= least
        kept = np.flatnonzero(enough[owners])
        kept = kept[np.lexsort((flat[kept], count[kept], owners[kept]))]  # row by row, what fewest have first
        first = np.append(True, np.diff(owners[kept]) != 0)
        place = np.arange(len(kept)) - np.maximum.accumulate(np.where(first, np.arange(len(kept)), 0))
        prefix = kept[(count[kept] > 1) & (place < (sizes - least + 1)[owners[kept]])]
        prefix = prefix[np.lexsort((owners[prefix], flat[prefix]))]
        starts = np.flatnonzero(np.diff(flat[prefix]) != 0) + 1
        for group in np.split(owners[prefix], starts):
            if len(group) > 1:
                self._compare(group.tolist(), flat, ends)

    def _compare(self, rows: list[int], flat: np.ndarray, ends: np.ndarray) -> None:
        """Join the prompts among `rows` that are near-duplicates; what is in one group already is not compared."""
        groups: dict[int, list[set[int]]] = {}
        for row in rows:
            own, number = set(flat[ends[row] : ends[row + 1]].tolist()), self.numbers[row]
            home = groups.pop(self.forest.root(number), [])
            for root in [root for root, sets in groups.items() if any(is_near(own, other) for other in sets)]:
                self.forest.join(root, number)
                joined = groups.pop(root)
                joined += home
                home = joined
            home.append(own)
            groups[self.forest.root(number)] = home


def occurrences(values: np.ndarray) -> np.ndarray:
    """How often each of `values` is there: (n,) of dtype int32. Takes 13 bytes a value beside it."""
    ordered = np.sort(values)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    counts = np.searchsorted(ordered, shared, side="right") - np.searchsorted(ordered, shared)
    found = np.ones(len(values), dtype="int32")
    for start in range(0, len(values) if len(shared) else 0, CHUNK):
        part = values[start : start + CHUNK]
        place = np.minimum(np.searchsorted(shared, part), len(shared) - 1)
        found[start : start + CHUNK] = np.where(shared[place] == part, counts[place], 1)
    return found
