"""Rule check_preferences: check the training pairs and describe them.

    python scripts/check_preferences.py --job '{"rule": "check_preferences", "settings": {}}' --manifest ... \
        --pairs config/data/preferences.jsonl --heldout-pairs config/data/heldout_preferences.jsonl \
        --heldout-prompts config/data/heldout_prompts.jsonl --audit results/demo/data/preferences.audit.json

Bad rows, and held-out prompts that are also trained on or cannot be graded, end it with one message; nothing is mended
or dropped.
"""

from __future__ import annotations

from arms.data.audit import check_pair_rows
from arms.data.checks import check_training_rows
from arms.job.files import exit_with_message


def main() -> None:
    """Read, check, describe."""
    check_training_rows(__doc__, "pairs", check_pair_rows, words)


def words(summary: dict) -> list[str]:
    """What the log says of good pairs."""
    return [
        f"{summary['rows']} pairs in {len(summary['categories'])} categories, "
        f"{len(summary['negatives'])} kinds of negative, no bad row",
        f"chosen is longer in {summary['share_chosen_longer']:.0%} of the pairs; "
        f"{summary['share_first_word_differs']:.0%} differ in the first word",
    ]


if __name__ == "__main__":
    exit_with_message(main)
