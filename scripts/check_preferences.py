"""Rule check_preferences: check the training pairs and describe them.

    python scripts/check_preferences.py --job '{"rule": "check_preferences", "settings": {}}' --manifest ... \
        --pairs config/data/preferences.jsonl --heldout-pairs config/data/heldout_preferences.jsonl \
        --heldout-prompts config/data/heldout_prompts.jsonl --audit results/demo/data/preferences.audit.json

Bad rows and held-out prompts that are also trained on end it with one message; nothing is repaired or dropped.
"""

from __future__ import annotations

import argparse

from arms.data.audit import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    Table,
    check_leakage,
    check_pair_rows,
    describe,
    near_duplicates,
    warnings,
)
from arms.job.files import exit_with_message, write_json
from arms.job.manifest import Job, add_job_arguments


def main() -> None:
    """Read, check, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--pairs", required=True, metavar="FILE", help="pairs to train on")
    parser.add_argument("--heldout-pairs", required=True, metavar="FILE", help="pairs that no arm is trained on")
    parser.add_argument("--heldout-prompts", required=True, metavar="FILE", help="prompts that no arm is trained on")
    parser.add_argument("--audit", required=True, metavar="FILE", help="what was found, as JSON (output)")
    args = parser.parse_args()
    job = Job(args)

    pairs = Table(args.pairs, PAIR_COLUMNS)
    heldout_pairs = Table(args.heldout_pairs, PAIR_COLUMNS)
    heldout_prompts = Table(args.heldout_prompts, PROMPT_COLUMNS)
    check_pair_rows(pairs)
    check_leakage(pairs, [heldout_pairs, heldout_prompts])

    near = [entry for table in (heldout_pairs, heldout_prompts) for entry in near_duplicates(pairs, table)]
    audit = {
        "schema": 1,
        "pairs": describe(pairs),
        "near_duplicates": near,
        "warnings": warnings(pairs, [heldout_pairs, heldout_prompts], near),
    }
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
    job.say(f"no held-out prompt is trained on; {len(near)} are near-duplicates")
    for warning in audit["warnings"]:
        job.say(f"warning: {warning}")
    job.finish(
        inputs={"pairs": args.pairs, "heldout_pairs": args.heldout_pairs, "heldout_prompts": args.heldout_prompts},
        outputs={"audit": args.audit},
        rows=found["rows"],
        warnings=len(audit["warnings"]),
    )


if __name__ == "__main__":
    exit_with_message(main)
