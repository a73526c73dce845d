"""The current stack: torch 2.15, transformers 5.24, TRL 1.16 (November 2026). For today's models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KNOWN = "transformers {version} of the current stack"
DTYPE = "dtype"  # torch_dtype is deprecated
CACHE = "cache"  # past_key_values is deprecated
IDENTITY = {"stack": "current"}  # what an adapter says of the stack that it was trained on
LOGGED_RATE = 0  # which learning rate the Trainer logs of a step: 0 that of the step, 1 the next
QUANTIZES_ON_CPU = True  # bitsandbytes 0.50 has kernels for both

# Model types that have been trained, scored and asked in a tiny study (docs/models.md).
SUPPORTED = (
    *("biogpt", "bloom", "codegen", "cohere", "cohere2", "falcon", "gemma", "gemma3_text", "gpt2", "gpt_bigcode"),
    *("gpt_neo", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo", "olmo2", "olmo3", "opt"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2", "xglm"),
)
REFUSED: dict[str, str] = {}
# Those that take a 4-D attention mask as it is, or one for each kind of layer.
FORKING = (
    *("cohere", "cohere2", "gemma", "gemma3_text", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmo3"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)


def quiet() -> None:
    """No bar while weights load or are written, nor what packages tell each other: a log has lines of its own."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning, "transformers")  # PEFT calls it by old names


def config_of(folder: Path, raw: dict) -> PretrainedConfig:
    """The configuration in config.json, `raw`, whichever version wrote it: version 5 reads the names of both."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _rope(config: PretrainedConfig) -> dict:
    """The one `rope_parameters` of a configuration that scales positions, or {}. Kinds of layers may have their own."""
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [rope for rope in found.values() if isinstance(rope, dict)] or [found]
    return next((rope for rope in kinds if rope.get("rope_type", "default") != "default"), {})


def rope_kind(config: PretrainedConfig) -> str | None:
    """How positions are scaled: linear, dynamic, llama3, yarn, ...; None if they are not."""
    return _rope(config).get("rope_type")


def rope_factor(config: PretrainedConfig) -> float:
    """By how much the model's positions are stretched."""
    return _rope(config)["factor"]


def wrong_rope(config: PretrainedConfig) -> str:
    """What this transformers does with the scaling of positions that config.json does not mean; "" if nothing."""
    return ""


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
    """The model's sliding window, if this transformers does not compute it: it computes all of FORKING's."""
    return None


def tied_tensors(model: PreTrainedModel) -> list[str]:
    """Patterns of the tensors that share their weights with another, and may be missing from a file."""
    return list(model._tied_weights_keys or {})


def caches(model: PreTrainedModel) -> bool:
    """Whether a model keeps its texts in a cache of transformers' class."""
    return bool(model._supports_default_dynamic_cache())
