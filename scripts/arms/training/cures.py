"""What to write instead, where a version of TRL or transformers refuses a call.

Which version refuses what is measured (benchmarks/trl_map/results.json); only the advice is written here, by the names
that calls have there. The proposed calls are among those measured, too: a version is told only what it took.
"""

from __future__ import annotations

from collections.abc import Iterator

# Argument -> what to do where no call takes it any more.
GONE = {
    "max_prompt_length": "leave it out; max_length cuts the whole row, so shorten or drop long prompts beforehand",
    "max_completion_length": "leave it out; max_length cuts the whole row",
    "padding_value": "leave it out and give the tokenizer a pad_token of its own",
    "label_pad_token_id": "leave it out; it is -100",
    "generate_during_eval": "leave it out and generate after training",
    "model_adapter_name": "leave it out and load the adapter under PEFT's own name, `default`: the trainer copies it",
    "ref_adapter_name": "leave it out and pass no ref_model; the trainer copies the adapter `default` as the reference",
    "force_use_ref_model": "leave it out",
    "reference_free": "leave it out; this DPOTrainer always has a reference",
    "is_encoder_decoder": "leave it out",
    "overwrite_output_dir": "leave it out",
    "logging_dir": "leave it out; the environment variable TENSORBOARD_LOGGING_DIR names the folder",
}
# Argument -> calls that take it or its successor, of the same class unless they name one.
SUCCESSORS = {
    "tokenizer": ("processing_class",),
    "processing_class": ("tokenizer",),
    "evaluation_strategy": ("eval_strategy",),
    "no_cuda": ("use_cpu",),
    "warmup_ratio": ("warmup_steps=0.1",),
    "warmup_steps=0.1": ("warmup_ratio",),
    "group_by_length": ("train_sampling_strategy",),
    "train_sampling_strategy": ("group_by_length",),
    "max_seq_length": ("max_length", "SFTConfig(max_seq_length=)", "SFTConfig(max_length=)"),
    "rpo_alpha": ("DPOConfig(loss_type=['sigmoid', 'sft'], loss_weights=)",),
}
NOTES = {
    "warmup_steps=": "a number below 1 is a share of all steps",
    "train_sampling_strategy=": "'group_by_length' is what group_by_length=True was",
    "loss_weights=": "the second weight is what rpo_alpha was",
}
# Call -> advice, calls that take its place.
WHOLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "from trl import DPOConfig": (
        "pass transformers' TrainingArguments as args, and DPO's own arguments to the trainer",
        ("DPOTrainer(beta=)",),
    ),
    "from trl import SFTConfig": (
        "pass transformers' TrainingArguments as args, and SFT's own arguments to the trainer",
        ("SFTTrainer(max_seq_length=)",),
    ),
    "from trl import DataCollatorForCompletionOnlyLM": (
        "give the rows the columns prompt and completion",
        ("SFTConfig(completion_only_loss=)",),
    ),
    "SFTConfig(completion_only_loss=)": (
        "mask what comes before the answer by a data_collator",
        ("from trl import DataCollatorForCompletionOnlyLM",),
    ),
    "from trl import ORPOTrainer": ("it has moved", ("from trl.experimental.orpo import ORPOTrainer",)),
    "from trl.experimental.orpo import ORPOTrainer": ("it is not there yet", ("from trl import ORPOTrainer",)),
    "DPOTrainer(args=TrainingArguments())": ("pass a trl.DPOConfig as args", ("from trl import DPOConfig",)),
    "DPOTrainer(args=TrainingArguments(), beta=)": (
        "pass a trl.DPOConfig as args, with beta in it",
        ("DPOConfig(beta=)",),
    ),
    "DPOTrainer() without args": (
        "pass args=DPOConfig(...) (TrainingArguments where TRL has none); on a CPU with bf16=False, use_cpu=True",
        (),
    ),
    "DPOTrainer() without a tokenizer": (
        "pass the tokenizer",
        ("DPOTrainer(tokenizer=)", "DPOTrainer(processing_class=)"),
    ),
    "DPOTrainer(model, ref_model, args)": ("name it, args=...; the third argument is beta here", ()),
    "DPOTrainer(model, ref_model=model)": ("leave ref_model out, or load the reference as a model of its own", ()),
    "DPOTrainer(model, ref_model=, peft_config=)": (
        "leave ref_model out: with a fresh adapter the reference is the model without it",
        (),
    ),
    "DPOTrainer(PeftModel, peft_config=)": (
        "leave peft_config out to train this adapter; for a fresh one on top, merge_and_unload() and save first",
        (),
    ),
    "DPOTrainer(PeftModel without is_trainable=True)": ("PeftModel.from_pretrained(..., is_trainable=True)", ()),
    "DPOTrainer(PeftModel with adapter_name=)": ("load the adapter without adapter_name, so that it is `default`", ()),
    "DPOTrainer(), tokenizer without pad_token": (
        "give the tokenizer a pad_token, better not the end-of-sequence token: SFT would not learn to stop",
        (),
    ),
    "DPOTrainer(), tokenizer without bos_token": (
        "set tokenizer.bos_token to the token that every prompt begins with; it is not doubled",
        (),
    ),
    "DPOTrainer(), pairs as lists of messages": (
        "make texts of them first, by tokenizer.apply_chat_template(..., tokenize=False)",
        (),
    ),
    "SFTTrainer(args=TrainingArguments())": (
        "name the column of texts",
        ("SFTConfig(dataset_text_field=)", "SFTTrainer(dataset_text_field=)"),
    ),
    "DPOConfig(label_pad_token_id=-7)": ("leave it out; it is -100", ()),
    "DPOConfig(loss_type=['sigmoid', 'sft'], loss_weights=)": (
        "this version takes one loss, and the NLL of the chosen answers by rpo_alpha",
        ("DPOConfig(rpo_alpha=)",),
    ),
    "from_pretrained(dtype=)": ("it has another name", ("from_pretrained(torch_dtype=)",)),
    "columns of reference log-probabilities and precompute_ref_log_probs=True": (
        "remove the columns, or leave precompute_ref_log_probs out",
        (),
    ),
}


def cure(call: str, taken: set[str]) -> str:
    """What to do where a call is refused; "" if nothing is known.

    call: its name in results.json. taken: the calls that this version took.
    """
    advice, instead = WHOLE.get(call, ("", ()))
    kind, _, argument = call.rstrip("=)").partition("(")
    if not advice:
        instead = tuple(successors(kind, argument))
    proposed = next((one for one in instead if one in taken and one != call), "")
    if proposed:
        notes = [note for name, note in NOTES.items() if name in proposed]
        return "; ".join([*filter(None, [advice]), f"write {proposed}", *notes])
    return advice or GONE.get(argument, "")


def successors(kind: str, argument: str) -> Iterator[str]:
    """Calls that may take an argument's place: its successor's, then the configuration's or the trainer's."""
    for name in SUCCESSORS.get(argument, ()):
        yield name if "(" in name else f"{kind}({name})" if "=" in name else f"{kind}({name}=)"
    stem = kind.removesuffix("Trainer").removesuffix("Config")
    names = (argument, "max_seq_length") if (stem, argument) == ("SFT", "max_length") else (argument,)
    yield from (f"{stem}{part}({name}=)" for part in ("Config", "Trainer") for name in names)
