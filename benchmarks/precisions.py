"""What bf16, int8 and nf4 do to log-probabilities: held-out pairs scored in each precision and in fp32.

    .envs/train-current/bin/python benchmarks/precisions.py --model results/demo/model/model.json \
        --tokens results/demo/tokens/heldout_pairs.parquet --pairs 16

Prints, for each precision, how far the log-probability of an answer is from fp32's (nats per token, mean and largest),
how far the margin of a pair is (nats), and how many pairs change their preferred answer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


def main() -> None:
    """Score the pairs in every precision; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--tokens", required=True, help="token ids of pairs, parquet")
    parser.add_argument("--pairs", type=int, default=16, help="how many of them")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    from arms.data.token_rows import read_tokens
    from arms.model.cpu import set_cpu
    from arms.scoring.policy import load_policy
    from arms.scoring.tables import score

    set_cpu(args.threads, "native")
    pairs = list(read_tokens(args.tokens)[: args.pairs])
    scored = {name: score(load_policy(args.model, None, name), pairs, 4) for name in ("fp32", *args.precisions)}
    columns = ["precision", "mean, nats per token", "largest", "mean of margins, nats", "other preference"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in args.precisions:
        both = list(zip(scored[name], scored["fp32"], strict=True))
        sides = ("chosen", "rejected")
        apart = [abs(a[f"{s}_logp"] - b[f"{s}_logp"]) / b[f"{s}_tokens"] for a, b in both for s in sides]
        margins = [[row["chosen_logp"] - row["rejected_logp"] for row in rows] for rows in both]
        moved = sum(abs(a - b) for a, b in margins) / len(margins)
        other = sum((a > 0) != (b > 0) for a, b in margins)
        print(f"| {name} | {sum(apart) / len(apart):.4f} | {max(apart):.4f} | {moved:.2f} | {other} of {len(pairs)} |")


if __name__ == "__main__":
    main()
