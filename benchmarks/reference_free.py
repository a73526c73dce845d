"""What TRL 0.9.6 saves by `reference_free`: nothing. Its own DPOTrainer on a real model, with and without.

    .envs/driver/bin/snakemake --cores 1 results/demo/tokens/train_pairs.parquet
    .envs/train/bin/python benchmarks/reference_free.py results/demo

Each run is a process of its own that trains the whole model for some steps of one pair, on one thread, with TRL's
default reference (a copy of the model). Prints passes of the reference, CPU seconds of a step, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


def main() -> None:
    """Train both ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study with a model and tokens, such as results/demo")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", choices=["True", "False"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(args.study, args.one == "True", args.steps)))
        return
    print(f"{'reference_free':15} {'passes':>7} {'CPU s a step':>13} {'peak GB':>8}")
    for free in ("False", "True"):
        command = [sys.executable, __file__, str(args.study), "--steps", str(args.steps), "--one", free]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{free:15} {found['passes']:7} {found['seconds']:13.1f} {found['gigabytes']:8.2f}", flush=True)


def train(study: Path, reference_free: bool, steps: int) -> dict:
    """Passes of the reference, CPU seconds of a step and peak memory of one run."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from arms.data.token_rows import read_tokens
    from arms.data.tokens import load_tokenizer

    class PreTokenised(DPOTrainer):
        """Stock in everything but the tokeniser: the ids are ours."""

        def tokenize_row(self, feature, model=None):
            return {}

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    card = study / "model" / "model.json"
    with tempfile.TemporaryDirectory() as folder:
        trainer = PreTokenised(
            model=AutoModelForCausalLM.from_pretrained(study / "model" / "weights"),
            args=DPOConfig(
                output_dir=folder,
                reference_free=reference_free,
                max_steps=steps,
                per_device_train_batch_size=1,
                max_length=192,
                max_prompt_length=192,
                use_cpu=True,
                remove_unused_columns=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                list(map(stock_row, read_tokens(study / "tokens/train_pairs.parquet")[:steps]))
            ),
            tokenizer=load_tokenizer(card),
        )
        passes: list[int] = []
        trainer.ref_model.register_forward_hook(lambda *_: passes.append(1))
        began = time.process_time()
        trainer.train()
        seconds = (time.process_time() - began) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"passes": len(passes), "seconds": seconds, "gigabytes": peak}


def stock_row(pair: dict) -> dict:
    """A pair of token ids in the columns that TRL's own tokeniser would have made."""
    row: dict[str, list[int]] = {}
    for side in ("chosen", "rejected"):
        ids = pair["prompt_ids"] + pair[f"{side}_ids"]
        row[f"{side}_input_ids"], row[f"{side}_attention_mask"] = ids, [1] * len(ids)
        row[f"{side}_labels"] = [-100] * len(pair["prompt_ids"]) + pair[f"{side}_ids"]
    return row


if __name__ == "__main__":
    main()
