"""Rows as people have them, turned into ours: texts, chat messages, HH-RLHF, ShareGPT, Alpaca, question and answer.

A row's layout is told by its columns, or named. A prompt may be a conversation: it is then kept turn by turn, and its
answer is the last assistant turn, the only one that is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from arms.data.rows import TEXTS, BadRow
from arms.job.files import UserError

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
NAMES = {"sft": "SFT rows", "pairs": "pairs", "prompts": "held-out prompts"}
SCORES = [  # columns of a pair's scores: UltraFeedback's, Argilla's
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
]
# Turns of tools, by their role: what one answered, and in ShareGPT's and older forms the call, too.
TOOLS = ("tool", "function", "function_call", "tool_call", "observation", "tool_response", "tool_responses", "ipython")
CONVERSATIONS = {
    "sft": ("messages", "conversations"),
    "pairs": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}
HH_TURN = re.compile(r"\n\n(Human|Assistant):[ \n]?")
Convert = Callable[[dict], dict]


def turns_of(value: object, name: str) -> list[dict[str, str]]:
    """Chat messages, OpenAI's or ShareGPT's, as turns: {"role": ..., "content": ...}. name: of their column."""
    if not isinstance(value, list) or not value:
        raise BadRow(f"column {name!r} is an empty conversation", "remove the row")
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise BadRow(f"column {name!r} has a message that is no object", "give each a role and a content")
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        role = ROLES.get(str(role), role)
        if role not in ("system", "user", "assistant"):
            raise BadRow(f"column {name!r} has the role {role!r}", "only system, user and assistant can be trained on")
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("text") for part in content):
            content = "".join(part["text"] for part in content)  # parts of text; a picture has none
        if not isinstance(content, str) or not content.strip():
            raise BadRow(f"column {name!r} has a message without text", "fill it in or remove the row")
        turns.append({"role": role, "content": content})
    return turns


def without_tools(row: dict, kind: str) -> tuple[dict, int, bool]:
    """A row without its turns of tools, how many these were, and whether an answer is one of them.

    A turn of a tool is what it answered, and what calls one: its arguments are no text that a chat shows.
    """
    turns, cut_off = 0, False
    for name in CONVERSATIONS[kind]:
        value = row.get(name)
        if not isinstance(value, list):
            continue
        kept = [message for message in value if not is_of_tool(message)]
        if len(kept) < len(value):
            turns += len(value) - len(kept)
            cut_off |= name != "prompt" and is_of_tool(value[-1])
            row = {**row, name: kept}
    return row, turns, cut_off


def is_of_tool(message: object) -> bool:
    """Whether a message calls a tool, or is what one answered."""
    if not isinstance(message, dict):
        return False
    role = message.get("role", message.get("from"))
    return role in TOOLS or bool(message.get("tool_calls") or message.get("function_call"))


def prompt_columns(turns: list[dict[str, str]]) -> dict:
    """What stands before an answer: `prompt`, the text that leakage is looked for in, and the turns themselves.

    turns: system, or not, then user and assistant in turn, a user's last. One user's turn alone is a plain prompt.
    """
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    roles = [turn["role"] for turn in spoken]
    if not roles:
        raise BadRow("there is no user turn before the answer", "remove the row")
    if roles[0] == "assistant":
        raise BadRow("an assistant turn starts the conversation", "let a user's turn come first, or remove the row")
    wanted = ["user", "assistant"] * (len(roles) // 2) + ["user"]
    if roles != wanted:
        raise BadRow("user and assistant do not take turns", "merge turns of one role, or remove the row")
    prompt = "\n\n".join(turn["content"] for turn in spoken)
    return {"prompt": prompt, "_turns": turns if len(turns) > 1 else None}


def split_answer(turns: list[dict[str, str]], name: str) -> tuple[list[dict[str, str]], str]:
    """The turns before the last one, and that one's text, which must be the assistant's."""
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"column {name!r} ends with a {turns[-1]['role']} turn, so there is no answer", "remove the row")
    return turns[:-1], turns[-1]["content"]


def from_messages(row: dict) -> dict:
    """SFT rows with one column `messages` or `conversations`; a column `system` comes first."""
    name = "messages" if row.get("messages") is not None else "conversations"
    turns = turns_of(row.get(name), name)
    if row.get("system") and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": row["system"]}, *turns]
    before, answer = split_answer(turns, name)
    return {**row, **prompt_columns(before), "completion": answer}


def from_prompt_messages(row: dict) -> dict:
    """Held-out prompts whose `prompt` is a conversation."""
    return {**row, **prompt_columns(turns_of(row["prompt"], "prompt"))}


def from_chat_pairs(row: dict) -> dict:
    """Pairs whose `chosen` and `rejected` are conversations, with the prompt inside, or before them in `prompt`."""
    sides = {name: turns_of(row[name], name) for name in ("chosen", "rejected")}
    before = {}
    for name, turns in sides.items():
        before[name], row = split_answer(turns, name)[0], {**row, name: split_answer(turns, name)[1]}
    if before["chosen"] != before["rejected"]:
        raise BadRow("'chosen' and 'rejected' differ before their last turn", "give both the same conversation")
    turns = before["chosen"]
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        earlier = turns_of(prompt, "prompt")
        turns = turns if turns[: len(earlier)] == earlier else earlier + turns
    elif isinstance(prompt, str) and not turns:
        turns = [{"role": "user", "content": prompt}]
    elif isinstance(prompt, str) and prompt.strip() not in (turn["content"].strip() for turn in turns):
        raise BadRow("'prompt' is not in the conversation of 'chosen'", "correct the row")
    if row.get("system") and turns and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": row["system"]}, *turns]
    return {**row, **prompt_columns(turns)}


def from_hh(row: dict) -> dict:
    """HH-RLHF: `chosen` and `rejected` are whole dialogues in one text, "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    made = dict(row)
    for name in ("chosen", "rejected"):
        start, *parts = HH_TURN.split(row[name] if row[name].startswith("\n\n") else f"\n\n{row[name]}")
        roles = ["user" if who == "Human" else "assistant" for who in parts[::2]]
        texts = [text.strip() for text in parts[1::2]]
        if start.strip() or not roles:
            raise BadRow(f"column {name!r} does not begin with 'Human:'", "correct the row")
        made[name] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return from_chat_pairs(made)


