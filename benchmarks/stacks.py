"""How far two studies are from each other, step by step: the same one on both stacks.

    .envs/stats/bin/python benchmarks/stacks.py results/demo results/demo-current

Prints the largest difference of each run that both have: of its losses, margins and mean log-probabilities over all
steps, and of the held-out or training log-probabilities of its tables (nats per token).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas

COLUMNS = ("loss", "margin", "logp_chosen", "logp_rejected")


def main() -> None:
    """Print a Markdown table."""
    one, other = map(Path, sys.argv[1:])
    print(f"| run | steps | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for path in sorted(one.glob("*/curves.parquet")):
        if not (there := other / path.relative_to(one)).is_file():
            continue
        curves = [pandas.read_parquet(each) for each in (path, there)]
        found = [largest(*(rows[name] for rows in curves)) if name in curves[0] else "" for name in COLUMNS]
        print(f"| {path.parent.name} | {len(curves[0])} | {' | '.join(found)} |")
    print("\n| table | nats per token |\n|---|---|")
    for path in sorted(one.glob("*/*_logps.parquet")):
        if not (there := other / path.relative_to(one)).is_file():
            continue
        means = [per_token(pandas.read_parquet(each)) for each in (path, there)]
        print(f"| {path.relative_to(one).with_suffix('')} | {largest(*means)} |")


def per_token(rows: pandas.DataFrame) -> pandas.Series:
    """Mean log-probabilities of chosen answers, then of rejected ones."""
    return pandas.concat([rows[f"{side}_logp"] / rows[f"{side}_tokens"] for side in ("chosen", "rejected")])


def largest(one: pandas.Series, other: pandas.Series) -> str:
    """The largest difference."""
    return f"{(one - other).abs().max():.1e}"


if __name__ == "__main__":
    main()
