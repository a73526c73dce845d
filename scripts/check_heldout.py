"""Rule check_heldout: check the held-out pairs and prompts, describe them, and list them for the statistics.

    python scripts/check_heldout.py --job '{"rule": "check_heldout", "settings": {}}' --manifest ... \
        --sft config/data/sft.jsonl --pairs config/data/preferences.jsonl \
        --heldout-pairs config/data/heldout_preferences.jsonl --heldout-prompts config/data/heldout_prompts.jsonl \
        --audit results/demo/data/heldout.audit.json --prompts results/demo/data/prompts.parquet

Bad rows, and held-out prompts that are also trained on or cannot be graded, end it with one message; nothing is mended
or dropped.
prompts.parquet has one row for each held-out pair and held-out prompt (they are scored apart, and keyed by their id):
prompt_id, prompt_sha256, category, cluster_id, split; all strings, sorted by prompt_id.
"""

from __future__ import annotations

from arms.data.audit import Table, check_pair_rows, cluster_id, prompt_sha256, summary_of
from arms.data.checks import HELDOUT, check_parser, compare_with_heldout, read_files
from arms.job.files import UserError, atomic_path, exit_with_message, write_json
from arms.job.manifest import Job


def main() -> None:
    """Read, check, describe, list."""
    parser = check_parser(__doc__, "sft", "pairs")
    parser.output("prompts", help="the held-out prompts, as parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    trained, (pairs, prompts) = read_files(args, "sft", "pairs"), read_files(args, *HELDOUT)
    check_pair_rows(pairs)
    near = compare_with_heldout(trained, [pairs, prompts])
    entries = list_prompts(pairs, prompts)
    clusters = len({entry["cluster_id"] for entry in entries})
    audit = {
        "schema": 1,
        "heldout_pairs": summary_of(pairs),
        "heldout_prompts": summary_of(prompts),
        "heldout_clusters": clusters,
        "near_duplicates": near,
    }
    write_prompts(entries, args.prompts)
    write_json(args.audit, audit)
    job.say(f"{len(pairs.rows)} held-out pairs and {len(prompts.rows)} held-out prompts in {clusters} clusters")
    job.say(f"none is trained on; {len(near)} are near-duplicates")
    job.finish(clusters=clusters)


def list_prompts(pairs: Table, prompts: Table) -> list[dict[str, str]]:
    """One entry for each row of the two held-out tables, sorted by id; UserError if both use an id."""
    lines = {row["id"]: row["_row"] for row in pairs.rows}
    prompts.refuse(
        [row["_row"] for row in prompts.rows if row["id"] in lines],
        f"'id' is also used in {pairs.path}",
        "scores are keyed by id: give every held-out row one of its own",
    )
    entries = []
    for table in (pairs, prompts):
        for row in table.rows:
            if not isinstance(row.get("cluster_id", ""), str):
                raise UserError(f"{table.path}, line {row['_row']}: column 'cluster_id' must be a string; quote it")
            entries.append(
                {
                    "prompt_id": row["id"],
                    "prompt_sha256": prompt_sha256(row["prompt"]),
                    "category": row["category"],
                    "cluster_id": cluster_id(row),
                    "split": "heldout",
                }
            )
    return sorted(entries, key=lambda entry: entry["prompt_id"])


def write_prompts(entries: list[dict[str, str]], path: str) -> None:
    """Write the entries as parquet, every column a string that is never null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["prompt_id", "prompt_sha256", "category", "cluster_id", "split"]
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in names])
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(entries, schema=schema), temporary)


if __name__ == "__main__":
    exit_with_message(main)
