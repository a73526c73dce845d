"""What starts alike in every program that trains: the seed, a fresh adapter, and steps of micro-batches."""

import pandas
from conftest import LORA
from peft import LoraConfig, get_peft_model
from transformers import set_seed

SEED = 1


def lora_config():
    """PEFT's configuration of the study's LORA settings."""
    return LoraConfig(
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules=LORA["target_modules"],
        task_type="CAUSAL_LM",
    )


def fresh_adapter(base):
    """A new LoRA adapter: its reference is the base, which TRL gets by switching the adapter off."""
    set_seed(SEED)
    return get_peft_model(base, lora_config()), {}


def per_step(seen):
    """Mean over the micro-batches of each optimiser step."""
    return pandas.DataFrame(seen).groupby("step").mean()
