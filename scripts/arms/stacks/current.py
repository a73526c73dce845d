"""The current stack: torch 2.15, transformers 5.24, TRL 1.16 (November 2026). For today's models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KNOWN = "transformers {version} of the current stack"
DTYPE = "dtype"  # torch_dtype is deprecated
CACHE = "cache"  # past_key_values is deprecated
IDENTITY = {"stack": "current"}  # what an adapter says of the stack that it was trained on
LOGGED_RATE = 0  # which learning rate the Trainer logs of a step: 0 that of the step, 1 the next
QUANTIZES_ON_CPU = True  # bitsandbytes 0.50 has kernels for both

# Model types that have been trained, scored and asked in a tiny study (docs/models.md).
SUPPORTED = (
    *("apertus", "arcee", "biogpt", "bloom", "codegen", "cohere", "cohere2", "cwm", "deepseek_v2", "deepseek_v3"),
    *("doge", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "flex_olmo", "gemma", "gemma2", "gemma3_text"),
    *("gemma4_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj"),
    *("granite", "granitemoe", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "jetmoe", "lfm2", "llama"),
    *("ministral", "ministral3", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt"),
    *("persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_text", "qwen3_moe", "qwen3_next"),
    *("seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm"),
)
REFUSED: dict[str, str] = {
    "dbrx": "transformers 5 cannot read its configuration",
    "falcon_h1": "PEFT adapts only some of its linear layers",
    "falcon_mamba": "PEFT adapts only some of its linear layers",
    "mamba": "PEFT adapts only some of its linear layers",
    "mamba2": "PEFT adapts only some of its linear layers",
    "phimoe": "PEFT takes its router for a linear layer",
    "recurrent_gemma": "transformers 5 cannot let it answer from its cache",
    "rwkv": "its state reads the padding before a prompt, so answers depend on the batch",
}
# Those that take a 4-D attention mask as it is, or one for each kind of layer; `arms.scoring.agreement` tries it.
FORKING = (
    *("apertus", "arcee", "codegen", "cohere", "cohere2", "cwm", "deepseek_v2", "deepseek_v3", "ernie4_5"),
    *("ernie4_5_moe", "exaone4", "falcon", "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe"),
    *("gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "helium", "hunyuan_v1_dense"),
    *("hunyuan_v1_moe", "jetmoe", "llama", "ministral", "ministral3", "mistral", "mixtral", "nemotron", "olmo"),
    *("olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    *("seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma"),
)
# Whose code knows nothing of `rope_scaling`: it may be in config.json, and is ignored.
IGNORES_ROPE = (
    *("biogpt", "bloom", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "jamba", "mpt", "opt", "xglm"),
)
# Who computes `sliding_window`, in all layers or in those of its kind. Others look at everything before a token.
COMPUTES_WINDOW = (
    *("cohere2", "cwm", "doge", "exaone4", "gemma2", "gemma3_text", "gemma4_text", "gpt_oss", "ministral"),
    *("ministral3", "mistral", "mixtral", "olmo3", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
    *("starcoder2", "vaultgemma"),
)
COUNTS_COLUMNS = ("gpt_neo", "mpt")  # whose windows and distances count padding inside a row


def quiet() -> None:
    """No bar while weights load or are written, nor what packages tell each other: a log has lines of its own."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning, "transformers")  # PEFT calls it by old names


