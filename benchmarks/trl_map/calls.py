"""Calls that people write, made one by one: accepted, or with which exact error? Imported by probe.py."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

import stack
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel
from stack import TOKENIZER, Inputs, accepts, arguments, spelled
from transformers import AutoModelForCausalLM, TrainingArguments

LIMITS = {"max_length": 64, "max_prompt_length": 32}
OF_DPO = {"beta": 0.3, **LIMITS, "padding_value": 77, "label_pad_token_id": -100, "truncation_mode": "keep_end"}
OF_DPO |= {"loss_type": "sigmoid", "precompute_ref_log_probs": False, "generate_during_eval": False}
OF_DPO |= {"model_adapter_name": "default", "ref_adapter_name": None, "force_use_ref_model": False}
OF_DPO |= {"reference_free": False, "is_encoder_decoder": False, "disable_dropout": True, "dataset_num_proc": None}
OF_ALL = {"evaluation_strategy": "no", "eval_strategy": "no", "no_cuda": True, "use_cpu": True, "warmup_ratio": 0.0}
OF_ALL |= {"warmup_steps": 0.1, "overwrite_output_dir": True, "logging_dir": "logs", "group_by_length": False}
OF_ALL |= {"train_sampling_strategy": "random"}
BY_VALUE = ("warmup_steps",)  # which are accepted or not by what they are
OF_SFT = {"max_seq_length": 64, "max_length": 64, "dataset_text_field": "text", "packing": False}
IMPORTS = [f"from trl import {name}" for name in ("DPOConfig", "SFTConfig", "ORPOTrainer", "KTOTrainer")]
IMPORTS += ["from trl import DataCollatorForCompletionOnlyLM", "from trl.experimental.orpo import ORPOTrainer"]
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"


def outcome_of(action: Callable[[], object]) -> dict:
    """What an action gave, if that is a dict, or the line that ends its traceback."""
    try:
        found = action()
        return {"outcome": "accepted", **(found if isinstance(found, dict) else {})}
    except Exception as error:
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
        return {"outcome": "error", "error": lines[0][:400]}


def all_calls(inputs: Inputs) -> dict[str, dict]:
    """What each call is -> what became of it."""
    found: dict[str, dict] = {}
    for statement in IMPORTS:
        found[statement] = outcome_of(lambda statement=statement: imports(statement))
    for kind, options, try_one in (
        ("DPOConfig", {**OF_DPO, "max_completion_length": 32, "rpo_alpha": None, **OF_ALL}, of_dpo_config),
        ("TrainingArguments", OF_ALL, of_training_arguments),
        ("SFTConfig", {**OF_SFT, "completion_only_loss": False, **OF_ALL}, of_sft_config),
        ("DPOTrainer", {**OF_DPO, "tokenizer": None, "processing_class": None}, of_dpo_trainer),
        ("SFTTrainer", {**OF_SFT, "tokenizer": None, "processing_class": None}, of_sft_trainer),
    ):
        for name, value in options.items():
            with heard(name) as said:
                outcome = outcome_of(lambda n=name, v=value, t=try_one: t(inputs, n, v))
            found[f"{kind}({name}={value if name in BY_VALUE else ''})"] = {**outcome, **said}
    for name, call in SPECIAL.items():
        with heard("") as _:
            found[name] = outcome_of(lambda call=call: call(inputs))
    return found


@contextlib.contextmanager
def heard(word: str) -> Iterator[dict[str, str]]:
    """Collects in "warning" the first line of the first Python warning that names a word."""
    said: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    texts = [f"{one.category.__name__}: {one.message}".splitlines()[0] for one in caught]
    if word and (
        named := [text for text in texts if f"`{word}`" in text or f" {word}." in text or f" {word} " in text]
    ):
        said["warning"] = named[0][:400]


def imports(statement: str) -> None:
    """An import, without the path that its error ends with."""
    try:
        exec(statement)  # noqa: S102
    except ImportError as error:
        raise ImportError(str(error).split(" (/")[0]) from None


def dpo(inputs: Inputs, without: tuple[str, ...] = (), **given: object):
    """A DPOTrainer in this version's right spelling but for what is given or left out, after one step."""
    in_arguments, in_trainer = spelled({k: v for k, v in stack.OPTIONS.items() if k not in given})
    right = {"args": None, "train_dataset": None, TOKENIZER: None, **in_trainer, **given}
    if right["args"] is None and "args" not in without:
        right["args"] = arguments(**in_arguments, max_steps=1)
    right["train_dataset"] = right["train_dataset"] or inputs.rows()
    right[TOKENIZER] = right[TOKENIZER] or inputs.tokenizer
    model = right.pop("model", None) or inputs.policy("fresh")
    trainer = trl.DPOTrainer(model, **{name: value for name, value in right.items() if name not in without})
    trainer.args.max_steps = 1
    trainer.train()
    return trainer


