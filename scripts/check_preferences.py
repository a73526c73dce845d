"""Check the preference pairs and the held-out data, describe them, and list the held-out prompts for the statistics.

python scripts/check_preferences.py --pairs config/data/preferences.jsonl \
    --heldout-pairs config/data/heldout_preferences.jsonl --heldout-prompts config/data/heldout_prompts.jsonl \
    --audit results/data/preferences.audit.json --prompts results/data/prompts.parquet \
    --manifest results/data/preferences.manifest.json --lock envs/stats.yaml \
    --job '{"rule": "check_preferences", "settings": {}}'

Bad rows and held-out prompts that are also trained on end it with one message; nothing is repaired or dropped.
prompts.parquet has one row for each held-out pair and held-out prompt (they are scored apart, and keyed by their id):
prompt_id, prompt_sha256, category, cluster_id, split; all strings, sorted by prompt_id.
"""

from __future__ import annotations

import argparse

from arms.audit import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    Table,
    check_leakage,
    check_pair_rows,
    cluster_id,
    describe,
    near_duplicates,
    prompt_sha256,
    warnings,
)
from arms.files import UserError, atomic_path, exit_with_message, write_json
from arms.manifest import Job, add_job_arguments


def main() -> None:
    """Read, check, describe, list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--pairs", required=True, metavar="FILE", help="pairs to train on")
    parser.add_argument("--heldout-pairs", required=True, metavar="FILE", help="pairs that no arm is trained on")
    parser.add_argument("--heldout-prompts", required=True, metavar="FILE", help="prompts that no arm is trained on")
    parser.add_argument("--audit", required=True, metavar="FILE", help="what was found, as JSON (output)")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="the held-out prompts, as parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    pairs = Table(args.pairs, PAIR_COLUMNS)
    heldout_pairs = Table(args.heldout_pairs, PAIR_COLUMNS)
    heldout_prompts = Table(args.heldout_prompts, PROMPT_COLUMNS)
    check_pair_rows(pairs)
    check_pair_rows(heldout_pairs)
    check_leakage(pairs, [heldout_pairs, heldout_prompts])
    prompts = list_prompts(heldout_pairs, heldout_prompts)

    near = [entry for table in (heldout_pairs, heldout_prompts) for entry in near_duplicates(pairs, table)]
    audit = {
        "schema": 1,
        "pairs": describe(pairs),
        "heldout_pairs": describe(heldout_pairs),
        "heldout_prompts": describe(heldout_prompts),
        "heldout_clusters": len({row["cluster_id"] for row in prompts}),
        "near_duplicates": near,
        "warnings": warnings(pairs, [heldout_pairs, heldout_prompts], near),
    }
    write_prompts(prompts, args.prompts)
    write_json(args.audit, audit)
    found = audit["pairs"]
    job.say(
        f"{found['rows']} pairs in {len(found['categories'])} categories, "
        f"{len(found['negatives'])} kinds of negative, no bad row"
    )
    job.say(
        f"chosen is longer in {found['share_chosen_longer']:.0%} of the pairs; "
        f"{found['share_first_word_differs']:.0%} differ in the first word"
    )
    job.say(
        f"held out: {len(heldout_pairs.rows)} pairs and {len(heldout_prompts.rows)} prompts "
        f"in {audit['heldout_clusters']} clusters; none is trained on, {len(near)} are near-duplicates"
    )
    for warning in audit["warnings"]:
        job.say(f"warning: {warning}")
    job.finish(
        inputs={"pairs": args.pairs, "heldout_pairs": args.heldout_pairs, "heldout_prompts": args.heldout_prompts},
        outputs={"audit": args.audit, "prompts": args.prompts},
        rows=found["rows"],
        warnings=len(audit["warnings"]),
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
