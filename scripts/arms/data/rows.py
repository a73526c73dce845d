"""The rows of a study in one layout, whatever layout they came in, and the checked table of them that all jobs read.

A checked table (results/<study>/data/*.parquet) has the columns of `schema`: texts, id, category, and where each row
stood in the user's own file (_row, its line or row; _place, that in words). A prompt of more than one turn is in
`_turns` (role and content of each, the system turn included); `prompt` is then its texts but for the system turn's.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import atomic_path, canonical_json, sha256_bytes

if TYPE_CHECKING:
    import pyarrow

# kind of rows: their texts, and the columns that they have beside these, id and category
TEXTS = {"sft": ("prompt", "completion"), "pairs": ("prompt", "chosen", "rejected"), "prompts": ("prompt",)}
OTHERS: dict[str, dict[str, type]] = {
    "sft": {},
    "pairs": {"negative": str},
    "prompts": {"instruction_id_list": list, "kwargs": list, "grader": dict},
}
OPTIONAL = ("negative", "instruction_id_list", "kwargs", "grader")  # how a prompt is graded, graders.py checks
ONE_CATEGORY = "all"  # of rows that name none
FLUSH_ROWS, FLUSH_CHARACTERS = 5000, 2**24  # of a row group


class BadRow(Exception):
    """What is wrong with one row, and the cure."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")
        self.problem, self.cure = problem, cure


def complete(row: dict, kind: str) -> dict:
    """A user's row in our layout: every column of its kind, and an id and a category if it has none.

    An id is made of the row's texts, so it stays when rows are moved; whole numbers become text. Raises BadRow.
    """
    made = {"_row": row["_row"], "_place": row["_place"]}
    wanted: dict[str, type] = {**dict.fromkeys(("prompt", *TEXTS[kind][1:]), str), **OTHERS[kind]}
    for name, type_ in wanted.items():
        made[name] = _value(row, name, type_, wanted)
    for name in ("id", "category", "cluster_id"):
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str | None):
            raise BadRow(f"column {name!r} must be a string, found {type(value).__name__}", "quote it")
        made[name] = value
    made["_turns"] = row.get("_turns")
    made["id"] = made["id"] if made["id"] is not None else content_id(made, kind)
    made["category"] = made["category"] if made["category"] is not None else ONE_CATEGORY
    for name in ("id", "category", *TEXTS[kind]):
        _check_text(name, made[name])
    return made


def _value(row: dict, name: str, type_: type, wanted: dict[str, type]) -> object:
    value = row.get(name)
    if type_ is not str and isinstance(value, str):  # of a checked table, or a cell of a CSV file
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if value is None and name in OPTIONAL:
        return None
    if value is None:
        lacks = "is empty (null)" if name in row else "is missing"
        found = ", ".join(repr(key) for key in row if not key.startswith("_"))
        raise BadRow(
            f"column {name!r} {lacks} (found: {found}); every row needs {', '.join(map(repr, wanted))}",
            "add it or remove the row",
        )
    if not isinstance(value, type_):
        found = f"found {type(value).__name__} {str(value)[:40]!r}"
        raise BadRow(f"column {name!r} must be {type_.__name__}, {found}", "correct it or remove the row")
    if isinstance(value, dict):  # a parquet file has every row's keys in every row
        return {key: inner for key, inner in value.items() if inner is not None}
    return value


def _check_text(name: str, text: str) -> None:
    if not any(letter.isprintable() and not letter.isspace() for letter in text):
        if text.strip():
            raise BadRow(f"{name!r} has only characters that nobody sees", "fill it in or remove the row")
        raise BadRow(f"{name!r} is empty or only white space", "fill it in or remove the row")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadRow(
            f"{name!r} holds half of a surrogate pair, which is no character", "write the character itself in UTF-8"
        )
    if "\0" in text:
        raise BadRow(f"{name!r} holds the character NUL", "remove it")


def whole_prompt(row: dict) -> str:
    """The prompt with every turn, system turn included: two rows with the same are about the same."""
    return canonical_json(row["_turns"]) if row["_turns"] else row["prompt"]


def content_id(row: dict, kind: str) -> str:
    """An id made of a row's texts: 16 hexadecimal digits of their sha256."""
    texts = canonical_json([whole_prompt(row), *(row[name] for name in TEXTS[kind][1:])])
    return sha256_bytes(texts.encode("utf-8", "surrogatepass"))[:16]


def schema(kind: str) -> pyarrow.Schema:
    """Columns of the checked table of one kind of rows."""
    import pyarrow as pa

    others = [(name, pa.string()) for name in OTHERS[kind]]  # lists and objects as JSON: they differ from row to row
    texts = [(name, pa.string()) for name in ("id", "category", *TEXTS[kind])]
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    where = [("_row", pa.int64()), ("_place", pa.string())]
    return pa.schema([*texts, *others, ("_turns", turns), ("cluster_id", pa.string()), *where])


class Writer:
    """Writes a checked table row by row, a row group at a time."""

    def __init__(self, path: Path, kind: str) -> None:
        import pyarrow.parquet

        self.schema = schema(kind)
        self.as_json = [name for name, type_ in OTHERS[kind].items() if type_ is not str]
        self.texts = TEXTS[kind]
        self.file = pyarrow.parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.waiting: list[dict] = []
        self.characters = 0

    def add(self, row: dict, _prompt: object = None) -> None:
        """One row, as `complete` gives it."""
        self.waiting.append(row | {name: canonical_json(row[name]) for name in self.as_json if row[name] is not None})
        self.characters += sum(len(row[name]) for name in self.texts)
        if len(self.waiting) == FLUSH_ROWS or self.characters > FLUSH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        import pyarrow

        if self.waiting:
            self.file.write_table(pyarrow.Table.from_pylist(self.waiting, schema=self.schema))
        self.waiting, self.characters = [], 0


def rows_at(path: str | Path, wanted: Iterable[int], columns: list[str]) -> dict[int, dict]:
    """Some rows of a checked table, by their place in it (0 is the first); only row groups that have one are read."""
    import pyarrow.parquet

    found: dict[int, dict] = {}
    places, start = sorted(wanted), 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = places[bisect.bisect_left(places, start) : bisect.bisect_left(places, end)]
            if here:
                rows = file.read_row_group(group, columns=columns).take([place - start for place in here]).to_pylist()
                found |= dict(zip(here, rows, strict=True))
            start = end
    return found


@contextlib.contextmanager
def writing(path: str | Path, kind: str) -> Iterator[Writer]:
    """A Writer of the checked table `path`, which takes its place when the block ends without an error."""
    with atomic_path(path) as temporary:
        writer = Writer(temporary, kind)
        with writer.file:
            yield writer
            writer.flush()