def of_dpo_config(inputs: Inputs, name: str, value: object, **more: object) -> dict | None:
    """DPOConfig(name=value), and a trainer with it. Without a DPOConfig there is nothing to try."""
    if not hasattr(trl, "DPOConfig"):
        return {"outcome": "absent"}
    options = {**{k: v for k, v in stack.OPTIONS.items() if accepts(trl.DPOConfig, k)}, name: value, **more}
    options |= {"use_cpu": True} if name != "no_cuda" else {}
    config = trl.DPOConfig(output_dir=tempfile.mkdtemp(), report_to=[], bf16=False, disable_tqdm=True, **options)
    return effect(dpo(inputs, args=config), name)


def of_training_arguments(inputs: Inputs, name: str, value: object) -> None:
    """TrainingArguments(name=value)."""
    TrainingArguments(output_dir=tempfile.mkdtemp(), **{name: value})


def of_dpo_trainer(inputs: Inputs, name: str, value: object) -> dict | None:
    """DPOTrainer(name=value); for a tokenizer, by that name alone."""
    if name in ("tokenizer", "processing_class"):
        dpo(inputs, without=() if name == TOKENIZER else (TOKENIZER,), **{name: inputs.tokenizer})
        return None
    return effect(dpo(inputs, **{name: value}), name)


def effect(trainer, name: str) -> dict | None:
    """What the trainer goes by, where a value may be accepted and do nothing."""
    if name == "beta":
        return {"effect": getattr(trainer, "beta", None) or trainer.args.beta}
    if name == "padding_value":
        held = [getattr(trainer, "padding_value", None), getattr(trainer.data_collator, "pad_token_id", None)]
        return {"effect": next((value for value in held if value is not None), None)}
    return None


def sft(inputs: Inputs, config: dict, **given: object) -> None:
    """An SFTTrainer in this version's right spelling but for what is given, after one step."""
    kind = getattr(trl, "SFTConfig", TrainingArguments)
    names = ("dataset_text_field", "max_seq_length", "max_length", "packing")
    wanted = {name: OF_SFT[name] for name in names if name not in (*config, *given)}
    in_config = {name: value for name, value in wanted.items() if accepts(kind, name)}
    in_trainer = {name: value for name, value in wanted.items() if not in_config and accepts(trl.SFTTrainer, name)}
    quiet = {"output_dir": tempfile.mkdtemp(), "report_to": [], "disable_tqdm": True, "bf16": False, "max_steps": 1}
    quiet |= {"use_cpu": True} if not {"no_cuda", "use_cpu"} & {*config} else {}
    args = kind(**quiet, **in_config, **config)
    tokenizer = "processing_class" if accepts(trl.SFTTrainer, "processing_class") else "tokenizer"
    if not {"tokenizer", "processing_class"} & {*given}:
        given[tokenizer] = inputs.tokenizer
    rows = Dataset.from_list([{"text": pair["prompt"] + pair["chosen"]} for pair in inputs.pairs])
    trl.SFTTrainer(model=inputs.base(), args=args, train_dataset=rows, **in_trainer, **given).train()


def of_sft_config(inputs: Inputs, name: str, value: object) -> dict | None:
    """SFTConfig(name=value), and a trainer with it."""
    if not hasattr(trl, "SFTConfig"):
        return {"outcome": "absent"}
    sft(inputs, {name: value})
    return None


def of_sft_trainer(inputs: Inputs, name: str, value: object) -> None:
    """SFTTrainer(name=value)."""
    sft(inputs, {}, **{name: value if value is not None else inputs.tokenizer})


def plain(**options: object) -> TrainingArguments:
    """transformers' own arguments."""
    options = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False, **options}
    return TrainingArguments(output_dir=tempfile.mkdtemp(), max_steps=1, **options)


