"""Rule check_sft: check the rows of supervised fine-tuning before anything is trained on them, and describe them.

    python scripts/check_sft.py --job '{"rule": "check_sft", "settings": {}}' --manifest ... \
        --sft config/data/sft.jsonl --heldout-pairs config/data/heldout_preferences.jsonl \
        --heldout-prompts config/data/heldout_prompts.jsonl --audit results/demo/data/sft.audit.json

Bad rows, and held-out prompts that are also trained on or cannot be graded, end it with one message; nothing is mended
or dropped.
"""

from __future__ import annotations

from arms.data.audit import check_sft_rows
from arms.data.checks import check_training_rows
from arms.job.files import exit_with_message


def main() -> None:
    """Read, check, describe."""
    check_training_rows(__doc__, "sft", check_sft_rows, words)


def words(summary: dict) -> list[str]:
    """What the log says of good rows."""
    lengths = summary["characters"]["completion"]
    return [
        f"{summary['rows']} rows in {len(summary['categories'])} categories, no bad row",
        f"completions: median {lengths['median']:.0f} characters, at most {lengths['max']:.0f}",
    ]


if __name__ == "__main__":
    exit_with_message(main)
