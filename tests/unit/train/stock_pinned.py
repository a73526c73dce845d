"""TRL 0.9.6's own DPOTrainer on the ids of our rows, its reference a live copy of the adapter."""

from datasets import Dataset
from fresh import SEED, fresh_adapter, per_step
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.model.models import load_base

UNLIKE: dict[str, tuple[str, ...]] = {}
SFT = {"named": {"max_seq_length": 128}, "tokenizer_name": "tokenizer"}  # for stock_sft.sft_curves


class PreTokenised(DPOTrainer):
    """Stock in everything but the tokeniser: the ids are ours."""

    def tokenize_row(self, feature, model=None):
        return {}


def stock_rows(pairs):
    """Token rows in the columns that TRL's own tokeniser would have made."""
    rows = []
    for pair in pairs:
        row = {}
        for side in ("chosen", "rejected"):
            ids = pair["prompt_ids"] + pair[f"{side}_ids"]
            row[f"{side}_input_ids"] = ids
            row[f"{side}_attention_mask"] = [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(pair["prompt_ids"]) + pair[f"{side}_ids"]
        rows.append(row)
    return rows


def dpo_config(folder, recipe, **options):
    """TRL's arguments for one of our recipes."""
    accumulate = recipe["batch_size"] // recipe["micro_batch_size"]
    same_name = ("learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "beta", "loss_type")
    return DPOConfig(
        **{
            "output_dir": str(folder / "stock"),
            "per_device_train_batch_size": recipe["micro_batch_size"],
            "gradient_accumulation_steps": accumulate,
            "num_train_epochs": recipe["epochs"],
            "lr_scheduler_type": recipe["scheduler"],
            "label_smoothing": recipe["label_smoothing"],
            **{name: recipe[name] for name in same_name},
            "seed": SEED,
            "optim": "adamw_torch",
            "max_length": 128,
            "max_prompt_length": 128,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "report_to": [],
            "remove_unused_columns": False,
            "disable_tqdm": True,
            **options,
        }
    )


def live_reference(study):
    """The SFT adapter twice on one base: `policy` is trained, `reference` stays; with TRL's names for the two."""
    base = load_base(study.folder / "model" / "model.json", "fp32")
    model = PeftModel.from_pretrained(base, str(study.folder / "sft"), adapter_name="policy", is_trainable=True)
    model.load_adapter(str(study.folder / "sft"), adapter_name="reference")
    return model, {"model_adapter_name": "policy", "ref_adapter_name": "reference"}


def watch(trainer):
    """Let a stock trainer note each micro-batch: step, unrounded loss and margin. Returns the growing list."""
    seen, original = [], trainer.get_batch_loss_metrics

    def keep(model, batch, train_eval="train"):
        loss, metrics = original(model, batch, train_eval)
        seen.append(
            {"step": trainer.state.global_step, "loss": loss.item(), "margin": metrics["rewards/margins"].item()}
        )
        return loss, metrics

    trainer.get_batch_loss_metrics = keep
    return seen


def stock_curves(study, arm, recipe):
    """Per-step loss and margin of TRL's own DPOTrainer."""
    card = study.folder / "model" / "model.json"
    model, names = live_reference(study) if arm == "sft_dpo" else fresh_adapter(load_base(card, "fp32"))
    trainer = PreTokenised(
        model=model,
        args=dpo_config(study.folder, recipe, **names),
        train_dataset=Dataset.from_list(stock_rows(read_tokens(study.folder / "pairs.parquet"))),
        tokenizer=load_tokenizer(card),
    )
    seen = watch(trainer)
    trainer.train()
    return per_step(seen)
