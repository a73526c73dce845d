"""The rows of a data file, one after another: JSON Lines or a JSON array (also .gz, .zst), CSV, parquet, Arrow.

What a file is, its first bytes tell. A folder is read as the shards in it, by name. However large a file is, only a few
of its rows are in memory at a time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from arms.job.files import UserError

BATCH = 500  # rows of a table that are Python objects at a time
CHUNK = 2**20  # characters of a JSON array that are read at a time
COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}  # suffix: first bytes
BOM = b"\xef\xbb\xbf"
SHARDS = ("*.parquet", "*.arrow", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst")  # what a folder may hold; one kind counts
KINDS = [  # what else a file may be: its first bytes, words, cure
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself", "run `git lfs pull` where it came from"),
    (b"<!doctype", "a web page, perhaps of a login or an error", "download the file itself"),
    (b"<html", "a web page, perhaps of a login or an error", "download the file itself"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "unpack it and name the file inside, or save it as CSV"),
    (b"BZh", "compressed by bzip2", "unpack it, or compress it as .gz or .zst"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it, or compress it as .gz or .zst"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"\x89PNG", "a picture", "name the file of the data"),
    (b"\xff\xd8\xff", "a picture", "name the file of the data"),
    (b"%PDF", "a PDF", "name the file of the data"),
    (b"\x80\x04", "a Python pickle, which is never opened here", "save the rows as parquet or JSON Lines"),
    (b"\x80\x05", "a Python pickle, which is never opened here", "save the rows as parquet or JSON Lines"),
    (b"\xff\xfe", "text in UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it in UTF-8"),
]
READABLE = "JSON Lines, a JSON array (either also .gz or .zst), CSV, parquet or Arrow"


def read_rows(path: str | Path, columns: dict[str, type] | None = None) -> Iterator[dict]:
    """The rows of the file or folder `path`, each with `columns` (name -> type).

    Beside its own columns a row has "_row", its number in its file (of a text file: the line it begins in; 1 is the
    first), and "_place", file and number in words, unless the file itself has these columns (the checked tables do).
    Raises UserError naming the file, the line and the cure.
    """
    empty = True
    for file in files_of(path):
        unit, rows = _rows_of(file)
        for number, row in rows:
            empty = False
            place = f"{file}, {unit} {number}"
            if not isinstance(row, dict):
                raise UserError(f"{place}: expected a JSON object, found {type(row).__name__}")
            if columns:
                _check_columns(row, columns, place)
            told = isinstance(row.get("_row"), int) and isinstance(row.get("_place"), str)
            yield row if told else {**row, "_row": number, "_place": place}
    if empty:
        raise UserError(f"{path}: the file has no rows")


def files_of(path: str | Path) -> list[Path]:
    """The file itself, or the shards in a folder, by name; UserError if there is none."""
    path = Path(path)
    if path.is_dir():
        for pattern in SHARDS:
            if found := sorted(path.glob(pattern)):
                return found
        raise UserError(f"{path}: no data in this folder (looked for {', '.join(SHARDS)})")
    if not path.is_file():
        raise UserError(f"{path}: no such file; set its path in the config's `data` section")
    return [path]


def _check_columns(row: dict, columns: dict[str, type], place: str) -> None:
    for name, kind in columns.items():
        if name not in row:
            raise UserError(
                f"{place}: column {name!r} is missing (found: {', '.join(map(repr, row))}); "
                f"every row needs {', '.join(map(repr, columns))}"
            )
        if not isinstance(row[name], kind):
            raise UserError(
                f"{place}: column {name!r} must be {kind.__name__}, "
                f"found {type(row[name]).__name__} {str(row[name])[:40]!r}"
            )


def _rows_of(path: Path) -> tuple[str, Iterator[tuple[int, object]]]:
    """What a row's number counts, "line" or "row", and (number, row) one after another."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"PAR1"):
        return "row", enumerate(_parquet(path), start=1)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "row", enumerate(_arrow(path), start=1)
    start = _beginning(path, head)
    if start.startswith(b"["):
        return "row", enumerate(_json_array(path, head), start=1)
    if start.startswith(b"{") or not start:
        return "line", _json_lines(path, head)
    for magic, words, cure in KINDS:
        if start.lower().startswith(magic.lower()):
            raise UserError(f"{path}: this is {words}; {cure}")
    if path.suffix in (".csv", ".tsv"):
        return "line", _csv(path)
    raise UserError(f"{path}: {_unknown(path, start)}")


