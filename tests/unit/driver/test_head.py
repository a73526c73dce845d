"""The heads of data files, read in Snakemake's own environment: what would be refused is told in milliseconds."""

import gzip
import importlib.util
import json
import time

import pytest

from arms.data.head import ROWS, refused

GOOD = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": f"No {n}."} for n in range(300)]
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def changed(place, **columns):
    return [row | (columns if number == place else {}) for number, row in enumerate(GOOD)]


FINE = {
    "a.jsonl": lines(GOOD),
    "a.jsonl.gz": gzip.compress(lines(GOOD)),
    "a.json": json.dumps(GOOD).encode(),
    "a.csv": "prompt,chosen,rejected\n" + "".join(f"p{n},c{n},r{n}\n" for n in range(300)),
    "a.parquet": b"PAR1 what pyarrow alone can read PAR1",
    "a.arrow": b"ARROW1\0\0 what pyarrow alone can read ARROW1",
    "far.jsonl": lines(changed(ROWS, chosen=" ")),  # a later row is for rule check_data
}
BAD = {
    "a row without text": (
        "a.jsonl",
        lines(changed(2, chosen=" ")),
        "a.jsonl, line 3: 'chosen' is empty or only white",
    ),
    "no difference": (
        "a.json",
        json.dumps(changed(9, rejected="It is 9.")).encode(),
        "row 10: 'chosen' and 'rejected' ",
    ),
    "null": ("a.jsonl.gz", gzip.compress(lines(changed(2, chosen=None))), "line 3: column 'chosen' is empty (null)"),
    "mixed types": ("a.jsonl", lines(changed(2, chosen=4)), "line 3: column 'chosen' must be str, found int '4'"),
    "a cut line": ("a.jsonl", lines(GOOD)[:400], "not valid JSON"),
    "no gz": ("a.jsonl.gz", lines(GOOD), "not compressed as its name says, but JSON; name it a.jsonl"),
    "CSV": ("a.jsonl", b"prompt,chosen,rejected\na,b,c\n", "no JSON: its first line is 'prompt,chosen,rejected'. If"),
    "a page": ("a.jsonl", b"<!DOCTYPE html><title>Sign in", "this is a web page, perhaps of a login or an error"),
    "a pointer": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\n",
        "a Git LFS pointer, not the data itself",
    ),
    "a cut parquet file": ("a.parquet", b"PAR1" + b"x" * 99, "a.parquet: a parquet file that is cut short"),
    "a cut Arrow file": ("a.arrow", b"ARROW1\0\0" + b"x" * 99, "a.arrow: cut short: its last bytes are missing"),
    "other rows": ("a.jsonl", lines([CHAT] * 3), "these are SFT rows ('messages'), not pairs; data.sft takes them"),
    "no row": ("a.jsonl", b"", "the file has no rows"),
}


def test_this_environment_has_no_pyarrow():
    assert importlib.util.find_spec("pyarrow") is None, "then the tests below show less than they say"


@pytest.mark.parametrize("name", FINE)
def test_good_heads_are_silent(tmp_path, name):
    content = FINE[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert refused({"pairs": str(tmp_path / name)}) is None


@pytest.mark.parametrize("case", BAD)
def test_what_would_be_refused_is_told_with_key_file_row_and_cure(tmp_path, case):
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    found = refused({"pairs": {"path": str(tmp_path / name)}})
    assert found.startswith(f"data.pairs: {tmp_path / name}")
    assert words in found
    assert len(found.splitlines()) == 1


def test_many_bad_rows_are_some_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"prompt": "p", "chosen": "", "rejected": "r"}] * 200))
    found = refused({"pairs": str(tmp_path / "a.jsonl")}).splitlines()
    assert len(found) == 6
    assert found[-1] == f"data.pairs: and {ROWS - 5} more of the first {ROWS} rows"


def test_every_part_of_a_mixture_and_every_shard_is_looked_at(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "shards").mkdir()
    for number, content in enumerate((b"PAR1 good PAR1", b"PAR1 cut")):
        (tmp_path / "shards" / f"{number}.parquet").write_bytes(content)
    mix = [{"path": str(tmp_path / name), "name": name, "weight": 1} for name in ("a.jsonl", "shards")]
    mix.append({"hub": "mine/data", "revision": "0" * 40, "split": "train", "name": "hub", "weight": 1})
    assert refused({"pairs": {"mix": mix}}).endswith(
        "shards/1.parquet: cut short: its last bytes are missing; copy it again"
    )


def test_a_large_file_takes_no_longer(tmp_path):
    """200 MB: of a gz, an array and lines alike only the head is read."""
    row = json.dumps({"prompt": "p " * 500, "chosen": "c " * 500, "rejected": "r " * 500})
    (tmp_path / "a.jsonl").write_text(f"{row}\n" * 60_000)
    (tmp_path / "a.json").write_text("[" + ",".join([row] * 60_000) + "]")
    start = time.process_time()
    assert refused({"pairs": str(tmp_path / "a.jsonl"), "heldout_pairs": str(tmp_path / "a.json")}) is None
    assert time.process_time() - start < 1
