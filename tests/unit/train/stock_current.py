"""TRL 1.16's own DPOTrainer on the ids of our rows, its reference the copy of the adapter that it makes."""

from datasets import Dataset
from fresh import SEED, fresh_adapter, per_step
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.model.models import load_base

# What of a recipe's curves TRL 1.16 does not compute as TRL 0.9.6 and the papers do
UNLIKE = {
    "sigmoid, label smoothing": ("loss", "margin"),  # its sigmoid loss takes no notice of label_smoothing
    "ipo": ("margin",),  # it logs the margin of sums, while its loss is of means
}
SFT = {  # for stock_sft.sft_curves
    "named": {"max_length": 128, "bf16": False, "gradient_checkpointing": False},  # the last two are on by default
    "tokenizer_name": "processing_class",
}


class PreTokenised(DPOTrainer):
    """Stock in everything but the tokeniser: the ids are ours."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


def dpo_config(folder, recipe, **options):
    """TRL's arguments for one of our recipes."""
    accumulate = recipe["batch_size"] // recipe["micro_batch_size"]
    same_name = ("learning_rate", "weight_decay", "max_grad_norm", "beta", "loss_type")
    return DPOConfig(
        **{
            "output_dir": str(folder / "stock"),
            "per_device_train_batch_size": recipe["micro_batch_size"],
            "gradient_accumulation_steps": accumulate,
            "num_train_epochs": recipe["epochs"],
            "lr_scheduler_type": recipe["scheduler"],
            "warmup_steps": recipe["warmup_ratio"],
            "label_smoothing": recipe["label_smoothing"],
            **{name: recipe[name] for name in same_name},
            "seed": SEED,
            "optim": "adamw_torch",
            "bf16": False,  # its default is true
            "gradient_checkpointing": False,
            "max_length": 128,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "report_to": [],
            "remove_unused_columns": False,
            "disable_tqdm": True,
            **options,
        }
    )


def watch(trainer):
    """Let a stock trainer note each micro-batch: step, unrounded loss and margin. Returns the growing list."""
    seen, original = [], trainer._compute_loss

    def keep(model, inputs, return_outputs):
        loss = original(model, inputs, return_outputs)
        margin = trainer._metrics["train"]["rewards/margins"][-1]
        seen.append({"step": trainer.state.global_step, "loss": loss.item(), "margin": margin})
        return loss

    trainer._compute_loss = keep
    return seen


def stock_curves(study, arm, recipe):
    """Per-step loss and margin of TRL's own DPOTrainer. The kept adapter is DPO's reference: TRL 1.16 copies it."""
    card = study.folder / "model" / "model.json"
    base = load_base(card, "fp32")
    if arm == "sft_dpo":
        model = PeftModel.from_pretrained(base, str(study.folder / "sft"), is_trainable=True)
    else:
        model, _ = fresh_adapter(base)
    trainer = PreTokenised(
        model=model,
        args=dpo_config(study.folder, recipe),
        train_dataset=Dataset.from_list(list(read_tokens(study.folder / "pairs.parquet"))),
        processing_class=load_tokenizer(card),
    )
    seen = watch(trainer)
    trainer.train()
    return per_step(seen)