def _beginning(path: Path, head: bytes) -> bytes:
    """The first bytes of a text file, unpacked, from its first character on."""
    try:
        with _opened(path, head) as stream:
            return stream.read(4096).removeprefix(BOM).lstrip()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: broken or cut short ({error}); copy it again") from None


def _unknown(path: Path, start: bytes) -> str:
    """What may be wrong with a file of no known kind, and the cure."""
    if path.suffix in (".parquet", ".arrow", ".feather"):
        return f"no {path.suffix[1:]} file, whatever its name says: it begins with {start[:16]!r}; give {READABLE}"
    line = start.split(b"\n", 1)[0].strip()
    text = line.decode("utf-8", "replace")[:60]
    if line.isascii() and b"," in line and path.suffix not in COMPRESSED:
        return f"no JSON: its first line is {text!r}. If that is a line of column names, rename the file to *.csv"
    return f"no data that can be read: it begins with {text!r}; give {READABLE}"


def _opened(path: Path, head: bytes) -> BinaryIO:
    """The bytes of a text file, unpacked."""
    suffix = next((suffix for suffix, magic in COMPRESSED.items() if head.startswith(magic)), "")
    if path.suffix in COMPRESSED and path.suffix != suffix:
        found = "JSON" if head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") else f"a file that begins with {head!r}"
        raise UserError(
            f"{path}: not compressed as its name says, but {found}; name it {path.with_suffix('').name}, or compress it"
        )
    if suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _lines(path: Path, head: bytes) -> Iterator[bytes]:
    """The lines of a text file, without a byte order mark; UserError for a compressed file that is cut short."""
    try:
        with _opened(path, head) as stream:
            for number, line in enumerate(stream):
                yield line if number else line.removeprefix(BOM)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: broken or cut short ({error}); copy it again") from None


def _json_lines(path: Path, head: bytes) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_lines(path, head), start=1):
        if line.strip():
            try:
                yield number, DECODER.decode(line.decode("utf-8"))
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON ({error}); each line must be one JSON object"
                ) from None


def _json_array(path: Path, head: bytes) -> Iterator[object]:
    """The values of one JSON array, which is never in memory as a whole."""
    text = io.TextIOWrapper(_opened(path, head), encoding="utf-8-sig")
    buffer, number = text.read(CHUNK).lstrip()[1:], 0
    while True:
        buffer = buffer.lstrip(", \t\r\n" if number else " \t\r\n")
        if buffer.startswith("]"):
            if (buffer[1:] + text.read(CHUNK)).strip():
                raise UserError(f"{path}: there is something after the end of its JSON array; remove it")
            return
        try:
            value, end = DECODER.raw_decode(buffer)
        except json.JSONDecodeError as error:
            more = text.read(CHUNK)
            if not more:
                raise UserError(f"{path}, row {number + 1}: not valid JSON ({error}), or cut short") from None
            buffer += more
        else:
            yield value
            buffer, number = buffer[end:], number + 1


def _refuse_twins(pairs: list[tuple[str, object]]) -> dict:
    """One JSON object; of two equal keys JSON's readers would silently take the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return row


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant)


def _csv(path: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(2**30)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        number = 2
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {number}: more or fewer cells than the first line has; mend the row")
                yield number, row
                number = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {number}: not valid CSV in UTF-8 ({error})") from None


def _parquet(path: Path) -> Iterator[dict]:
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        if stream.read() != b"PAR1":
            raise UserError(f"{path}: a parquet file that is cut short: its last bytes are missing; copy it again")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: a broken or cut parquet file ({_first_line(error)}); copy it again") from None


def _arrow(path: Path) -> Iterator[dict]:
    """Of an IPC file or an IPC stream, which is what the `datasets` library writes."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as mapped:
            if mapped.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(mapped)
                batches = map(file.get_batch, range(file.num_record_batches))
            else:
                mapped.seek(0)
                batches = iter(pyarrow.ipc.open_stream(mapped))
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    yield from batch.slice(start, BATCH).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: a broken or cut Arrow file ({_first_line(error)}); copy it again") from None


def _first_line(error: Exception) -> str:
    return re.split(r"[\n.] ?", str(error))[0]
