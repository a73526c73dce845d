"""Losses of the added arms of a finished study beside the papers' equations, step by step, on its real model.

    .envs/train/bin/python benchmarks/objectives.py results/demo [--steps 6]

For each of orpo_only, simpo_only, kto_only and sft_kto that the study has trained (first seed, fp32, no dropout), a
loop of PyTorch alone trains again, by the equations of tests/unit/train/test_objectives.py: no Trainer, no padding, no
forked rows, no table. Prints the largest difference between its losses and those on record (curves.parquet), in nats.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "unit" / "train"), str(ROOT / "tests")]
sys.path.append(str(ROOT / ".envs" / "pytest" / "lib" / "python3.11" / "site-packages"))  # what the tests import


def main() -> None:
    """Train again, compare, print a line for each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="results/<study>")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps, of the first epoch")
    args = parser.parse_args()

    import pandas

    from arms.data.token_rows import read_tokens
    from arms.job.files import read_json

    pairs = list(read_tokens(args.study / "tokens" / "train_pairs.parquet"))
    for arm in ("orpo_only", "simpo_only", "kto_only", "sft_kto"):
        runs = sorted(args.study.glob(f"{arm}-seed*/train.manifest.json"))
        if runs:
            ours = pandas.read_parquet(runs[0].with_name("curves.parquet"))["loss"].tolist()[: args.steps]
            seed = read_json(runs[0].with_name("observed.json"))["seed"]
            paper = losses(args.study, pairs, arm, seed, read_json(runs[0])["settings"], len(ours))
            apart = max(abs(one - other) for one, other in zip(ours, paper, strict=True))
            print(f"{arm}: {len(ours)} steps, losses {ours[0]:.4f} to {ours[-1]:.4f}, largest difference {apart:.1e}")


def losses(study: Path, pairs: list[dict], arm: str, seed: int, settings: dict, steps: int) -> list[float]:
    """The loss of each of the first steps, by the equations."""
    import torch
    from peft import PeftModel, get_peft_model
    from test_objectives import equation, learning_rate, mismatch
    from transformers import AutoModelForCausalLM, set_seed

    from arms.model.models import lora_config

    recipe, weights = settings[settings["objective"]], str(study / "model" / "weights")
    base, reference = (AutoModelForCausalLM.from_pretrained(weights, torch_dtype=torch.float32) for _ in range(2))
    if arm == "sft_kto":
        policy = PeftModel.from_pretrained(base, str(study / f"sft-seed{seed}" / "adapter"), is_trainable=True)
        reference = PeftModel.from_pretrained(reference, str(study / f"sft-seed{seed}" / "adapter"))
    else:
        set_seed(seed)
        policy = get_peft_model(base, lora_config(settings["lora"]))
    policy.eval()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.999), eps=1e-8, weight_decay=recipe["weight_decay"])
    others, order = mismatch(pairs), torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    size, micro, found = recipe["batch_size"], recipe["micro_batch_size"], list[float]()
    for step in range(steps):
        parts = []
        for first in range(step * size, (step + 1) * size, micro):
            some = order[first : first + micro]
            rows, mismatched = ([table[i] for i in some] for table in (pairs, others))
            loss = equation(settings["objective"], recipe, policy, reference, rows, mismatched)
            (loss * micro / size).backward()
            parts.append(loss.item())
        torch.nn.utils.clip_grad_norm_(trained, recipe["max_grad_norm"])
        rate = learning_rate(recipe, step, recipe["epochs"] * len(pairs) // size)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        found.append(sum(parts) / len(parts))
    return found


if __name__ == "__main__":
    main()
