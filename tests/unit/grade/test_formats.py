"""Data files in every format that is read: the same rows, and one clear message for what cannot be read."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from arms.job.files import UserError
from arms.job.formats import read_rows

ROWS = [
    {"id": str(number), "prompt": f"Frage {number}, “ä”\nzwei Zeilen", "completion": 'Ein "Wort", 語 🙂'}
    for number in range(1500)
]


def lines(rows, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=number % 2 == 0) + end for number, row in enumerate(rows)).encode()


def table(rows=ROWS):
    return pa.Table.from_pylist(rows)


def write_csv(path, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_stream(path):
    with pa.ipc.new_stream(str(path), table().schema) as file:
        file.write_table(table(), max_chunksize=700)


def write_shards(path):
    path.mkdir()
    for start in (0, 600, 1200):
        pq.write_table(table(ROWS[start : start + 600]), path / f"part-{start:05d}.parquet")
    (path / "README.md").write_text("shards")


WRITERS = {
    "rows.jsonl": lambda path: path.write_bytes(lines(ROWS)),
    "crlf.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS, "\r\n\r\n")),
    "no-suffix": lambda path: path.write_bytes(lines(ROWS)),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS[:700])) + gzip.compress(lines(ROWS[700:]))),
    "rows.jsonl.zst": lambda path: path.write_bytes(pa.compress(lines(ROWS), "zstd", asbytes=True)),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.csv": write_csv,
    "bom.csv": lambda path: write_csv(path, encoding="utf-8-sig"),
    "rows.tsv": lambda path: write_csv(path, "\t"),
    "rows.parquet": lambda path: pq.write_table(table(), path, row_group_size=400),
    "shards": write_shards,
    "rows.arrow": lambda path: pa.feather.write_feather(table(), path, compression="zstd"),
    "stream.arrow": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = list(read_rows(tmp_path / name))
    assert [{key: value for key, value in row.items() if key[0] != "_"} for row in found] == ROWS
    assert found[-1]["_place"].startswith(str(tmp_path / name))
    if name == "shards":
        assert found[-1]["_place"].endswith("part-01200.parquet, row 300")


def test_places_are_those_of_an_editor(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [row["_place"].rpartition(", ")[2] for row in read_rows(tmp_path / "a.jsonl")] == ["line 2", "line 4"]
    (tmp_path / "a.csv").write_text('a,b\n1,"two\nlines"\n3,4\n')
    assert [row["_place"].rpartition(", ")[2] for row in read_rows(tmp_path / "a.csv")] == ["line 2", "line 4"]


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink)
    return sink.getvalue().to_pybytes()


BROKEN = {
    "empty": ("a.jsonl", b"", "the file has no rows"),
    "only blank lines": ("a.jsonl", b"\n\n", "the file has no rows"),
    "not UTF-8": ("a.jsonl", b'{"a": "\xff"}\n', "line 1: not valid JSON"),
    "a cut line": ("a.jsonl", lines(ROWS)[:-9], "line 1500: not valid JSON"),
    "NaN": ("a.jsonl", b'{"a": NaN}\n', "line 1: not valid JSON (NaN is no JSON)"),
    "a key twice": ("a.jsonl", b'{"a": 1, "a": 2}\n', "line 1: not valid JSON (the key 'a' occurs twice)"),
    "a list a line": ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: expected a JSON object, found list"),
    "a cut array": ("a.json", json.dumps(ROWS).encode()[:-9], "row 1500: not valid JSON"),
    "an array of texts": ("a.json", b'["a", "b"]', "row 1: expected a JSON object, found str"),
    "something after an array": ("a.json", b'[{"a": 1}] x', "something after the end of its JSON array"),
    "an array without commas": ("a.json", b'[{"a": 1}]]', "something after the end of its JSON array"),
    "no gz": ("a.jsonl.gz", lines(ROWS), "not compressed as its name says, but JSON; name it a.jsonl, or compress it"),
    "a cut gz": ("a.jsonl.gz", gzip.compress(lines(ROWS))[:-20], "broken or cut short"),
    "a cut zst": ("a.jsonl.zst", pa.compress(lines(ROWS), "zstd", asbytes=True)[:-20], "broken or cut short"),
    "a cut parquet file": ("a.parquet", parquet_bytes()[:-9], "a parquet file that is cut short"),
    "only the start of a parquet file": ("a.parquet", b"PAR1", "a broken or cut parquet file"),
    "a broken parquet page": ("a.parquet", parquet_bytes()[:50] + b"x" * 900 + parquet_bytes()[950:], "parquet file"),
    "a cut Arrow file": ("a.arrow", b"ARROW1\0\0" + b"x" * 90, "a broken or cut Arrow file"),
    "too many cells": ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: more or fewer cells"),
    "too few cells": ("a.csv", b"a,b\n1,2\n1\n", "line 3: more or fewer cells"),
    "an open quote": ("a.csv", b'a,b\n1,"2\n', "line 2: not valid CSV"),
    "a picture": ("a.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99, "this is a picture; name the file of the data"),
    "no data": ("a.txt", b"Dear all,", "no JSON: its first line is 'Dear all,'."),
    "text without commas": ("a.txt", b"hello", "no data that can be read: it begins with 'hello'; give JSON Lines, a"),
    "CSV as JSON Lines": (
        "a.jsonl",
        b"prompt,chosen,rejected\na,b,c\n",
        "no JSON: its first line is 'prompt,chosen,rejected'. If that is a line of column names, rename the file to",
    ),
    "a zip": ("a.jsonl", b"PK\x03\x04" + b"x" * 99, "this is a zip archive (or a spreadsheet); unpack it"),
    "a login page": (
        "a.jsonl",
        b"\n<!DOCTYPE html>\n<html>",
        "this is a web page, perhaps of a login or an error; down",
    ),
    "another page": ("a.parquet", b"<HTML><head>", "this is a web page, perhaps of a login or an error; download the"),
    "an LFS pointer": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "this is a Git LFS pointer, not the data itself; run `git lfs pull`",
    ),
    "a login page as CSV": ("a.csv", b"<!doctype html>,", "this is a web page, perhaps of a login or an error; down"),
    "a pickle": ("a.pkl", b"\x80\x04\x95" + b"x" * 99, "this is a Python pickle, which is never opened here; save the"),
    "UTF-16": ("a.csv", "a,b\n".encode("utf-16"), "this is text in UTF-16; save it in UTF-8"),
    "UTF-16 JSON": ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "this is text in UTF-16; save it in UTF-8"),
    "JSON Lines as parquet that is none": (
        "a.parquet",
        b"prompt: a",
        "no parquet file, whatever its name says: it begins",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_one_message(tmp_path, case):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_data(tmp_path):
    with pytest.raises(UserError, match=r"no data in this folder \(looked for \*\.parquet"):
        list(read_rows(tmp_path))