def config_of(folder: Path, raw: dict) -> PretrainedConfig:
    """The configuration in config.json, `raw`, whichever version wrote it: version 5 reads the names of both.

    Raises ValueError where it would turn positions otherwise than the file says.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None
    found = getattr(config, "rope_parameters", None) or {}
    foreign = [kind for kind, rope in found.items() if isinstance(rope, dict) and "rope_type" in found]
    if foreign:
        raise ValueError(
            f"`rope_parameters` has {foreign[0]}, a kind of layer that a {config.model_type} does not have"
        )
    if any(rope.get("type", "default") != "default" == rope.get("rope_type") for rope in _ropes(config)):
        raise ValueError(
            "`rope_scaling` calls its kind `type`, of which transformers takes no notice: name it `rope_type`"
        )
    stated, local = raw.get("rope_theta"), raw.get("rope_local_base_freq")
    for base in [rope["rope_theta"] for rope in _ropes(config) if "rope_theta" in rope]:
        if stated is not None and base not in (stated, local):
            raise ValueError(f"`rope_theta` is {stated}, and transformers reads {base} for some layers")
    return config


def _ropes(config: PretrainedConfig) -> list[dict]:
    """The `rope_parameters` of a configuration: one, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [rope for rope in found.values() if isinstance(rope, dict)] or [found]


def _rope(config: PretrainedConfig) -> dict:
    """The one of `_ropes` that scales positions, or {}."""
    return next((rope for rope in _ropes(config) if rope.get("rope_type", "default") != "default"), {})


def rope_kind(config: PretrainedConfig) -> str | None:
    """How positions are scaled: linear, dynamic, llama3, yarn, ...; None if they are not."""
    return _rope(config).get("rope_type")


def rope_factor(config: PretrainedConfig) -> float:
    """By how much the model's positions are stretched."""
    return _rope(config)["factor"]


def wrong_rope(config: PretrainedConfig) -> str:
    """What this transformers does with the scaling of positions that config.json does not mean; "" if nothing."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = rope_kind(config)
    if kind and config.model_type in IGNORES_ROPE:
        return "ignores it"
    return "does not know it" if kind and kind not in ROPE_INIT_FUNCTIONS else ""


def original_positions(config: PretrainedConfig) -> int:
    """The positions that a model with longrope had before they were stretched."""
    return _rope(config)["original_max_position_embeddings"]


def windows(config: PretrainedConfig) -> dict[str, int | None]:
    """The sliding windows that a model of FORKING computes, by kind of layer: tokens, itself included; None: all."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"full_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}


def uncomputed_window(config: PretrainedConfig) -> int | None:
    """The model's sliding window, if this transformers has one in its configuration and does not compute it."""
    window = getattr(config, "sliding_window", None)
    computed = config.model_type in COMPUTES_WINDOW or not getattr(config, "use_sliding_window", True)
    return None if computed else window


def misfits(model: PreTrainedModel, found: dict) -> tuple[list[str], list[str], list[tuple]]:
    """(Names that the weight files lack, that the model does not read, (name, shape, the model's shape) of others).

    found: name -> shape of each tensor in the files. Version 5 renames tensors and joins those of experts, so it is
    asked, with tensors that hold nothing. Raises ValueError if it cannot join them.
    """
    import torch
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it would warn of what is returned here
    try:
        _, told = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in found.items()},
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except RuntimeError:
        raise ValueError("transformers cannot join its experts: one is missing or has another shape") from None
    finally:
        logging.set_verbosity(before)
    prefix = f"{model.base_model_prefix}."
    lacking, left = (sorted(n.removeprefix(prefix) for n in told[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
    others = sorted(told["mismatched_keys"])
    return lacking, left, [(name, tuple(shape), tuple(expected)) for name, shape, expected in others]


def refusal(config: PretrainedConfig) -> str:
    """Why a model of a type in SUPPORTED is not taken all the same; "" if it is."""
    if config.model_type == "falcon" and config.alibi:
        return "with ALiBi, which transformers 5 adds twice in eager attention; set `stack: pinned`"
    return ""


def without_clock(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template, without the function that gives it today's date; many write a fixed one where it is absent."""
    return "{% set strftime_now = todays_date +%}" + tokenizer.get_chat_template()


def caches(model: PreTrainedModel) -> bool:
    """Whether a model keeps its texts in a cache of transformers' class, all of them as keys and values."""
    kinds = getattr(model.config, "layer_types", None) or ()
    return bool(model._supports_default_dynamic_cache()) and {"full_attention", "sliding_attention"}.issuperset(kinds)
