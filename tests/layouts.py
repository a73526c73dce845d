"""The same rows in every layout that people have, and a writer of each format."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

ROWS = [
    {"prompt": f"Name the {n}th river.\nBriefly.", "chosen": f"It is called {n}.", "rejected": f"No idea, {n}!"}
    for n in range(20)
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PAIRS = {
    "text": lambda p, c, r: {"prompt": p, "chosen": c, "rejected": r},
    "question": lambda p, c, r: {"system": "", "question": p, "chosen": c, "rejected": r},
    "hh": lambda p, c, r: {
        side: f"\n\nHuman: {p}\n\nAssistant: {text}" for side, text in (("chosen", c), ("rejected", r))
    },
    "messages": lambda p, c, r: {
        side: [user(p), assistant(text)] for side, text in (("chosen", c), ("rejected", r))
    },
    "messages, prompt before": lambda p, c, r: {
        "prompt": [user(p)], "chosen": [assistant(c)], "rejected": [assistant(r)],
    },
    "messages, prompt as text": lambda p, c, r: {"prompt": p, "chosen": [assistant(c)], "rejected": [assistant(r)]},
    "ultrafeedback": lambda p, c, r: {
        "prompt": p, "prompt_id": "x", "messages": [user(p), assistant(c)], "score_chosen": 8.0, "score_rejected": 3.5,
        "chosen": [user(p), assistant(c)], "rejected": [user(p), assistant(r)],
    },
    "argilla": lambda p, c, r: {
        "source": "evol", "prompt": p, "chosen-rating": 5.0, "chosen-model": "a", "rejected-rating": 1.0,
        "chosen": [user(p), assistant(c)], "rejected": [user(p), assistant(r)],
    },
    "sharegpt": lambda p, c, r: {
        side: [{"from": "human", "value": p}, {"from": "gpt", "value": text}]
        for side, text in (("chosen", c), ("rejected", r))
    },
    "parts": lambda p, c, r: {
        side: [user([{"type": "text", "text": p}]), assistant([{"type": "text", "text": text}])]
        for side, text in (("chosen", c), ("rejected", r))
    },
}  # fmt: skip
SFT = {
    "text": lambda p, c: {"prompt": p, "completion": c},
    "messages": lambda p, c: {"messages": [user(p), assistant(c)], "tools": None},
    "ultrachat": lambda p, c: {"prompt": p, "prompt_id": "x", "messages": [user(p), assistant(c)]},
    "sharegpt": lambda p, c: {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": c}]},
    "alpaca": lambda p, c: {"instruction": p, "input": "", "output": c},
}


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_gz(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def as_array(path, rows):
    path.write_text(json.dumps(rows))


def as_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_shards(path, rows):
    path.mkdir()
    for number, part in enumerate((rows[:7], rows[7:])):
        pq.write_table(pa.Table.from_pylist(part), path / f"{number}.parquet")


def as_zst(path, rows):
    path.write_bytes(pa.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), "zstd", asbytes=True))


def as_arrow(path, rows):
    pyarrow.feather.write_feather(pa.Table.from_pylist(rows), path)


def as_stream(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def as_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def is_flat(row):
    """Whether a CSV file can hold it."""
    return all(isinstance(value, str) for value in row.values())


FORMATS = {
    "a.jsonl": as_jsonl,
    "a.jsonl.gz": as_gz,
    "a.jsonl.zst": as_zst,
    "a.json": as_array,
    "a.csv": as_csv,
    "a.parquet": as_parquet,
    "shards": as_shards,
    "a.arrow": as_arrow,
    "stream.arrow": as_stream,
}
