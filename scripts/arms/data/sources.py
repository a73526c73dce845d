"""Data sets as their owner has them, in whatever layout and place: row by row, turned into ours."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from arms.data.hub import hub_rows
from arms.data.layouts import LAYOUTS, margin, recognise, without_tools
from arms.data.rows import BadRow, complete
from arms.data.split import Split, ids_sha256
from arms.job.files import UserError
from arms.job.formats import read_rows
from study.datasets import DATA

SHOWN = 5  # rows in a note


class DataSet:
    """Rows of one kind. words: what messages call it. layout: that of its rows, None before the first."""

    words: str
    kind: str
    layout: str | None

    def rows(self) -> Iterator[dict]:
        """The rows as they are, each with "_row" and "_place" (`arms.job.formats.read_rows`)."""
        raise NotImplementedError

    def complete(self, row: dict) -> dict:
        """One of them in our layout; BadRow if it is bad, UserError if it is the first and of no known layout."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """In words, what of the rows was left out; after the last of them."""
        return []

    def facts(self, ids: bytes) -> dict:
        """What the audit says of where the rows come from. ids: their ids' digests, 16 bytes each."""
        return {}

    def facts_in_words(self) -> list[str]:
        """The same for the log."""
        return []


class Source(DataSet):
    """A data set as its owner has it; `layout` is known from its first row on.

    spec: its file or folder, or a dict with path, or with hub, revision, split and config (`hub_rows`); and, where its
    columns do not tell, layout (a name in LAYOUTS) or columns (our name -> theirs); of pairs also min_margin; sample
    (so many rows, drawn without replacement by seed). UserError for a layout that rows of this kind do not have.
    """

    def __init__(self, spec: str | Path | dict, kind: str) -> None:
        self.spec: dict = spec if isinstance(spec, dict) else {"path": spec}
        self.kind, self.layout = kind, self.spec.get("layout")
        self.ours = {theirs: ours for ours, theirs in (self.spec.get("columns") or {}).items()}
        self.left_out = 0  # pairs so far whose scores differ too little
        self.too_long = 0  # rows so far whose texts have too many characters
        self.tool_turns, self.tool_rows = 0, list[str]()  # turns of tools, and places of rows that end in one
        self.drawn: set[int] | None = None  # places of the rows that are used, None: of all
        self.count = -1  # of the rows that they are drawn from, once they were counted
        self.words = str(self.spec.get("path") or self.spec["hub"])
        if self.layout is not None and self.layout not in LAYOUTS[kind]:
            raise UserError(f"{self.words}: no layout {self.layout!r} of such rows; choose {', '.join(LAYOUTS[kind])}")

    def rows(self) -> Iterator[dict]:
        """Those of `all_rows` that are drawn, in their order."""
        if self.drawn is None and "sample" in self.spec:
            self.draw(self.spec["sample"], self.spec.get("seed", 0))
        for place, row in enumerate(self.all_rows()):
            if self.drawn is None or place in self.drawn:
                yield row

    def draw(self, sample: int, seed: int) -> None:
        """Choose so many rows by a seed; UserError if there are fewer."""
        if sample > self.counted():
            raise UserError(
                f"{self.words}: a sample of {sample} rows is asked for, and there are {self.count}; lower it"
            )
        self.drawn = set(np.random.default_rng(seed).permutation(self.count)[:sample].tolist())

    def counted(self) -> int:
        """How many rows there are to draw from; read for that once."""
        if self.count < 0:
            self.count = sum(1 for _ in self.all_rows())
        return self.count

    def all_rows(self) -> Iterator[dict]:
        """The rows as they are, but for columns that the config renames, turns of tools, and rows that are left out.

        Raises UserError as `read_rows`, `hub_rows` and `margin` do, and if no row is left.
        """
        self.left_out, self.too_long, self.tool_turns, self.tool_rows = 0, 0, 0, []
        least, most, kept = self.spec.get("min_margin"), self.spec.get("max_characters"), 0
        for row in read_rows(self.spec["path"]) if "path" in self.spec else hub_rows(self.spec):
            row = {self.ours.get(name, name): value for name, value in row.items()} if self.ours else row
            row, turns, ends_in_one = without_tools(row, self.kind)
            self.tool_turns += turns
            if ends_in_one:
                self.tool_rows.append(str(row.get("id") or row["_place"]))
            elif least is not None and margin(row) < least:
                self.left_out += 1
            elif most is not None and characters(row) > most:
                self.too_long += 1
            else:
                kept += 1
                yield row
        if not kept:
            raise UserError(f"no row is left. {'; '.join(self.notes())}")

    def complete(self, row: dict) -> dict:
        """A row in our layout; BadRow if it is bad, UserError if it is the first and of no known layout."""
        if self.layout is None:
            self.layout = recognise(row, self.kind, self.words)
        layout = LAYOUTS[self.kind][self.layout]
        if layout.fits(row):
            row = layout.convert(row)
        elif self.layout != "text":
            lacking = next(name for name, type_ in layout.columns.items() if not isinstance(row.get(name), type_))
            raise BadRow(f"column {lacking!r} is missing or not as in the rows before", "correct the row or remove it")
        return complete(row, self.kind)

    def notes(self) -> list[str]:
        """What `min_margin` and `max_characters` left out, and what of tools is ignored."""
        found = []
        if self.left_out:
            least = self.spec["min_margin"]
            found.append(f"{self.left_out} pairs are left out, whose scores differ by less than {least}")
        if self.too_long:
            most = self.spec["max_characters"]
            found.append(f"{self.too_long} rows are left out, whose texts have more than {most} characters")
        if self.tool_turns:
            found.append(f"{self.tool_turns} turns of tools, or that call one, are ignored")
        if self.tool_rows:
            shown = f"{', '.join(self.tool_rows[:SHOWN])}{', ...' * (len(self.tool_rows) > SHOWN)}"
            found.append(f"{len(self.tool_rows)} rows are left out, whose answer calls a tool or is one's: {shown}")
        return [f"{self.words}: {note}" for note in found]

    def facts(self, ids: bytes) -> dict:
        """The turns of tools, and ids (without one, places) of all rows that were left out for them."""
        return {"tools": {"turns": self.tool_turns, "left_out": self.tool_rows}} if self.tool_turns else {}


