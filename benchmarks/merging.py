"""What merging an SFT adapter into its base does to log-probabilities, in each precision.

    .envs/driver/bin/snakemake --cores 1 results/demo/sft-seed1/heldout_logps.parquet
    .envs/train/bin/python benchmarks/merging.py results/demo

Each row compares the base with the adapter beside it, as training has it, with the merged weights, on the answers of
held-out pairs. fp32 and bf16 are what rule merge_sft does. int8 and nf4 are rounded here, in plain PyTorch and without
a GPU, as bitsandbytes stores them: int8 by the largest value of a row, nf4 (Dettmers et al. 2023, arXiv:2305.14314,
appendix E) by that of 64 numbers. The products are in float32, so that only the weights are rounded; the merged sum is
rounded again. The last column is how far the merged weights are from the base, as a share of what SFT did to it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

if TYPE_CHECKING:
    import torch

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def main() -> None:
    """Score the pairs under each policy and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study that has an SFT adapter, such as results/demo")
    parser.add_argument("--run", default="sft-seed1")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8", "nf4"])
    parser.add_argument("--pairs", type=int, default=48, help="how many held-out pairs are scored")
    args = parser.parse_args()

    from arms.data.token_rows import read_tokens
    from arms.model.cpu import set_cpu
    from arms.scoring.policy import load_policy

    set_cpu(1, "native")
    card, adapter = args.study / "model/model.json", args.study / args.run / "adapter/arm.json"
    pairs = list(read_tokens(args.study / "tokens/heldout_pairs.parquet")[: args.pairs])
    print(f"{len(pairs)} pairs; nats per token of an answer: mean and largest of each change")
    print(f"{'precision':10} {'SFT: mean':>10} {'largest':>9} {'merging: mean':>14} {'largest':>9} {'left of SFT':>12}")
    for precision in args.precisions:
        rounded = {"int8": int8, "nf4": nf4}.get(precision)
        loaded = precision if rounded is None else "fp32"
        base = load_policy(card, None, loaded)
        if rounded:
            for weight in linear_weights(base.model):
                weight.data = rounded(weight.data)
        before = answers(base, pairs)
        policy = replace(base, model=adapted(base.model, adapter))
        apart = answers(policy, pairs)
        merged = policy.model.merge_and_unload(safe_merge=True)
        if rounded:
            for weight in linear_weights(merged):
                weight.data = rounded(weight.data)
        together = answers(replace(base, model=merged), pairs)
        sft, merging = (apart - before).abs(), (together - apart).abs()
        numbers = f"{sft.mean():10.4f} {sft.max():9.4f} {merging.mean():14.2g} {merging.max():9.2g}"
        print(f"{precision:10} {numbers} {(together - before).abs().mean() / sft.mean():12.1%}", flush=True)


def adapted(base, adapter: Path):
    """The base with the adapter beside `adapter` (arm.json), for scoring."""
    from arms.model.models import load_adapter

    return load_adapter(base, adapter).eval()


def answers(policy, pairs: list[dict]) -> torch.Tensor:
    """Mean log-probability per token (2 * pairs,) of each answer."""
    import torch

    from arms.scoring.tables import score

    rows = [row for start in range(0, len(pairs), 8) for row in score(policy, pairs[start : start + 8], 8)]
    sides = ("chosen", "rejected")
    return torch.tensor([row[f"{side}_logp"] / row[f"{side}_tokens"] for row in rows for side in sides])


def linear_weights(model):
    """The weights that bitsandbytes rounds: those of every linear layer but the head."""
    import torch

    head = model.get_output_embeddings()
    return [one.weight for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not head]


def int8(weight: torch.Tensor) -> torch.Tensor:
    """A weight (rows, columns) after a way through int8: 255 levels up to each row's largest value."""
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / step).round() * step


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """A weight after a way through nf4: the nearest of 16 levels, in blocks of 64 numbers with one largest value."""
    import torch

    levels = torch.tensor(NF4)
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    between = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(blocks / largest, between)] * largest).reshape(weight.shape)


if __name__ == "__main__":
    main()
