"""Near-duplicates inside one data set: MinHash (Broder 1997) finds candidates, their texts decide.

The signature of a prompt's word 5-grams is cut into BANDS keys. Two prompts that share a key are compared exactly; of
those with a Jaccard index of 0.8, 95% share one, with 0.9 all but one in 10 000. So what is told is right, and a few
may go unseen. Between held-out and training prompts nothing may: see arms.data.leakage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from arms.data.leakage import is_near, word_shingles

BANDS, ROWS = 16, 8  # keys of a prompt, and values of its signature in each
WAITING = 500  # prompts whose signatures are made at once
MOST = 20_000  # pairs of prompts that are compared at the end
FACTORS = np.random.default_rng(0).integers(1, 2**63, ROWS // 2, dtype="uint64") * 2 + 1


class Signatures:
    """The keys of prompts, one after another: 8 * BANDS bytes each."""

    def __init__(self) -> None:
        self.found = bytearray()
        self.waiting: list[list[str]] = []

    def add(self, shingles: list[str]) -> None:
        """One prompt, by its word 5-grams."""
        self.waiting.append(shingles)
        if len(self.waiting) == WAITING:
            self._make()

    def keys(self) -> np.ndarray:
        """(n, BANDS) of dtype uint64."""
        self._make()
        return np.frombuffer(bytes(self.found), dtype="uint64").reshape(-1, BANDS)

    def _make(self) -> None:
        from rensa import RMinHash

        if self.waiting:
            made = RMinHash.digest_matrix_from_token_sets(self.waiting, num_perm=BANDS * ROWS, seed=1)
            values = np.array(made.to_rows(), dtype="uint32").view("uint64").reshape(-1, BANDS, ROWS // 2)
            self.found += (values * FACTORS).sum(axis=2, dtype="uint64").tobytes()
            self.waiting = []


def candidates(keys: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """(m, 2): rows that share a key with an earlier row, and that row: the first one and the last before it.

    prompts: digests (n,), of which equal ones count once, where they are first.
    """
    distinct = np.sort(np.unique(prompts, return_index=True)[1])
    found = []
    for band in keys[distinct].T:
        order = np.argsort(band, kind="stable")
        starts = np.append(True, band[order][1:] != band[order][:-1])
        group = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        later = np.flatnonzero(~starts)
        found += [np.stack([order[later], order[other]], axis=1) for other in (group[later], later - 1)]
    return distinct[np.unique(np.concatenate(found), axis=0)]


def near_rows(pairs: np.ndarray, read: Callable[[np.ndarray], dict[int, str]]) -> dict[int, int]:
    """Row -> the first row before it whose prompt it nearly has, of some `candidates`.

    read: gives the normalised prompts of rows. Only the first MOST pairs are compared.
    """
    pairs = pairs[:MOST]
    sets = {row: word_shingles(text) for row, text in read(np.unique(pairs)).items()}
    found: dict[int, int] = {}
    for row, other in pairs.tolist():
        if row not in found and is_near(sets[row], sets[other]):
            found[row] = other
    return found
