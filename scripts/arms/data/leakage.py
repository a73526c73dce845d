"""What is trained on and held out at once: equal prompts, and prompts that nearly are.

Two prompts are equal if they are after `normalise`. They nearly are if the Jaccard index of their sets of word 5-grams
is at least NEAR.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

SHINGLE = 5  # words
NEAR = 0.8  # Jaccard similarity of word 5-grams from which two prompts count as near-duplicates
TENTHS = 8  # NEAR in tenths: bounds on counts must be exact


def normalise(text: str) -> str:
    """A text as the leakage check sees it: Unicode NFKC, case folded, every run of white space one space.

    >>> normalise("  Write\\u00a0THREE ﬁsh ")
    'write three fish'
    """
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


def digest(*texts: str) -> bytes:
    """16 bytes that stand for some texts: BLAKE2b. Of 10^9 texts two would collide with probability 10^-21."""
    joined = "\0".join(texts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(normal: str) -> list[str]:
    """The word 5-grams of a normalised text, in order; all its words if it has fewer.

    >>> shingles("one two three four five six")
    ['one two three four five', 'two three four five six']
    """
    words = normal.split(" ")
    return list(map(" ".join, zip(*(words[start:] for start in range(SHINGLE)), strict=False))) or [normal]


def word_shingles(normal: str) -> set[int]:
    """The set of word 5-grams of a normalised text, as hashes of this process.

    >>> len(word_shingles("one two three four five six")), len(word_shingles("one two"))
    (2, 1)
    """
    return set(map(hash, shingles(normal)))


def is_near(own: set[int], other: set[int]) -> bool:
    """Whether the Jaccard index of two sets is at least NEAR."""
    shared = len(own & other)
    return 10 * shared >= TENTHS * (len(own) + len(other) - shared)


class Prompt:
    """A prompt as the checks compare it: normalised; its word 5-grams in order, and as a set of hashes."""

    def __init__(self, text: str) -> None:
        self.normal = normalise(text)

    @functools.cached_property
    def shingles(self) -> list[str]:
        """Its word 5-grams, made when they are asked for."""
        return shingles(self.normal)

    @functools.cached_property
    def hashes(self) -> set[int]:
        """The set of their hashes."""
        return set(map(hash, self.shingles))


def fewest_shared(size: int) -> int:
    """How many of its `size` shingles a set must at least share with another to reach NEAR: ceil(NEAR * size)."""
    return -(-TENTHS * size // 10)


class NearDuplicates:
    """For each held-out prompt the first training prompt, in file order, that nearly is it: all of them, exactly.

    Every held-out prompt is indexed under its rarest shingles only, as many as cannot all be missing from a set that
    reaches NEAR (prefix filtering: Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007). A training prompt
    is compared with those that it meets there, so what many prompts begin with costs nothing, and one that shares too
    few shingles with all held-out prompts together is compared with none. Memory follows the held-out prompts alone.
    """

    def __init__(self, heldout: Iterable[tuple[str, str]]) -> None:
        """heldout: (id, normalised prompt) of each."""
        self.ids: list[list[str]] = []  # of the rows that share a prompt
        self.shingles: list[set[int]] = []
        seen: dict[str, int] = {}
        for name, normal in heldout:
            if normal not in seen:
                seen[normal] = len(self.ids)
                self.ids.append([])
                self.shingles.append(word_shingles(normal))
            self.ids[seen[normal]].append(name)
        self.count = Counter(shingle for own in self.shingles for shingle in own)
        self.holders: dict[int, list[int]] = defaultdict(list)
        for index, own in enumerate(self.shingles):
            for shingle in self._prefix(own, own):
                self.holders[shingle].append(index)
        self.found: dict[int, tuple[str, float]] = {}

    def _prefix(self, known: set[int], own: set[int]) -> list[int]:
        """The rarest of the set `own`, as many as cannot all be missing; what no held-out prompt has is rarer still."""
        length = len(own) - fewest_shared(len(own)) + 1 - (len(own) - len(known))
        return sorted(known, key=lambda shingle: (self.count[shingle], shingle))[:length] if length > 0 else []

    def compare(self, row: dict, prompt: Prompt) -> None:
        """Look for a training row's prompt among the held-out prompts that have no match yet."""
        own = prompt.hashes
        known = own & self.count.keys()
        if not known:
            return
        for shingle in self._prefix(known, own):
            waiting = self.holders.get(shingle)
            if not waiting:
                continue
            for index in waiting:
                if index not in self.found:
                    other = self.shingles[index]
                    if is_near(own, other):
                        self.found[index] = (row["id"], len(own & other) / len(own | other))
            waiting[:] = [index for index in waiting if index not in self.found]

    def matches(self) -> list[dict]:
        """heldout_id, training_id and similarity (rounded to three digits) of every match, the closest first."""
        entries = [
            {"heldout_id": heldout, "training_id": training, "similarity": round(similarity, 3)}
            for index, (training, similarity) in self.found.items()
            for heldout in self.ids[index]
        ]
        return sorted(entries, key=lambda entry: (-entry["similarity"], entry["heldout_id"]))
