"""What config.json says the model is: read whichever version wrote it, refused where the pins compute another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, read_json
from arms.model.sources import first_line
from arms.stacks import NAME, elsewhere, stack

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LISTED = "docs/models.md lists the families that can be used"


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration beside the weights in `folder`, also one that transformers 5 wrote. Raises UserError."""
    try:
        return stack.config_of(folder, read_json(folder / "config.json"))
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(f"config.json of the model cannot be used: {first_line(error)}; {LISTED}") from None


def check_config(folder: Path) -> PretrainedConfig:
    """The model's configuration; UserError unless it is a causal language model that the pins compute as it says."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    raw = read_json(folder / "config.json")
    kind, cure = str(raw.get("model_type")), elsewhere(str(raw.get("model_type")))
    if kind not in CONFIG_MAPPING:
        code = ", and its `auto_map` wants to run Python code that comes with it, which is never done here"
        raise UserError(
            f"config.json of the model has model_type {kind!r}, which "
            f"{stack.KNOWN.format(version=transformers.__version__)} does not know"
            f"{code if 'auto_map' in raw and not cure else ''}{cure and f': {cure}'}; {LISTED}"
        )
    if (folder / "tokenizer_config.json").is_file() and "auto_map" in read_json(folder / "tokenizer_config.json"):
        raise UserError(
            "tokenizer_config.json of the model has `auto_map`: it wants to run Python code that comes with the "
            "weights, which is never done here. Choose a model whose tokenizer transformers knows by itself"
        )
    named = (raw.get("architectures") or ["no architecture"])[0]
    if named not in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) or raw.get("is_encoder_decoder"):
        raise UserError(
            f"config.json of the model names {named}, not a causal language model (such as LlamaForCausalLM)"
        )
    if kind not in stack.SUPPORTED:
        reason = stack.REFUSED.get(kind, "nobody has tried it")
        raise UserError(
            f"{named}: this workflow does not take model_type {kind!r} ({reason}){cure and f': {cure}'}; {LISTED}"
        )
    config = read_config(folder)
    if reason := stack.refusal(config):
        raise UserError(f"{named}: this workflow does not take model_type {kind!r} ({reason}); {LISTED}")
    check_rope(config)
    return config


def check_rope(config: PretrainedConfig) -> None:
    """UserError if this transformers computes another `rope_scaling` than the one in config.json."""
    if wrong := stack.wrong_rope(config):
        raise UserError(
            f"config.json of the model has rope_scaling of type {stack.rope_kind(config)!r}, and the {NAME} "
            f"transformers {wrong} in a {config.model_type}. If your rows fit into the length that the model had "
            "before it was stretched, remove rope_scaling in a copy of the model (model.source: path), and set "
            "max_position_embeddings to that length"
        )


def row_limit(config: PretrainedConfig) -> tuple[int, str] | None:
    """(most tokens of a row, prompt and answer together, that the pins compute as the model means it, why); None: any.

    Beyond it the model has no positions, or was not trained on them; or a window that it has is not computed; or each
    row depends on the longest row of its batch.
    """
    limits = []
    if window := stack.uncomputed_window(config):
        limits.append((window, f"the {NAME} transformers does not compute its sliding_window"))
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    kind = stack.rope_kind(config)
    if getattr(config, "alibi", False):
        positions = None  # distances, which have no end
    elif kind == "linear":
        positions = round(positions * stack.rope_factor(config))  # some files state the length before, some after
    elif kind == "longrope":
        limits.append((stack.original_positions(config), "beyond it the rows of a batch change each other"))
    elif kind == "dynamic":
        limits.append((positions, "beyond it the rows of a batch change each other (dynamic rope)"))
    if positions:
        limits.append((positions, "it has no more positions"))
    return min(limits, default=None)