def from_alpaca(row: dict) -> dict:
    """Instruction, input (may be empty) and output."""
    extra = row.get("input")
    prompt = f"{row['instruction']}\n\n{extra}" if extra and str(extra).strip() else row["instruction"]
    return {**row, "prompt": prompt, "completion": row["output"]}


def from_question(row: dict) -> dict:
    """Pairs with a `question`, and a `system` turn that may be empty (Orca's)."""
    return with_system({**row, "prompt": row["question"]})


def with_system(row: dict) -> dict:
    """Texts; a column `system` that is not empty becomes the system turn."""
    if not row.get("system") or row.get("_turns") or not isinstance(row.get("prompt"), str):
        return row
    turns = [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["prompt"]}]
    return {**row, **prompt_columns(turns)}


@dataclass(frozen=True)
class Layout:
    """Rows of one layout: the columns that tell it (name -> type of its value), and how a row becomes one of ours."""

    columns: dict[str, type]
    convert: Convert

    def fits(self, row: dict) -> bool:
        """Whether a row has the columns."""
        return all(isinstance(row.get(name), kind) for name, kind in self.columns.items())


LAYOUTS: dict[str, dict[str, Layout]] = {
    "sft": {
        "text": Layout({"prompt": str, "completion": str}, with_system),
        "messages": Layout({"messages": list}, from_messages),
        "sharegpt": Layout({"conversations": list}, from_messages),
        "alpaca": Layout({"instruction": str, "output": str}, from_alpaca),
    },
    "pairs": {
        "text": Layout({"prompt": str, "chosen": str, "rejected": str}, with_system),
        "messages": Layout({"chosen": list, "rejected": list}, from_chat_pairs),
        "hh": Layout({"chosen": str, "rejected": str}, from_hh),
        "question": Layout({"question": str, "chosen": str, "rejected": str}, from_question),
    },
    "prompts": {
        "text": Layout({"prompt": str}, with_system),
        "messages": Layout({"prompt": list}, from_prompt_messages),
    },
}


def recognise(row: dict, kind: str, source: str) -> str:
    """The name of a row's layout, by its columns; UserError if none fits, or several do.

    A row with some of our own columns is taken for one of ours: what it lacks is then said of the row.
    """
    found = [name for name, layout in LAYOUTS[kind].items() if layout.fits(row)]
    if {"completion", "label"} <= row.keys() and (kind == "pairs" or isinstance(row["label"], bool)):
        raise UserError(
            f"{source}: unpaired rows (prompt, completion, label), as KTO takes them. Every objective here "
            "(dpo.loss_type) compares two answers and needs the columns prompt, chosen and rejected: where a prompt "
            "has a true and a false completion, write both into one row. Rows whose label is true may be SFT rows "
            "(data.sft), without that column"
        )
    if "hh" in found and (len(found) > 1 or "Human:" not in row["chosen"]):
        found.remove("hh")  # its columns are in every other layout of texts
    if len(found) == 1:
        return found[0]
    columns = ", ".join(repr(name) for name in row if not name.startswith("_"))
    if found:
        raise UserError(
            f"{source}: its columns ({columns}) fit several layouts, {' and '.join(found)}; name one in the config: "
            f"{{path: ..., layout: {found[0]}}}"
        )
    for other, key in (("pairs", "data.pairs or data.heldout_pairs"), ("sft", "data.sft")):
        others = [name for name, layout in LAYOUTS[other].items() if layout.fits(row) and name != "hh"]
        if other != kind and others:
            raise UserError(f"{source}: these are {NAMES[other]} ({columns}), not {NAMES[kind]}; {key} takes them")
    if not row.keys().isdisjoint(TEXTS[kind]):
        return "text"
    wanted = "; ".join(f"{name}: {', '.join(layout.columns)}" for name, layout in LAYOUTS[kind].items())
    raise UserError(
        f"{source}: its columns ({columns}) are of no known layout ({wanted}); say in the config which is which: "
        f"{{path: ..., columns: {{{TEXTS[kind][-1]}: {columns.split(', ')[-1]}, ...}}}}"
    )


def margin(row: dict) -> float:
    """By how much the score of a pair's chosen answer is above that of the rejected; UserError if it has none."""
    for names in SCORES:
        if all(name in row for name in names):
            scores = [row[name] for name in names]
            break
    else:
        raise UserError(
            f"{row['_place']}: min_margin needs the scores of both answers in columns, such as "
            f"{' and '.join(SCORES[0])}; say which they are by columns: {{score_chosen: ..., score_rejected: ...}}"
        )
    try:
        found = float(scores[0]) - float(scores[1])
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise UserError(f"{row['_place']}: the scores {scores} are not numbers; correct the row or remove it")
    return found