def characters(value: object) -> int:
    """How many characters all texts of a row have together, those of conversations included."""
    if isinstance(value, dict):
        return sum(characters(one) for key, one in value.items() if not key.startswith("_"))
    if isinstance(value, list | tuple):
        return sum(map(characters, value))
    return len(value) if isinstance(value, str) else 0


class Mixture(DataSet):
    """Rows of several data sets, each with its share: drawn without replacement, one data set after the other.

    spec: mix (a list of specs of `Source`, each with name and weight), sample (how many rows in all; as many as the
    weights allow without it), seed. A row's id is its data set's name, "/" and its own id.
    """

    def __init__(self, spec: dict, kind: str) -> None:
        self.spec, self.kind, self.layout = spec, kind, None
        self.members = [Source(one, kind) for one in spec["mix"]]
        self.names = [one["name"] for one in spec["mix"]]
        self.words = " + ".join(member.words for member in self.members)
        self.taken: Counter[str] = Counter()

    def rows(self) -> Iterator[dict]:
        """Rows with "_source", the place of their data set in `mix`. UserError for weights that cannot be had."""
        counts = [member.counted() for member in self.members]
        weights = [Fraction(str(one["weight"])) for one in self.spec["mix"]]
        shares = self._shares(counts, weights)
        for number, (member, share) in enumerate(zip(self.members, shares, strict=True)):
            if member.drawn is None:
                member.draw(share, self.spec.get("seed", 0))
            for row in member.rows():
                yield {**row, "_source": number}

    def _shares(self, counts: list[int], weights: list[Fraction]) -> list[int]:
        """How many rows of each: what its weight gives it, the largest remainders rounded up."""
        most = int(min(count * sum(weights) / weight for count, weight in zip(counts, weights, strict=True)))
        wanted = self.spec.get("sample", most)
        exact = [wanted * weight / sum(weights) for weight in weights]
        shares = [int(share) for share in exact]
        largest = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
        for place in largest[: wanted - sum(shares)]:
            shares[place] += 1
        for name, share, count in zip(self.names, shares, counts, strict=True):
            if share > count:
                raise UserError(
                    f"{self.words}: by its weight {share} of {wanted} rows are to come from {name!r}, which has "
                    f"{count}; lower its weight, or sample to at most {most}"
                )
            if not share:
                raise UserError(f"{self.words}: by its weight no row of {wanted} comes from {name!r}; raise it")
        return shares

    def complete(self, row: dict) -> dict:
        """As its data set does it, with an id that no row of another has."""
        name, member = self.names[row["_source"]], self.members[row["_source"]]
        made = member.complete(row)
        self.taken[name] += 1
        self.layout = " and ".join(dict.fromkeys(one.layout for one in self.members if one.layout))
        return {**made, "id": f"{name}/{made['id']}"}

    def notes(self) -> list[str]:
        """Those of its data sets."""
        return [note for member in self.members for note in member.notes()]

    def facts(self, ids: bytes) -> dict:
        """Rows, weight and all rows of each data set."""
        facts = zip(self.names, self.spec["mix"], self.members, strict=True)
        return {
            "sources": {
                name: {"rows": self.taken[name], "weight": one["weight"], "of": member.count, **member.facts(b"")}
                for name, one, member in facts
            }
        }

    def facts_in_words(self) -> list[str]:
        """The same for the log."""
        parts = (
            f"{self.taken[name]} of {member.count} of {name}"
            for name, member in zip(self.names, self.members, strict=True)
        )
        return [f"a mixture: {', '.join(parts)}"]


