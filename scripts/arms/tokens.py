"""One token path: SFT, DPO, scoring and generation all read the ids that this module made.

TRL 0.9.6 tokenises for SFT and for DPO in different ways (template, BOS, EOS, truncation), which alone would confound a
comparison of the arms. Here the text becomes ids once:

    prompt ids      the rendered template, tokenised without further special tokens (BOS once if the tokenizer sets one)
    completion ids  the completion's own ids and one EOS

Prompt and completion are tokenised apart, so the boundary is the one that generation meets.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from arms.files import UserError, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETIONS = {"sft": ("completion",), "pairs": ("chosen", "rejected"), "prompts": ()}


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside `model` (model.json), with its pad token (never one that is trained, so never EOS)."""
    from transformers import AutoTokenizer

    card, weights = read_json(model), Path(model).parent / "weights"
    tokenizer = AutoTokenizer.from_pretrained(str(weights), trust_remote_code=False, local_files_only=True)
    tokenizer.pad_token = card["tokenizer"]["pad_token"]
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise UserError(f"{weights}: the pad token must exist and differ from EOS; run the rule fetch_model again")
    return tokenizer


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str, settings: dict) -> str:
    """The prompt as the model sees it.

    settings["template"] is "chat" (the tokenizer's own chat template, with a generation prompt) or a text with the
    placeholder {prompt}. settings["system_prompt"] is a chat template's system turn; null leaves that to the template.
    """
    if settings["template"] != "chat":
        return settings["template"].replace("{prompt}", prompt)
    if not tokenizer.chat_template:
        raise UserError(
            "tokens.template is 'chat' but this model's tokenizer has no chat template; "
            "set tokens.template to a text such as 'Question: {prompt}\\nAnswer:'"
        )
    turns = [{"role": "user", "content": prompt}]
    if settings["system_prompt"] is not None:
        turns.insert(0, {"role": "system", "content": settings["system_prompt"]})
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, settings: dict) -> list[int]:
    """Ids of one prompt. BOS comes first, once, if and only if the tokenizer itself puts one before plain text."""
    ids = tokenizer(prompt_text(tokenizer, prompt, settings), add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Ids of one completion, ending in exactly one EOS, which is trained and scored like any other token."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def encode_rows(
    rows: list[dict], kind: str, tokenizer: PreTrainedTokenizerBase, settings: dict, source: str
) -> tuple[list[dict], dict]:
    """Tokenise `rows` of one data set and say what was found.

    kind: "sft", "pairs" or "prompts". A row longer than settings["max_length"] tokens (prompt + longest completion) is
    left out or refused, as settings["on_overlong"] ("drop" or "error") says; nothing is ever cut, since a cut
    completion loses its EOS and a cut prompt its BOS. Returns (rows with id, category, prompt_ids and one *_ids column
    a completion; audit). Raises UserError naming the file and the rows.
    """
    kept, overlong = [], []
    sides: Counter[str] = Counter()
    for row in rows:
        encoded = {"id": row["id"], "category": row["category"]}
        encoded["prompt_ids"] = encode_prompt(tokenizer, row["prompt"], settings)
        for side in COMPLETIONS[kind]:
            encoded[f"{side}_ids"] = encode_completion(tokenizer, row[side])
        _check_special_tokens(encoded, kind, tokenizer, f"{source}, line {row['_row']}")
        room = settings["max_length"] - len(encoded["prompt_ids"])
        too_long = [side for side in COMPLETIONS[kind] if len(encoded[f"{side}_ids"]) > room]
        if room <= 0:
            too_long = ["prompt"]
        if too_long:
            sides.update(too_long)
            overlong.append(row["_row"])
        else:
            kept.append(encoded)
    if overlong and settings["on_overlong"] == "error":
        raise UserError(
            f"{source}: {len(overlong)} rows are longer than tokens.max_length = {settings['max_length']} tokens "
            f"(lines {', '.join(map(str, overlong[:5]))}{', ...' if len(overlong) > 5 else ''}; {dict(sides)}); "
            "raise tokens.max_length, shorten the rows, or set tokens.on_overlong to 'drop' for training data"
        )
    if not kept:
        raise UserError(f"{source}: no row is left within tokens.max_length = {settings['max_length']} tokens")
    audit = {
        "rows": len(rows),
        "kept": len(kept),
        "overlong": {"rows": overlong, "by_side": dict(sides)},
        "tokens": {name: _quantiles([len(row[name]) for row in kept]) for name in kept[0] if name.endswith("_ids")},
        "starts_with_bos": all(row["prompt_ids"][0] == tokenizer.bos_token_id for row in kept),
        "first_token_differs": sum(row["chosen_ids"][0] != row["rejected_ids"][0] for row in kept) / len(kept)
        if kind == "pairs"
        else None,
    }
    return kept, audit


def take_in_turn(rows: list[dict], limit: int | None) -> list[dict]:
    """The first `limit` rows when categories are served in turn, in file order; all rows if it is None or larger."""
    if limit is None or limit >= len(rows):
        return rows
    served: Counter[str] = Counter()
    turns = []
    for position, row in enumerate(rows):
        turns.append((served[row["category"]], position))
        served[row["category"]] += 1
    return [rows[position] for position in sorted(position for _, position in sorted(turns)[:limit])]


def _check_special_tokens(encoded: dict, kind: str, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse what silently spoils training: pad inside a row, EOS or BOS in the middle, no text at all."""
    for side in COMPLETIONS[kind]:
        ids = encoded[f"{side}_ids"]
        if len(ids) < 2:
            raise UserError(f"{where}: {side!r} has no token but EOS; remove the row or give it a text")
        if tokenizer.eos_token_id in ids[:-1]:
            raise UserError(
                f"{where}: {side!r} has the EOS token {tokenizer.eos_token!r} before its end; remove it from the text"
            )
        if tokenizer.pad_token_id in ids:
            raise UserError(
                f"{where}: {side!r} contains the pad token {tokenizer.pad_token!r}; remove it from the text"
            )
    if tokenizer.pad_token_id in encoded["prompt_ids"]:
        raise UserError(f"{where}: the prompt contains the pad token {tokenizer.pad_token!r}; remove it from the text")
    bos = tokenizer.bos_token_id
    if bos is not None and bos != tokenizer.eos_token_id and encoded["prompt_ids"][:2] == [bos, bos]:
        raise UserError(f"{where}: the prompt starts with BOS twice; remove it from the text or the template")


def _quantiles(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {"min": ordered[0], "median": ordered[last // 2], "p95": ordered[round(last * 0.95)], "max": ordered[last]}


def read_tokens(path: str | Path) -> list[dict]:
    """Rows of a token file (tokens/*.parquet), each a dict with id, category and lists of int ids."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()
