"""A reward model: a sequence classifier with one output, which scores an answer to a prompt by itself.

Only safetensors are read, and no code that comes with a model is ever run. One text at a time, so no padding decides
last bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arms.data.templates import rendered
from arms.job.files import UserError
from arms.stacks import stack

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


def check_reward_model(folder: Path) -> dict[str, Any]:
    """What a reward model is, from its files alone; UserError if it is none, or one without its head."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever transformers raises about a folder that it cannot read
        words = " ".join(str(error).split())[:200]
        raise UserError(f"the pinned transformers cannot read it without code of its own: {words}") from None
    if type(config) not in CLASSES:
        raise UserError(f"{config.model_type} models cannot score texts in the pinned transformers; choose another one")
    if config.num_labels != 1:
        raise UserError(f"it has {config.num_labels} outputs, and a reward model has one; choose another one")
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names |= set(weights.keys())
    head = [name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")]
    if lost := [name for name in head if name not in names]:
        raise UserError(f"its weights lack {lost[0]}, without which every score is random; give a trained reward model")
    return {"architecture": config.model_type, "chat_template": tokenizer.chat_template is not None}


class RewardModel:
    """The loaded model of a folder, on a GPU if the job has one."""

    def __init__(self, folder: Path, precision: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        stack.quiet()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        self.model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            **{stack.DTYPE: getattr(torch, PRECISIONS[precision])},
            output_loading_info=True,
        )
        if info["missing_keys"] or info["mismatched_keys"]:
            lost = [*info["missing_keys"], *info["mismatched_keys"]][0]
            raise UserError(f"{folder}: the weights lack {lost}, so scores would be random; give a whole reward model")
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        # With one text there is no padding. Decoders would take the first pad token for the end, and often that is EOS,
        # which ends turns, too.
        self.model.config.pad_token_id = None
        self.longest = getattr(self.model.config, "max_position_embeddings", None)

    def encoded(self, question: str, answer: str) -> dict[str, Any]:
        """A prompt and its answer in the model's chat template; without one as a pair of texts."""
        import torch

        if self.tokenizer.chat_template is None:
            return dict(self.tokenizer(question, answer, return_tensors="pt"))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = rendered(self.tokenizer, turns)
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def score(self, question: str, answer: str) -> float:
        """The reward; UserError for a text that is too long, and for a score that is no number."""
        import torch

        inputs = self.encoded(question, answer)
        length = inputs["input_ids"].shape[1]
        if self.longest is not None and length > self.longest:
            raise UserError(f"prompt and answer have {length} tokens, and the reward model takes {self.longest}")
        with torch.inference_mode():
            found = self.model(**{name: value.to(self.model.device) for name, value in inputs.items()}).logits
        value = float(found.float().flatten()[0])
        if value != value:
            raise UserError("the reward model's score is no number; try precision: fp32")
        return value