class Part(DataSet):
    """The rows that one part of a split has: the same in every job, whichever asks first.

    spec: part (training, heldout, development), of (the data set that it is split off), among (every data set whose
    prompts are kept together, name -> its spec), and how to split (`arms.data.split.Split`).
    """

    def __init__(self, spec: dict, kind: str) -> None:
        self.spec, self.whole = spec, open_source(spec["among"][spec["of"]], kind)
        self.words, self.kind, self.layout = self.whole.words, kind, self.whole.layout

    @functools.cached_property
    def split(self) -> Split:
        """The split; every data set of it is read for that."""
        return split_of(json.dumps(self.spec["among"]), json.dumps(self.spec["split"]))

    def rows(self) -> Iterator[dict]:
        """Those of the whole data set that are in this part."""
        parts = self.split.parts[self.spec["of"]]
        for number, row in enumerate(self.whole.rows()):
            if number >= len(parts):
                raise UserError(f"{row['_place']}: the file grew while it was read; run the command again")
            if parts[number] == self.spec["part"]:
                yield row

    def complete(self, row: dict) -> dict:
        """As the whole data set does it."""
        made, self.layout = self.whole.complete(row), self.whole.layout
        return made

    def notes(self) -> list[str]:
        """Those of the whole data set, and what the split left out."""
        gone = self.split.left_out if self.spec["of"] == "sft" else []
        more = f"{self.words}: {len(gone)} SFT rows are left out, whose prompts are held out or set aside"
        return [*self.whole.notes(), *([more] if gone else [])]

    def facts(self, ids: bytes) -> dict:
        """What each part of the split has, which part this is, and what it really has, for `snakemake verify`."""
        own = ids_sha256(ids[start : start + 16] for start in range(0, len(ids), 16))
        left_out = {"left_out": self.split.left_out} if self.spec["of"] == "sft" else {}
        return {
            **self.whole.facts(ids),
            "split": {"part": self.spec["part"], "ids_sha256": own, "parts": self.split.facts, **left_out},
        }

    def facts_in_words(self) -> list[str]:
        """The same for the log."""
        parts = (
            f"{part} {facts['rows']} rows ({facts['clusters']} clusters)" for part, facts in self.split.facts.items()
        )
        return [*self.whole.facts_in_words(), f"split by prompt: {', '.join(parts)}"]


@functools.cache
def split_of(among: str, settings: str) -> Split:
    """The split of some data sets, once in a process. Both are JSON."""
    return Split(
        {name: open_source(spec, DATA[name]) for name, spec in json.loads(among).items()}, json.loads(settings)
    )


def open_source(spec: str | Path | dict, kind: str) -> DataSet:
    """The data set that a spec describes: one, a mixture of several, or one part of a split."""
    if isinstance(spec, dict) and "part" in spec:
        return Part(spec, kind)
    return Mixture(spec, kind) if isinstance(spec, dict) and "mix" in spec else Source(spec, kind)


def read_checked(spec: str | Path | dict, kind: str, check: Callable[[dict], None] | None = None) -> Iterator[dict]:
    """The rows of a data set in our layout, such as those of a checked table; UserError for the first that is bad."""
    source = open_source(spec, kind)
    for row in source.rows():
        try:
            made = source.complete(row)
            if check:
                check(made)
        except BadRow as bad:
            raise UserError(f"{row['_place']}: {bad}") from None
        yield made
