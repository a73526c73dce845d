"""One token path: SFT, DPO, scoring and generation all read the ids that this module made.

TRL 0.9.6 tokenises for SFT and for DPO in different ways (template, BOS, EOS, truncation), which alone would confound a
comparison of the arms. Here the text becomes ids once:

    prompt ids      the rendered template, tokenised without further special tokens (BOS once if the tokenizer sets one)
    completion ids  the completion's own ids and one EOS, which is trained

Prompt and completion are tokenised apart, so the boundary is the one that generation meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arms.data.templates import Prompt, adds_bos, prompt_text
from arms.job.files import UserError, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Masks and types of tokens would take as long again.
IDS_ALONE = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside `model` (model.json), with the EOS and pad tokens that fetch_model chose.

    They are set on the loaded tokenizer, never saved with it: saving makes the pad token match text
    (arms.model.base_card).
    """
    from transformers import AutoTokenizer

    chosen, weights = read_json(model)["tokenizer"], Path(model).parent / "weights"
    tokenizer = AutoTokenizer.from_pretrained(str(weights), trust_remote_code=False, local_files_only=True)
    tokenizer.eos_token, tokenizer.pad_token = chosen["eos_token"], chosen["pad_token"]
    if [tokenizer.eos_token_id, tokenizer.pad_token_id] != [chosen["eos_id"], chosen["pad_id"]]:
        raise UserError(f"{weights}: not the tokenizer that {model} describes; delete {model} and run again")
    return tokenizer


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], settings: dict) -> list[list[int]]:
    """Ids of prompts. BOS comes first, once, if the template writes it or the tokenizer adds it to plain text."""
    return encode_rendered(tokenizer, [prompt_text(tokenizer, prompt, settings) for prompt in prompts])


def encode_rendered(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The same of prompts that `prompt_text` has rendered."""
    found = tokenizer(texts, **IDS_ALONE)["input_ids"]
    bos = tokenizer.bos_token_id
    return [[bos, *ids] if ids[:1] != [bos] else ids for ids in found] if adds_bos(tokenizer) else found


def encode_completions(tokenizer: PreTrainedTokenizerBase, completions: list[str]) -> list[list[int]]:
    """Ids of completions, each ending in exactly one EOS, which is trained and scored like any other token."""
    found, eos = tokenizer(completions, **IDS_ALONE)["input_ids"], tokenizer.eos_token_id
    return [ids if ids[-1:] == [eos] else [*ids, eos] for ids in found]


def cut(ids: list[int], room: int, eos_after: int | None) -> list[int]:
    """The first `room` (at least 2) ids of a completion; the last of them becomes `eos_after` unless that is None."""
    return ids[:room] if eos_after is None else [*ids[: room - 1], eos_after]


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id -> what it is, of every token that steers a model and is no text: EOS, BOS, pad, marks of turns and the like.

    The token for what a vocabulary lacks is not among them, unless it is one of the others, too.
    """
    found = {
        number: "control"
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and number != tokenizer.unk_token_id
    }
    named = {tokenizer.pad_token_id: "pad", tokenizer.bos_token_id: "BOS", tokenizer.eos_token_id: "EOS"}
    return {number: name for number, name in (found | named).items() if number is not None}