def fresh_lora() -> LoraConfig:
    """A configuration of a fresh adapter."""
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def tokenizer_without(inputs: Inputs, name: str):
    """The tokenizer without one of its special tokens."""
    kept = {one: token for one, token in stack.SPECIAL_TOKENS.items() if one != name}
    file = str(inputs.folder / "model" / "tokenizer.json")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=file, **kept)


def messages(inputs: Inputs) -> None:
    """Pairs as lists of chat messages, with a tokenizer that has a template."""
    tokenizer = inputs.tokenizer
    tokenizer.chat_template = CHATML
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = [{k: [{"role": roles[k], "content": v}] for k, v in pair.items()} for pair in inputs.pairs]
    dpo(inputs, train_dataset=Dataset.from_list(rows), **{TOKENIZER: tokenizer})


def third_positional(inputs: Inputs) -> None:
    """DPOTrainer(model, ref_model, args, ...)."""
    of_arguments, _ = spelled(stack.OPTIONS)
    rest = {"train_dataset": inputs.rows(), TOKENIZER: inputs.tokenizer}
    trl.DPOTrainer(inputs.policy("fresh"), None, arguments(**of_arguments, max_steps=1), **rest).train()


def same_object(inputs: Inputs) -> None:
    """DPOTrainer(model, ref_model=model)."""
    model = inputs.base()
    dpo(inputs, model=model, ref_model=model)


def dtype(inputs: Inputs, name: str) -> None:
    """from_pretrained(torch_dtype=) or (dtype=); a name that the model does not know is its constructor's error."""
    AutoModelForCausalLM.from_pretrained(str(inputs.folder / "model"), **{name: torch.float32})


def only_policy(inputs: Inputs) -> None:
    """An adapter with a name of its own, and no word of it to the trainer."""
    folder = str(inputs.folder / "sft")
    dpo(inputs, model=PeftModel.from_pretrained(inputs.base(), folder, adapter_name="policy", is_trainable=True))


SPECIAL: dict[str, Callable[[Inputs], object]] = {
    "DPOTrainer(args=TrainingArguments())": lambda i: dpo(i, args=plain()),
    "DPOTrainer(args=TrainingArguments(), beta=)": lambda i: dpo(i, args=plain(), beta=0.1),
    "DPOTrainer() without a tokenizer": lambda i: dpo(i, without=(TOKENIZER,)),
    "DPOTrainer(model, ref_model, args)": third_positional,
    "DPOTrainer(model, ref_model=model)": same_object,
    "DPOTrainer(model, ref_model=, peft_config=)": lambda i: dpo(
        i, model=i.base(), ref_model=i.base(), peft_config=fresh_lora()
    ),
    "DPOTrainer(PeftModel, peft_config=)": lambda i: dpo(i, model=i.policy("sft"), peft_config=fresh_lora()),
    "DPOTrainer(PeftModel without is_trainable=True)": lambda i: dpo(i, model=i.policy("sft", is_trainable=False)),
    "DPOTrainer(PeftModel with adapter_name=)": only_policy,
    "DPOTrainer(), tokenizer without pad_token": lambda i: dpo(i, **{TOKENIZER: tokenizer_without(i, "pad_token")}),
    "DPOTrainer(), tokenizer without bos_token": lambda i: dpo(i, **{TOKENIZER: tokenizer_without(i, "bos_token")}),
    "DPOTrainer(), pairs as lists of messages": messages,
    "SFTTrainer(args=TrainingArguments())": lambda i: trl.SFTTrainer(
        model=i.base(),
        args=plain(remove_unused_columns=True),
        train_dataset=Dataset.from_list([{"text": pair["prompt"] + pair["chosen"]} for pair in i.pairs]),
    ).train(),
    "DPOConfig(label_pad_token_id=-7)": lambda i: of_dpo_config(i, "label_pad_token_id", -7),
    "DPOConfig(loss_type=['sigmoid', 'sft'], loss_weights=)": lambda i: of_dpo_config(
        i, "loss_type", ["sigmoid", "sft"], loss_weights=[1.0, 1.0]
    ),
    "from_pretrained(torch_dtype=)": lambda i: dtype(i, "torch_dtype"),
    "from_pretrained(dtype=)": lambda i: dtype(i, "dtype"),
    # last, since in some versions its default, bf16, stays on for whatever the process trains afterwards
    "DPOTrainer() without args": lambda i: dpo(i, without=("args",)),
}
