"""Scoring pairs of unequal lengths: batches of like length against batches in file order, side by side in one process.

    .envs/train/bin/python benchmarks/scoring.py --model results/demo/model/model.json

Lengths are log-normal (30 to 1 000 tokens a pair), ids are drawn; both orders score the same pairs in batches of the
same size, in turns. Prints the median ratio of CPU seconds and the largest difference of a log-probability.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


def main() -> None:
    """Draw the pairs, score them in both orders several times, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    from arms.data.token_rows import TokenRows
    from arms.model.cpu import set_cpu
    from arms.scoring.policy import load_policy
    from arms.scoring.tables import score

    set_cpu(2, "native")
    policy = load_policy(args.model, None, "fp32")
    pairs = TokenRows.of(drawn_pairs(args.pairs, policy.card["vocab_size"]))
    orders = {"file order": list(range(len(pairs))), "like lengths": pairs.longest_first()}
    seconds: dict[str, list[float]] = {name: [] for name in orders}
    found: dict[str, dict[str, float]] = {}
    for _ in range(args.runs):
        for name, order in orders.items():
            started, rows = time.process_time(), []
            for start in range(0, len(pairs), args.size):
                rows += score(policy, [pairs[place] for place in order[start : start + args.size]], args.size)
            seconds[name].append(time.process_time() - started)
            found[name] = {row["pair_id"]: row["chosen_logp"] for row in rows}
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    apart = max(abs(found["file order"][key] - value) for key, value in found["like lengths"].items())
    for name, spent in seconds.items():
        print(f"{name}: {statistics.median(spent):.1f} CPU s for {len(pairs)} pairs")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {apart:.1e} nats apart")


def drawn_pairs(count: int, vocabulary: int) -> list[dict]:
    """Pairs of random ids: a prompt of a third of the pair's length, two completions of a third each."""
    import numpy

    draw, pairs = numpy.random.default_rng(0), []
    for number in range(count):
        third = round(min(1000, max(30, draw.lognormal(5.2, 0.9))) / 3)
        ids = draw.integers(100, vocabulary, (3, third)).tolist()
        columns = dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), ids, strict=True))
        pairs.append({"id": str(number), "category": "drawn", **columns})
    return pairs


if __name__ == "__main__":
    main()
