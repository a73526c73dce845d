"""What config.json says the model is: read whichever version wrote it, refused where the pins compute another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, read_json
from arms.model.sources import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LISTED = "docs/models.md lists the families that can be used"
# Model types that have been trained, scored and asked in a tiny study (docs/models.md), all on transformers 4.43.4.
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
SCALES_ROPE = ("falcon", "gpt_neox", "llama", "olmo", "persimmon", "phi", "phi3", "stablelm")  # others ignore the key
COMPUTES_WINDOW = ("mistral",)  # others look at everything before a token, unless flash attention is installed
# Names in transformers 4.43 of what version 5 writes into `rope_parameters`: base, and share of a head that turns.
ROPE_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration beside the weights in `folder`, also one that transformers 5 wrote. Raises UserError."""
    from transformers import CONFIG_MAPPING, AutoConfig

    raw = read_json(folder / "config.json")
    try:
        if not isinstance(raw.get("rope_parameters"), dict):
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return CONFIG_MAPPING[raw["model_type"]].from_dict(raw | in_old_names(raw))
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(f"config.json of the model cannot be used: {first_line(error)}") from None


def in_old_names(raw: dict) -> dict:
    """What transformers 4.43 calls the `rope_parameters` of a configuration of version 5.

    4.43 would take no notice of them, and turn by its default base of 10000. Raises UserError if it has no such names.
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
        raise UserError(
            f"config.json of the model has `rope_parameters` (transformers 5 wrote it) with {absent[0]}, which the "
            f"pinned transformers does not know in a {raw['model_type']}: it would turn positions otherwise; {LISTED}"
        )
    return names


def check_config(folder: Path) -> PretrainedConfig:
    """The model's configuration; UserError unless it is a causal language model that the pins compute as it says."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    raw = read_json(folder / "config.json")
    kind = str(raw.get("model_type"))
    if kind not in CONFIG_MAPPING:
        code = ", and its `auto_map` wants to run Python code that comes with it, which is never done here"
        raise UserError(
            f"config.json of the model has model_type {kind!r}, which the pinned transformers "
            f"{transformers.__version__} (July 2024) does not know{code if 'auto_map' in raw else ''}; {LISTED}"
        )
    if (folder / "tokenizer_config.json").is_file() and "auto_map" in read_json(folder / "tokenizer_config.json"):
        raise UserError(
            "tokenizer_config.json of the model has `auto_map`: it wants to run Python code that comes with the "
            "weights, which is never done here. Choose a model whose tokenizer transformers knows by itself"
        )
    config = read_config(folder)
    named = (config.architectures or ["no architecture"])[0]
    if named not in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) or config.is_encoder_decoder:
        raise UserError(
            f"config.json of the model names {named}, not a causal language model (such as LlamaForCausalLM)"
        )
    if kind not in SUPPORTED:
        reason = REFUSED.get(kind, "nobody has tried it")
        raise UserError(f"{named}: this workflow does not take model_type {kind!r} ({reason}); {LISTED}")
    check_rope(config)
    return config


def check_rope(config: PretrainedConfig) -> None:
    """UserError if the pinned transformers computes another `rope_scaling` than the one in config.json."""
    kind = rope_kind(config)
    if kind is None:
        return
    wrong = "ignores it" if config.model_type not in SCALES_ROPE else ""
    if not wrong and (kind == "yarn" or (kind == "longrope" and config.model_type != "phi3")):
        wrong = "reads its lengths otherwise than later versions"
    if wrong:
        raise UserError(
            f"config.json of the model has rope_scaling of type {kind!r}, and the pinned transformers {wrong} in a "
            f"{config.model_type}. If your rows fit into the length that the model had before it was stretched, remove "
            "rope_scaling in a copy of the model (model.source: path), and set max_position_embeddings to that length"
        )


def rope_kind(config: PretrainedConfig) -> str | None:
    """The type of `rope_scaling`: linear, dynamic, llama3, ...; None if positions are not scaled."""
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    return None if kind == "default" else kind


def row_limit(config: PretrainedConfig) -> tuple[int, str] | None:
    """(most tokens of a row, prompt and answer together, that the pins compute as the model means it, why); None: any.

    Beyond it the model has no positions, or was not trained on them; or a window that it has is not computed; or each
    row depends on the longest row of its batch.
    """
    limits = []
    window = getattr(config, "sliding_window", None)
    if window and config.model_type not in COMPUTES_WINDOW and getattr(config, "use_sliding_window", True):
        limits.append((window, "the pinned transformers does not compute its sliding_window"))
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    kind = rope_kind(config)
    if getattr(config, "alibi", False):
        positions = None  # distances, which have no end
    elif kind == "linear":
        positions = round(positions * config.rope_scaling["factor"])  # some files state the length before, some after
    elif kind == "longrope":
        limits.append((config.original_max_position_embeddings, "beyond it the rows of a batch change each other"))
    elif kind == "dynamic":
        limits.append((positions, "beyond it the rows of a batch change each other (dynamic rope)"))
    if positions:
        limits.append((positions, "it has no more positions"))
    return min(limits, default=None)
