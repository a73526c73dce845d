"""TRL's own SFTTrainer on the ids of our rows, of either stack."""

from datasets import Dataset
from fresh import SEED, fresh_adapter
from transformers import DataCollatorForSeq2Seq
from trl import SFTConfig, SFTTrainer

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.model.models import load_base


def sft_rows(study):
    """The study's SFT rows as ids, and labels of the completions alone."""
    rows = read_tokens(study.folder / "sft.parquet")
    return [
        {
            "input_ids": row["prompt_ids"] + row["completion_ids"],
            "attention_mask": [1] * len(row["prompt_ids"] + row["completion_ids"]),
            "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
        }
        for row in rows
    ]


def sft_curves(study, recipe, named, tokenizer_name):
    """The loss of each step of TRL's own SFTTrainer, whose batches are micro-batches.

    named: arguments that this version of TRL names or sets in its own way. tokenizer_name: of that argument.
    """
    card, seen = study.folder / "model" / "model.json", []

    class Watched(SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            seen.append(loss.item())
            return loss

    options = {name: recipe[name] for name in ("learning_rate", "weight_decay", "max_grad_norm")}
    arguments = SFTConfig(
        str(study.folder / "stock"),
        per_device_train_batch_size=recipe["batch_size"],
        num_train_epochs=recipe["epochs"],
        lr_scheduler_type=recipe["scheduler"],
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=SEED,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        **named,
        **options,
    )
    tokenizer = load_tokenizer(card)
    model, _ = fresh_adapter(load_base(card, "fp32"))
    collator = DataCollatorForSeq2Seq(tokenizer)
    rows = Dataset.from_list(sft_rows(study))
    Watched(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, **{tokenizer_name: tokenizer}
    ).train()
    return seen
