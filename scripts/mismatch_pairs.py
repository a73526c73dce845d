"""Rule mismatch_pairs: each training prompt with the answers of another pair, on which KTO estimates its KL term.

    python scripts/mismatch_pairs.py --job '{"rule": "mismatch_pairs", "settings": {}}' \
        --pairs results/demo/tokens/train_pairs.parquet --mismatched results/demo/tokens/mismatched_pairs.parquet \
        --manifest ...

The other pair is the nearest one before, in a circle, whose prompt differs. Its answers are cut where prompt and answer
would be longer than the longest training row; a prompt is never cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from arms.data.token_rows import TokenRows, read_tokens, token_tables, write_tokens
from arms.job.files import UserError, exit_with_message
from arms.job.manifest import Job
from arms.job.program import JobParser


def main() -> None:
    """Read the pairs, give each the answers of another, write."""
    parser = JobParser(__doc__)
    parser.input("pairs", help="token ids of the training pairs")
    parser.output("mismatched", help="the same prompts with answers of other pairs, parquet (output)")
    parser.add_argument("--threads", type=int, default=1, help="not used")
    args = parser.parse_args()
    job = Job(args)

    pairs = read_tokens(args.pairs)
    write_tokens(args.mismatched, token_tables(mismatched(pairs)))
    job.say(f"{len(pairs)} prompts with the answers of other pairs")
    job.finish(rows=len(pairs))


def mismatched(pairs: TokenRows) -> Iterator[dict]:
    """The pairs, in order, with the answers of the nearest pair before of another prompt."""
    longest = max(len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in pairs)
    first = pairs[0]["prompt_ids"]
    last = next((at for at in range(len(pairs) - 1, 0, -1) if pairs[at]["prompt_ids"] != first), None)
    if last is None:
        raise UserError(
            "data.pairs: all pairs have one prompt, so there are no answers to another prompt, which KTO's KL term "
            "takes; add pairs of other prompts, or leave the KTO arms out"
        )
    before, other = pairs[last], pairs[last]  # the row before, and the nearest one of another prompt
    for row in pairs:
        if before["prompt_ids"] != row["prompt_ids"]:
            other = before
        room = longest - len(row["prompt_ids"])
        yield {**row, "chosen_ids": other["chosen_ids"][:room], "rejected_ids": other["rejected_ids"][:room]}
        before = row


if __name__ == "__main__":
    exit_with_message(main)
