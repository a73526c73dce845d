"""One token path: SFT, DPO, scoring and generation all read the ids that this module made.

TRL 0.9.6 tokenises for SFT and for DPO in different ways (template, BOS, EOS, truncation), which alone would confound a
comparison of the arms. Here the text becomes ids once:

    prompt ids      the rendered template, tokenised without further special tokens (BOS once if the tokenizer sets one)
    completion ids  the completion's own ids and one EOS, which is trained

Prompt and completion are tokenised apart, so the boundary is the one that generation meets.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from arms.data.templates import adds_bos, describe_template, prompt_text
from arms.job.files import UserError, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETIONS = {"sft": ("completion",), "pairs": ("chosen", "rejected"), "prompts": ()}


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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, settings: dict) -> list[int]:
    """Ids of one prompt. BOS comes first, once, if the template writes it or the tokenizer adds it to plain text."""
    ids = tokenizer(prompt_text(tokenizer, prompt, settings), add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos, *ids] if adds_bos(tokenizer) and ids[:1] != [bos] else ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Ids of one completion, ending in exactly one EOS, which is trained and scored like any other token."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def cut(ids: list[int], room: int, eos_after: int | None) -> list[int]:
    """The first `room` (at least 2) ids of a completion; the last of them becomes `eos_after` unless that is None."""
    return ids[:room] if eos_after is None else [*ids[: room - 1], eos_after]


def encode_rows(
    rows: list[dict], kind: str, tokenizer: PreTrainedTokenizerBase, settings: dict, source: str
) -> tuple[list[dict], dict]:
    """Tokenise `rows` of one data set and say what was found.

    kind: "sft", "pairs" or "prompts". A row with more than settings["max_length"] tokens (prompt + longest completion)
    is treated as settings["on_overlong"] says:

        error     refused
        drop      left out
        truncate  its longer completions are cut to the room that the prompt leaves, and end in EOS again unless
                  settings["eos_after_truncation"] is false. Prompts are never cut (that would take BOS, the system turn
                  or the end of the template): a row whose prompt leaves less than 2 tokens is left out, and so is a
                  pair that the cut makes identical.

    Returns (rows with id, category, prompt_ids and one *_ids column a completion; audit). In audit["overlong"], `rows`
    are the lines of all longer rows, `by_side` says what was too long, `cut` and `lost_eos` count completions by side,
    and `identical` counts the pairs that were left out. Raises UserError naming the file and the rows.
    """
    decided, control = describe_template(tokenizer, settings), control_tokens(tokenizer)
    frame = encode_prompt(tokenizer, "x", settings) if settings["template"] == "chat" else None
    eos_after = tokenizer.eos_token_id if settings["eos_after_truncation"] else None
    least = 2 if COMPLETIONS[kind] else 1  # tokens that must fit after the prompt: a completion has one, and EOS
    kept, overlong, identical = [], [], 0
    by_side: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    for row in rows:
        encoded = _encode_row(row, kind, tokenizer, settings)
        _check_row(encoded, kind, tokenizer, control, frame, row.get("_place") or f"{source}, line {row['_row']}")
        room = settings["max_length"] - len(encoded["prompt_ids"])
        too_long = [side for side in COMPLETIONS[kind] if len(encoded[f"{side}_ids"]) > room]
        too_long = too_long if room >= least else ["prompt"]
        if too_long:
            by_side.update(too_long)
            overlong.append(row["_row"])
            if settings["on_overlong"] != "truncate" or too_long == ["prompt"]:
                continue
            for side in too_long:
                encoded[f"{side}_ids"] = cut(encoded[f"{side}_ids"], room, eos_after)
            if kind == "pairs" and encoded["chosen_ids"] == encoded["rejected_ids"]:
                identical += 1
                continue
            cuts.update(too_long)
        kept.append(encoded)
    _require_rows(kept, overlong, by_side, settings, source)
    found = {
        "action": settings["on_overlong"],
        "rows": overlong,
        "by_side": dict(by_side),
        "cut": dict(cuts),
        "lost_eos": dict(cuts) if eos_after is None else {},
        "identical": identical,
    }
    described = _describe_kept(kept, kind, tokenizer.bos_token_id)
    return kept, {"rows": len(rows), "kept": len(kept), "decided": decided, "overlong": found, **described}


def _encode_row(row: dict, kind: str, tokenizer: PreTrainedTokenizerBase, settings: dict) -> dict:
    encoded = {"id": row["id"], "category": row["category"]}
    encoded["prompt_ids"] = encode_prompt(tokenizer, row["prompt"], settings)
    return encoded | {f"{side}_ids": encode_completion(tokenizer, row[side]) for side in COMPLETIONS[kind]}


def _require_rows(kept: list[dict], overlong: list[int], by_side: Counter[str], settings: dict, source: str) -> None:
    """UserError if overlong rows are to be refused, or no row is left."""
    if overlong and settings["on_overlong"] == "error":
        raise UserError(
            f"{source}: {len(overlong)} rows are longer than tokens.max_length = {settings['max_length']} tokens "
            f"(lines {', '.join(map(str, overlong[:5]))}{', ...' if len(overlong) > 5 else ''}; {dict(by_side)}); "
            "raise tokens.max_length, shorten the rows, or (training rows) set tokens.on_overlong to drop or truncate"
        )
    if not kept:
        raise UserError(f"{source}: no row is left within tokens.max_length = {settings['max_length']} tokens")


def _describe_kept(kept: list[dict], kind: str, bos: int | None) -> dict:
    """What the audit says of the ids: lengths in tokens, BOS, and the share of pairs that differ in the first token."""
    early = sum(row["chosen_ids"][0] != row["rejected_ids"][0] for row in kept) / len(kept) if kind == "pairs" else None
    return {
        "tokens": {name: _quantiles([len(row[name]) for row in kept]) for name in kept[0] if name.endswith("_ids")},
        "starts_with_bos": all(row["prompt_ids"][0] == bos for row in kept),
        "first_token_differs": early,
    }


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


def _check_row(
    encoded: dict,
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    control: dict[int, str],
    frame: list[int] | None,
    where: str,
) -> None:
    """Refuse what silently spoils training: control tokens in a text, no text at all, a pair without a difference.

    control: of `control_tokens`. frame: the ids of a prompt without any in its own text. None leaves all but pad to the
    prompts, which may be whole conversations, rendered beforehand.
    """
    prompt = encoded["prompt_ids"]
    for number in sorted(control.keys() & set(prompt)):
        allowed: list = prompt if frame is None and control[number] != "pad" else frame or []
        if prompt.count(number) > allowed.count(number):
            _refuse_token(where, "prompt", tokenizer, control, number)
    for side in COMPLETIONS[kind]:
        for number in sorted(control.keys() & set(encoded[f"{side}_ids"][:-1])):
            _refuse_token(where, side, tokenizer, control, number)
    for side in COMPLETIONS[kind]:
        if len(encoded[f"{side}_ids"]) < 2:
            raise UserError(f"{where}: {side!r} has no token but EOS; remove the row or give it a text")
    if kind == "pairs" and encoded["chosen_ids"] == encoded["rejected_ids"]:
        raise UserError(f"{where}: 'chosen' and 'rejected' are the same to this model's tokenizer; remove the row")


def _refuse_token(where: str, side: str, tokenizer: PreTrainedTokenizerBase, control: dict[int, str], number: int):
    token = tokenizer.convert_ids_to_tokens(number)
    raise UserError(
        f"{where}: {side!r} has the {control[number]} token {token!r} in its text; remove it or leave out the row"
    )


def _quantiles(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {"min": ordered[0], "median": ordered[last // 2], "p95": ordered[round(last * 0.95)], "max": ordered[last]}


def read_tokens(path: str | Path) -> list[dict]:
    """Rows of a token file (tokens/*.parquet), each a dict with id, category and lists of int ids."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()
