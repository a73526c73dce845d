"""The pinned stack: torch 2.3, transformers 4.43.4 (July 2024), TRL 0.9.6. The reference of every other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KNOWN = "the pinned transformers {version} (July 2024)"
DTYPE = "torch_dtype"  # what from_pretrained and from_config call the dtype of the weights
CACHE = "past_key_values"  # what a forward pass calls its cache
IDENTITY: dict[str, str] = {}  # what an adapter says of the stack that it was trained on; nothing: of this one
LOGGED_RATE = 1  # which learning rate the Trainer logs of a step: 0 that of the step, 1 the next
QUANTIZES_ON_CPU = False  # bitsandbytes 0.43.3 has kernels for CUDA alone

# Model types that have been trained, scored and asked in a tiny study (docs/models.md).
SUPPORTED = (
    *("biogpt", "bloom", "codegen", "cohere", "dbrx", "falcon", "gemma", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox"),
    *("gptj", "llama", "mistral", "mixtral", "mpt", "olmo", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen2_moe"),
    *("stablelm", "starcoder2", "xglm"),
)
REFUSED = {
    "gemma2": "its answers to a batch of prompts are not those to each prompt alone",
    "jamba": "its state reads the padding before a prompt, so answers depend on the batch",
    "jetmoe": "its output head cannot be told from its body",
    "mamba": "it takes no mask, so answers depend on the batch",
    "recurrent_gemma": "the pinned transformers cannot let it answer",
    "rwkv": "its state reads the padding before a prompt, so answers depend on the batch",
}
# Those that take a 4-D attention mask as it is; `arms.scoring.agreement` tries it each time.
FORKING = (
    *("cohere", "gemma", "llama", "mistral", "mixtral", "olmo", "phi", "phi3"),
    *("qwen2", "qwen2_moe", "stablelm", "starcoder2"),
)
SCALES_ROPE = ("falcon", "gpt_neox", "llama", "olmo", "persimmon", "phi", "phi3", "stablelm")  # others ignore the key
COMPUTES_WINDOW = ("mistral",)  # others look at everything before a token, unless flash attention is installed
COUNTS_COLUMNS = ()  # whose windows and distances count padding inside a row, of those with a cache
# Names of what version 5 writes into `rope_parameters`: base, and share of a head that turns.
ROPE_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}


def quiet() -> None:
    """Loading weights shows nothing here."""


def config_of(folder: Path, raw: dict) -> PretrainedConfig:
    """The configuration in config.json, `raw`, which transformers 4 or 5 wrote. ValueError where 4.43 lacks a name."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if not isinstance(raw.get("rope_parameters"), dict):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return CONFIG_MAPPING[raw["model_type"]].from_dict(raw | in_old_names(raw))


def in_old_names(raw: dict) -> dict:
    """What transformers 4.43 calls the `rope_parameters` of a configuration of version 5.

    4.43 would take no notice of them, and turn by its default base of 10000. Raises ValueError if it has no such names.
    """
    import inspect

    from transformers import CONFIG_MAPPING

    rope = dict(raw["rope_parameters"])
    kind, share = rope.pop("rope_type", "default"), rope.pop("partial_rotary_factor", 1.0)
    base_name, share_name = ROPE_NAMES.get(raw["model_type"], ("rope_theta", "partial_rotary_factor"))
    names = {base_name: rope.pop("rope_theta", None), share_name: None if share == 1.0 else share}
    names = {name: value for name, value in names.items() if value is not None}
    names["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    known = inspect.signature(CONFIG_MAPPING[raw["model_type"]].__init__).parameters
    absent = [name for name, value in names.items() if name not in known and value is not None]
    absent += list(rope) if kind == "default" else []
    if absent:
        raise ValueError(
            f"`rope_parameters` (transformers 5 wrote it) has {absent[0]}, which the pinned transformers does not know "
            f"in a {raw['model_type']}: it would turn positions otherwise"
        )
    return names


def rope_kind(config: PretrainedConfig) -> str | None:
    """The type of `rope_scaling`: linear, dynamic, llama3, ...; None if positions are not scaled."""
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    return None if kind == "default" else kind


def rope_factor(config: PretrainedConfig) -> float:
    """By how much `rope_scaling` stretches the model's positions."""
    return config.rope_scaling["factor"]


def wrong_rope(config: PretrainedConfig) -> str:
    """What this transformers does with `rope_scaling` that config.json does not mean; "" if nothing."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = rope_kind(config)
    if kind is None:
        return ""
    if config.model_type not in SCALES_ROPE:
        return "ignores it"
    if kind not in (*ROPE_INIT_FUNCTIONS, "su"):
        return "does not know it"
    if kind == "yarn" or (kind == "longrope" and config.model_type != "phi3"):
        return "reads its lengths otherwise than later versions"
    return ""


def original_positions(config: PretrainedConfig) -> int:
    """The positions that a model with longrope had before they were stretched."""
    return config.original_max_position_embeddings


def windows(config: PretrainedConfig) -> dict[str, int | None]:
    """The sliding windows that a model of FORKING computes, by kind of layer: tokens, itself included; None: all."""
    return {"full_attention": config.sliding_window if config.model_type == "mistral" else None}


def uncomputed_window(config: PretrainedConfig) -> int | None:
    """The model's sliding window, if this transformers has one in its configuration and does not compute it."""
    window = getattr(config, "sliding_window", None)
    computed = config.model_type in COMPUTES_WINDOW or not getattr(config, "use_sliding_window", True)
    return None if computed else window


def misfits(model: PreTrainedModel, found: dict) -> tuple[list[str], list[str], list[tuple]]:
    """(Names that the weight files lack, that the model does not read, (name, shape, the model's shape) of others).

    found: name -> shape of each tensor in the files.
    """
    import re

    prefix = f"{model.base_model_prefix}."  # some files name the tensors without it (GPT-2)
    stored = {name.removeprefix(prefix): shape for name, shape in found.items()}
    tied = list(model._tied_weights_keys or []) if model.config.tie_word_embeddings else []
    expected = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = [*tied, *(model._keys_to_ignore_on_load_missing or [])]
    unread = list(model._keys_to_ignore_on_load_unexpected or [])

    def without(names: set[str], patterns: list[str]) -> list[str]:
        return sorted(name for name in names if not any(re.search(pattern, prefix + name) for pattern in patterns))

    lacking, left = without(set(expected) - set(stored), optional), without(set(stored) - set(expected), unread)
    both = sorted(set(stored) & set(expected))
    return lacking, left, [(name, stored[name], expected[name]) for name in both if stored[name] != expected[name]]


def refusal(config: PretrainedConfig) -> str:
    """Why a model of a type in SUPPORTED is not taken all the same; "" if it is."""
    return ""


def without_clock(tokenizer: PreTrainedTokenizerBase) -> None:
    """The chat template to be used; None: the tokenizer's own, which gets no clock from this transformers."""


def caches(model: PreTrainedModel) -> bool:
    """Whether a model keeps its texts in a cache of transformers' class."""
    return bool(model._supports_cache_class and model._supports_default_dynamic_cache())
