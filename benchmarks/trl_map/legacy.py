"""Train a DPO run of a finished study once more, with the stock DPOTrainer of this environment, and compare the losses.

    .envs/map-0.8.6/bin/python benchmarks/trl_map/legacy.py results/smoke sft_dpo-seed1 dpo_only-seed1

The token ids, the weights that it starts from, the recipe and the order of rows are the study's; trainer, loss and the
reference, which runs live, are TRL's. Exit code 1 if the losses of a step differ by more than 1e-4. For fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pandas
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from stack import TOKENIZER, arguments, spelled, watched
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

TOLERANCE = 1e-4
SAME_NAME = ("learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "gradient_checkpointing")


class PreTokenised(trl.DPOTrainer):
    """Stock in everything but the tokeniser: the ids are the study's."""

    def tokenize_row(self, feature, model=None):
        """Nothing to add."""
        return {}


def main() -> None:
    """Train each run and say how far the losses are from the study's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the folder of a finished study")
    parser.add_argument("runs", nargs="+", help="such as sft_dpo-seed1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    worst = 0.0
    for run in args.runs:
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = losses(args.results, run)
        ours = pandas.read_parquet(args.results / run / "curves.parquet")["loss"].tolist()
        if len(ours) != len(theirs):
            sys.exit(f"{run}: {len(theirs)} steps, the study had {len(ours)}")
        apart = max(abs(one - other) for one, other in zip(ours, theirs))  # noqa: B905
        print(f"TRL {trl.__version__}, {run}: {len(ours)} steps, loss {ours[0]:.6f} to {ours[-1]:.6f}; "
              f"at most {apart:.1e} from the study's")  # fmt: skip
        worst = max(worst, apart)
    sys.exit(worst > TOLERANCE)


def losses(results: Path, run: str) -> list[float]:
    """The loss of each step of a run, trained anew."""
    manifest = json.loads((results / run / "train.manifest.json").read_text(encoding="utf-8"))
    settings, seed = manifest["settings"], int(manifest["wildcards"]["seed"])
    recipe = settings["dpo"]
    accumulate = recipe["batch_size"] // recipe["micro_batch_size"]
    model, names = policy(results, run, settings["lora"], seed)
    options = {"beta": recipe["beta"], "loss_type": recipe["loss_type"], "label_smoothing": recipe["label_smoothing"]}
    options |= {"max_length": settings["max_length"], "max_prompt_length": settings["max_length"], **names}
    of_arguments, of_trainer = spelled(options)
    kind = watched(PreTokenised)
    kind(
        model=model,
        ref_model=None,
        args=arguments(
            per_device_train_batch_size=recipe["micro_batch_size"],
            gradient_accumulation_steps=accumulate,
            num_train_epochs=recipe["epochs"],
            lr_scheduler_type=recipe["scheduler"],
            **{name: recipe[name] for name in SAME_NAME},
            seed=seed,
            **of_arguments,
        ),
        train_dataset=rows(results, recipe["batch_size"]),
        **{TOKENIZER: AutoTokenizer.from_pretrained(str(results / "model" / "weights"))},
        **of_trainer,
    ).train()
    return [sum(kind.losses[at : at + accumulate]) / accumulate for at in range(0, len(kind.losses), accumulate)]


def policy(results: Path, run: str, lora: dict, seed: int) -> tuple[PeftModel, dict]:
    """The model that a run starts from, and TRL's names for policy and reference."""
    base = AutoModelForCausalLM.from_pretrained(str(results / "model" / "weights"))
    if run.startswith("sft_dpo"):
        folder = str(results / f"sft-seed{seed}" / "adapter")
        model = PeftModel.from_pretrained(base, folder, adapter_name="policy", is_trainable=True)
        model.load_adapter(folder, adapter_name="reference")
        return model, {"model_adapter_name": "policy", "ref_adapter_name": "reference"}
    set_seed(seed)
    shape = {"r": lora["rank"], "lora_alpha": lora["alpha"], "target_modules": lora["target_modules"]}
    return get_peft_model(base, LoraConfig(**shape, lora_dropout=lora["dropout"], task_type="CAUSAL_LM")), {}


def rows(results: Path, batch: int) -> Dataset:
    """The study's pairs, as many as fill whole batches, in the columns that TRL's own tokeniser would have made."""
    pairs = pandas.read_parquet(results / "tokens" / "train_pairs.parquet").to_dict("records")
    found = []
    for pair in pairs[: len(pairs) // batch * batch]:
        row = {}
        for side in ("chosen", "rejected"):
            prompt, answer = pair["prompt_ids"].tolist(), pair[f"{side}_ids"].tolist()
            row[f"{side}_input_ids"] = prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
            row[f"{side}_labels"] = [-100] * len(prompt) + answer
        found.append(row)
    return Dataset.from_list(found)


if __name__ == "__main__":
    main()
