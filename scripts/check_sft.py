"""Check the rows of supervised fine-tuning before anything is trained on them, and describe them.

python scripts/check_sft.py --sft config/data/sft.jsonl --heldout-pairs config/data/heldout_preferences.jsonl \
    --heldout-prompts config/data/heldout_prompts.jsonl --audit results/data/sft.audit.json \
    --manifest results/data/sft.manifest.json --lock envs/stats.yaml --job '{"rule": "check_sft", "settings": {}}'

Bad rows and held-out prompts that are also trained on end it with one message; nothing is repaired or dropped.
"""

from __future__ import annotations

import argparse

from arms.data.audit import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    SFT_COLUMNS,
    Table,
    check_leakage,
    check_sft_rows,
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
    parser.add_argument("--sft", required=True, metavar="FILE", help="training rows: id, prompt, completion, category")
    parser.add_argument("--heldout-pairs", required=True, metavar="FILE", help="pairs that no arm is trained on")
    parser.add_argument("--heldout-prompts", required=True, metavar="FILE", help="prompts that no arm is trained on")
    parser.add_argument("--audit", required=True, metavar="FILE", help="what was found, as JSON (output)")
    args = parser.parse_args()
    job = Job(args)

    sft = Table(args.sft, SFT_COLUMNS)
    check_sft_rows(sft)
    heldout = [Table(args.heldout_pairs, PAIR_COLUMNS), Table(args.heldout_prompts, PROMPT_COLUMNS)]
    check_leakage(sft, heldout)

    near = [entry for table in heldout for entry in near_duplicates(sft, table)]
    audit = {"schema": 1, "sft": describe(sft), "near_duplicates": near, "warnings": warnings(sft, heldout, near)}
    write_json(args.audit, audit)
    lengths = audit["sft"]["characters"]["completion"]
    job.say(f"{len(sft.rows)} rows in {len(audit['sft']['categories'])} categories, no bad row")
    job.say(f"completions: median {lengths['median']:.0f} characters, at most {lengths['max']:.0f}")
    job.say(f"no held-out prompt is trained on; {len(near)} are near-duplicates")
    for warning in audit["warnings"]:
        job.say(f"warning: {warning}")
    inputs = {"sft": args.sft, "heldout_pairs": args.heldout_pairs, "heldout_prompts": args.heldout_prompts}
    job.finish(inputs=inputs, outputs={"audit": args.audit}, rows=len(sft.rows), warnings=len(audit["warnings"]))


if __name__ == "__main__":
    exit_with_message(main)
