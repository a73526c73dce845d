"""Rule check_heldout: check the held-out pairs and prompts, describe them, and list them for the statistics.

    python scripts/check_heldout.py --job '{"rule": "check_heldout", "settings": {}}' --manifest ... \
        --sft config/data/sft.jsonl --pairs config/data/preferences.jsonl \
        --heldout-pairs config/data/heldout_preferences.jsonl --heldout-prompts config/data/heldout_prompts.jsonl \
        --audit results/demo/data/heldout.audit.json --prompts results/demo/data/prompts.parquet

Bad rows and held-out prompts that are also trained on end it with one message; nothing is repaired or dropped.
prompts.parquet has one row for each held-out pair and held-out prompt (they are scored apart, and keyed by their id):
prompt_id, prompt_sha256, category, cluster_id, split; all strings, sorted by prompt_id.
"""

from __future__ import annotations

import argparse

from arms.data.audit import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    SFT_COLUMNS,
    Table,
    check_leakage,
    check_pair_rows,
    cluster_id,
    describe,
    near_duplicates,
    prompt_sha256,
)
from arms.job.files import UserError, atomic_path, exit_with_message, write_json
from arms.job.manifest import Job, add_job_arguments


def main() -> None:
    """Read, check, describe, list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--sft", required=True, metavar="FILE", help="SFT rows (only their prompts are read)")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="training pairs (only their prompts are read)")
    parser.add_argument("--heldout-pairs", required=True, metavar="FILE", help="pairs that no arm is trained on")
    parser.add_argument("--heldout-prompts", required=True, metavar="FILE", help="prompts that no arm is trained on")
    parser.add_argument("--audit", required=True, metavar="FILE", help="what was found, as JSON (output)")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="the held-out prompts, as parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    trained = [Table(args.sft, SFT_COLUMNS), Table(args.pairs, PAIR_COLUMNS)]
    pairs, prompts = Table(args.heldout_pairs, PAIR_COLUMNS), Table(args.heldout_prompts, PROMPT_COLUMNS)
    check_pair_rows(pairs)
    for table in trained:
        check_leakage(table, [pairs, prompts])
    entries = list_prompts(pairs, prompts)
    near = [entry for table in trained for heldout in (pairs, prompts) for entry in near_duplicates(table, heldout)]
    clusters = len({entry["cluster_id"] for entry in entries})
    audit = {
        "schema": 1,
        "heldout_pairs": describe(pairs),
        "heldout_prompts": describe(prompts),
        "heldout_clusters": clusters,
        "near_duplicates": near,
    }
    write_prompts(entries, args.prompts)
    write_json(args.audit, audit)
    job.say(f"{len(pairs.rows)} held-out pairs and {len(prompts.rows)} held-out prompts in {clusters} clusters")
    job.say(f"none is trained on; {len(near)} are near-duplicates")
    job.finish(
        inputs={
            "sft": args.sft,
            "pairs": args.pairs,
            "heldout_pairs": args.heldout_pairs,
            "heldout_prompts": args.heldout_prompts,
        },
        outputs={"audit": args.audit, "prompts": args.prompts},
        clusters=clusters,
    )


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
