"""Rule list_heldout: list the held-out pairs and prompts for the statistics.

    python scripts/list_heldout.py --job '{"rule": "list_heldout", "settings": {}}' --manifest ... \
        --heldout results/demo/data/heldout_pairs.parquet results/demo/data/heldout_prompts.parquet \
        --prompts results/demo/data/prompts.parquet --audit results/demo/data/prompts.audit.json

prompts.parquet has one row for each held-out pair and held-out prompt (they are scored apart, and keyed by their id):
prompt_id, prompt_sha256, category, cluster_id, split; all strings, sorted by prompt_id.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from arms.data.leakage import normalise
from arms.job.files import atomic_path, exit_with_message, sha256_bytes, write_json
from arms.job.formats import read_rows
from arms.job.manifest import Job
from arms.job.program import JobParser

BATCH = 10_000  # rows that are Python objects at a time
COLUMNS = ("prompt_id", "prompt_sha256", "category", "cluster_id", "split")


def main() -> None:
    """Read, list, count the clusters."""
    parser = JobParser(__doc__)
    parser.input("heldout", nargs="+", key=lambda path: Path(path).stem, help="checked tables of the held-out rows")
    parser.output("prompts", help="the held-out rows, as parquet (output)")
    parser.output("audit", help="how many clusters they fall into, as JSON (output)")
    args = parser.parse_args()
    job = Job(args)

    rows, clusters = write_prompts((entry(row) for path in args.heldout for row in read_rows(path)), args.prompts)
    write_json(args.audit, {"schema": 2, "rows": rows, "clusters": clusters})
    job.say(f"{rows} held-out rows in {clusters} clusters")
    job.finish(clusters=clusters)


def entry(row: dict) -> dict[str, str]:
    """What the statistics know of a held-out row.

    Its cluster is its column cluster_id, else its prompt's digest: rows that share a prompt (a pair and a generation,
    two pairs) are not independent.
    """
    own = sha256_bytes(normalise(row["prompt"]).encode("utf-8"))[:16]
    cluster, digest = row["cluster_id"] or own, sha256_bytes(row["prompt"].encode("utf-8"))
    return dict(zip(COLUMNS, (row["id"], digest, row["category"], cluster, "heldout"), strict=True))


def write_prompts(entries: Iterator[dict[str, str]], path: str) -> tuple[int, int]:
    """Write the entries as parquet, sorted, every column a string that is never null; returns rows and clusters.

    In memory they are Arrow's strings, not Python's.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])
    batches = []
    while batch := list(islice(entries, BATCH)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema=schema))
    table = pa.Table.from_batches(batches, schema=schema).sort_by("prompt_id")
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
    return table.num_rows, pc.count_distinct(table["cluster_id"]).as_py()


if __name__ == "__main__":
    exit_with_message(main)
