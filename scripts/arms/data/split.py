"""Rows held out, or set aside for development, of pairs that came without: whole clusters of prompts, by a seed.

Which cluster goes where follows from its prompts and the seed alone, whatever the order of rows and jobs.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol

from arms.data.clusters import Clusters
from arms.data.leakage import digest, normalise
from arms.data.rows import BadRow
from arms.job.files import UserError

TRAINING, APART = "training", ("heldout", "development")
ORIGIN = "pairs"  # the data set whose rows are held out


class Rows(Protocol):
    """A data set: rows as they are, and each in our layout."""

    words: str

    def rows(self) -> Iterator[dict]:
        """Its rows."""

    def complete(self, row: dict) -> dict:
        """One in our layout; BadRow if it is bad."""


class Split:
    """Which part each row of some data sets belongs to.

    sources: ORIGIN and any others, by name. settings: {part: {fraction or rows, seed}} of one part of APART or both.

    Rows whose prompts are equal or near-duplicates (`arms.data.clusters`), or that have the same cluster_id, are a
    cluster. In an order that the seed makes, clusters are taken for a part while they fit: a larger one than the part
    still needs is passed over. Rows of the other data sets that belong to a cluster set apart are left out of training.
    Bad rows stay in training, where they are told. UserError for a part without a row.

    parts: of each data set the part of each row, None for one that is left out. left_out: ids of these.
    """

    def __init__(self, sources: dict[str, Rows], settings: dict[str, dict]) -> None:
        self.settings, self.words = settings, sources[ORIGIN].words
        clusters, numbers = Clusters(), {}
        ids: dict[str, list[str]] = {}
        self.keys: dict[int, bytes] = {}  # digest of each of the origin's prompts
        for name in sorted(sources, key=lambda name: name != ORIGIN):
            numbers[name], ids[name] = array("q"), []
            for row in sources[name].rows():
                number, row_id = self._add(clusters, sources[name], row, name == ORIGIN)
                numbers[name].append(number)
                ids[name].append(row_id)
        part_of = self._choose(clusters, numbers[ORIGIN])
        labels = {name: clusters.labels(found) for name, found in numbers.items()}
        self.parts: dict[str, list[str | None]] = {
            name: [part_of.get(label, TRAINING) for label in found] for name, found in labels.items()
        }
        self.facts = {
            part: self._facts(part, ids[ORIGIN], self.parts[ORIGIN], labels[ORIGIN]) for part in (TRAINING, *settings)
        }
        self.left_out: list[str] = []
        for name in sources.keys() - {ORIGIN}:
            gone = [number for number, part in enumerate(self.parts[name]) if part != TRAINING]
            self.left_out += [ids[name][number] for number in gone]
            for number in gone:
                self.parts[name][number] = None

    def _add(self, clusters: Clusters, source: Rows, row: dict, is_origin: bool) -> tuple[int, str]:
        """The number of a row's prompt, and its id. A bad row is alone with itself."""
        try:
            made = source.complete(row)
        except BadRow:
            return clusters.forest.add(), ""
        normal = normalise(made["prompt"])
        number = clusters.add(normal, made["cluster_id"])
        if is_origin:
            self.keys.setdefault(number, digest(normal))
        return number, made["id"]

    def _choose(self, clusters: Clusters, rows: Iterable[int]) -> dict[int, str]:
        """Cluster -> part, of those that are set apart. rows: the number of each row's prompt."""
        prompts = list(self.keys)
        labels = dict(zip(prompts, clusters.labels(prompts), strict=True))
        size, keys = Counter(labels[number] for number in rows if number in labels), defaultdict(list)
        for number, label in labels.items():
            keys[label].append(self.keys[number])
        free = {label: min(found) for label, found in keys.items()}
        part_of: dict[int, str] = {}
        for part in APART:
            if part not in self.settings:
                continue
            asked, taken = self.settings[part], 0
            wanted = asked.get("rows") or round(asked["fraction"] * size.total())
            words = f"data.{part}: {wanted} of {size.total()} rows of {self.words}"
            if wanted >= size.total():
                raise UserError(f"{words}, which leaves none to train on; lower data.{part}")
            order = sorted(free, key=lambda label: digest(part, str(asked["seed"]), free[label].hex()))
            for label in order:
                if taken + size[label] <= wanted:
                    taken += size[label]
                    part_of[label] = part
                    del free[label]
            if not taken:
                raise UserError(
                    f"{words} are asked for, and no cluster of prompts is that small ({len(order)} clusters, the "
                    f"smallest of {min((size[label] for label in order), default=0)} rows): prompts that nearly are "
                    f"the same stay together; raise data.{part}, or give data.heldout_pairs a file of its own"
                )
        return part_of

    def _facts(self, part: str, ids: list[str], parts: list[str | None], labels: list[int]) -> dict:
        """What the audit says of one part: what was asked for, rows, clusters, and a digest of its rows' ids."""
        here = [number for number, found in enumerate(parts) if found == part]
        return {
            **self.settings.get(part, {}),
            "rows": len(here),
            "clusters": len({labels[number] for number in here}),
            "ids_sha256": ids_sha256(digest(ids[number]) for number in here),
        }


def ids_sha256(digests: Iterable[bytes]) -> str:
    """What tells two sets of row ids apart: sha256 over the sorted digests (`arms.data.leakage.digest`) of each."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
