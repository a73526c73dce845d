"""One installed TRL: the right spelling of a DPOTrainer in this version, and a look at what it feeds the model.

Plain Python and what every version from 0.8 on has; what differs is asked of the signatures. Imported inside each
environment by probe.py and legacy.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tempfile
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainingArguments
from trl import DPOTrainer

ARGUMENTS = getattr(trl, "DPOConfig", TrainingArguments)
TOKENIZER = next(
    name for name in ("processing_class", "tokenizer") if name in inspect.signature(DPOTrainer.__init__).parameters
)
SPECIAL_TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
BETA = 0.1
OPTIONS = {"beta": BETA, "max_length": 64, "max_prompt_length": 32}
SIXSTEPS = {
    "per_device_train_batch_size": 64,  # all pairs: so that the order, each version's own, plays no part
    "num_train_epochs": 6,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "optim": "adamw_torch",
    "seed": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "remove_unused_columns": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": [],
    "disable_tqdm": True,
}


class Inputs:
    """The files of make_inputs.py, loaded anew for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The same file for all; its special tokens are named here, since their place in a folder has changed."""
        return PreTrainedTokenizerFast(tokenizer_file=str(self.folder / "model" / "tokenizer.json"), **SPECIAL_TOKENS)

    def base(self) -> transformers.PreTrainedModel:
        """The bare model, float32 (as its file)."""
        return AutoModelForCausalLM.from_pretrained(str(self.folder / "model"))

    def policy(self, adapter: str, **options: object) -> PeftModel:
        """The model with one adapter, to be trained."""
        return PeftModel.from_pretrained(self.base(), str(self.folder / adapter), **{"is_trainable": True, **options})

    def rows(self, **columns: float) -> Dataset:
        """The pairs, with the same further values in each."""
        return Dataset.from_list([{**pair, **columns} for pair in self.pairs])


def accepts(call: type, name: str) -> bool:
    """Whether a configuration class or a trainer takes this argument by name."""
    if dataclasses.is_dataclass(call):
        return name in {field.name for field in dataclasses.fields(call) if field.init}
    return name in inspect.signature(call.__init__).parameters


def spelled(options: dict) -> tuple[dict, dict]:
    """(of the arguments, of the trainer): DPO's options where this version takes them.

    What neither takes stays among the arguments, whose error then tells; the two lengths are only limits that no row
    reaches, and are left out.
    """
    of_arguments, of_trainer = {}, {}
    for name, value in options.items():
        if accepts(ARGUMENTS, name):
            of_arguments[name] = value
        elif accepts(DPOTrainer, name):
            of_trainer[name] = value
        elif name not in ("max_length", "max_prompt_length"):
            of_arguments[name] = value
    return of_arguments, of_trainer


def arguments(**options: object) -> TrainingArguments:
    """The training arguments of this version, with a folder that nothing is written to."""
    return ARGUMENTS(output_dir=tempfile.mkdtemp(), **{**SIXSTEPS, **options})


def right_trainer(kind: type, inputs: Inputs, model: torch.nn.Module, rows: Dataset, ref_model=None, **options):
    """A DPOTrainer (or a subclass, `kind`) as this version wants it."""
    of_arguments, of_trainer = spelled({**OPTIONS, **options})
    given = {"args": arguments(**of_arguments), "train_dataset": rows, TOKENIZER: inputs.tokenizer}
    return kind(model=model, ref_model=ref_model, **given, **of_trainer)


def watched(base: type = DPOTrainer) -> type:
    """A trainer class that keeps each unrounded loss in `losses`, and how many passes it took in `passes`."""

    class Watched(base):
        """Stock, but for the two lists."""

        def compute_loss(self, *positional, **named):
            """The loss as TRL computes it."""
            before = len(self.seen)
            found = super().compute_loss(*positional, **named)
            loss = found[0] if isinstance(found, tuple) else found
            self.losses.append(loss.item())
            self.passes.append(len(self.seen) - before)
            return found

    Watched.losses, Watched.passes, Watched.seen = [], [], []  # the class is made anew for each trainer
    return Watched


def see_ids(model: torch.nn.Module, seen: list) -> None:
    """Note the ids of every pass through a model, or a copy of it that is made later, in `seen`."""

    def note(_, positional, named):
        seen.append((positional[0] if positional else named["input"]).detach().clone())

    model.get_input_embeddings().register_forward_pre_hook(note, with_kwargs=True)
