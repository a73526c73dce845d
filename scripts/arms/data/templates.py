"""Prompts as the model sees them: its chat template or a text, checked against the answers that follow them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from arms.job.files import UserError, sha256_bytes
from arms.stacks import stack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


DATE = re.compile(r"\b(?:\d{1,2} [A-Z][a-z]{2,8},? \d{4}|[A-Z][a-z]{2,8} \d{1,2},? \d{4}|\d{4}-\d{2}-\d{2})\b")
Prompt = str | list[dict[str, str]]  # the user's turn, or every turn of a conversation (role, content)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, settings: dict) -> str:
    """The prompt as the model sees it.

    settings["template"] is "chat" (the tokenizer's own chat template, with a generation prompt) or a text with the
    placeholder {prompt}. settings["system_prompt"] is the system turn of a chat template, where a conversation has none
    of its own; null leaves that to the template.
    """
    if settings["template"] != "chat":
        return settings["template"].replace("{prompt}", str(prompt))
    return rendered(tokenizer, _turns(prompt, settings), add_generation_prompt=True)


def rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: bool) -> str:
    """A conversation as the chat template writes it, which gets no clock: rows would differ from day to day."""
    return tokenizer.apply_chat_template(turns, chat_template=stack.without_clock(tokenizer), tokenize=False, **options)


def _turns(prompt: Prompt, settings: dict) -> list[dict[str, str]]:
    turns, system = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        settings["system_prompt"],
    )
    before = [] if system is None or turns[0]["role"] == "system" else [{"role": "system", "content": system}]
    return [*before, *turns]


def describe_template(tokenizer: PreTrainedTokenizerBase, settings: dict) -> dict:
    """What is decided once for all arms: the prompt's frame around {prompt}, and the ids of BOS, EOS and pad.

    Raises UserError if the template does not take the prompt or the system turn, or the model has none.
    """
    from jinja2 import TemplateError, UndefinedError

    chat, system = settings["template"] == "chat", settings["system_prompt"]
    if chat and not tokenizer.chat_template:
        raise UserError(
            "tokens.template is 'chat' but this model's tokenizer has no chat template; "
            'set tokens.template to a text such as "Question: {prompt}\\nAnswer:\\n"'
        )
    if not chat and system is not None:
        raise UserError("tokens.system_prompt belongs to a chat template; write it into the text of tokens.template")
    try:
        frame = prompt_text(tokenizer, "{prompt}", settings)
    except UndefinedError as error:
        raise UserError(
            f"the model's chat template needs what this workflow does not offer ({error}): write a fixed "
            "text there, into chat_template in tokenizer_config.json of a copy (model.source: path), or set "
            "tokens.template to a text with the placeholder {prompt}"
        ) from None
    except TemplateError as error:
        raise UserError(
            f"the model's chat template refuses the prompt: {error}; "
            "leave out tokens.system_prompt, or set tokens.template to a text with the placeholder {prompt}"
        ) from None
    if "{prompt}" not in frame:
        raise UserError(f"tokens.template: {frame!r} has no placeholder {{prompt}}, so all prompts would be alike")
    if system is not None and system.strip() not in frame:
        raise UserError("the model's chat template leaves the system turn out; remove tokens.system_prompt")
    check_answer(tokenizer, settings)
    return {
        "frame": frame,
        "chat_template_sha256": sha256_bytes(tokenizer.get_chat_template().encode()) if chat else None,
        "adds_bos": adds_bos(tokenizer),
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "pad_id": tokenizer.pad_token_id,
    }


def check_answer(tokenizer: PreTrainedTokenizerBase, settings: dict) -> str | None:
    """Does a conversation with an answer begin with our prompt, and the answer follow it at once?

    Returns what the user should know, None if all is well. Raises UserError where every answer would be trained in a
    place in which the model has never written one.
    """
    from jinja2 import TemplateError

    if settings["template"] != "chat":
        return None
    question, answer = "b7390", "b7391"
    turns = [*_turns(question, settings), {"role": "assistant", "content": answer}]
    try:
        whole = rendered(tokenizer, turns)
    except TemplateError:  # a template for prompts alone
        return None
    prompt, before = prompt_text(tokenizer, question, settings), whole.partition(answer)[0]
    cure = "set tokens.template to a text with the placeholder {prompt} that ends where an answer begins"
    if before.startswith(prompt) and before[len(prompt) :].strip():
        raise UserError(
            f"the model's chat template writes {before[len(prompt) :]!r} before an answer, but does not end a prompt "
            f"with it (add_generation_prompt): answers would be trained without it; {cure}"
        )
    if prompt.startswith(before) and prompt[len(before) :].strip():
        raise UserError(
            f"the model's chat template ends a prompt with {prompt[len(before) :]!r}, which it does not write before "
            f"an answer that is given: answers would be trained inside it; {cure}"
        )
    if before == prompt or answer not in whole:
        return None
    return (
        f"the model's chat template writes {before[-20:]!r} before an answer, and ends a prompt with {prompt[-20:]!r}; "
        "here answers follow the latter, in training, scoring and generation alike"
    )


def peculiarities(tokenizer: PreTrainedTokenizerBase, settings: dict) -> list[str]:
    """What the user should know of a chat template: what it drops, trims, dates or reorders, found by rendering.

    Raises UserError as `check_answer` does.
    """
    if settings["template"] != "chat":
        return []
    found = [check_answer(tokenizer, settings), *_of_an_answer(tokenizer, settings)]
    return [*filter(None, found), *_of_a_prompt(tokenizer, settings), *_of_a_conversation(tokenizer, settings)]


def _of_an_answer(tokenizer: PreTrainedTokenizerBase, settings: dict) -> Iterator[str]:
    """How an answer ends, and whether its first token is the same as in the whole text."""
    question, answer = "b7390", "b7391"
    prompt = prompt_text(tokenizer, question, settings)
    whole = _rendered(tokenizer, [*_turns(question, settings), {"role": "assistant", "content": answer}])
    after = (whole or "").partition(answer)[2]
    if after.strip() and not after.lstrip().startswith(tokenizer.eos_token):
        yield (
            f"the model's chat template ends an answer with {after[:20]!r}; here answers end with the tokenizer's EOS, "
            f"{tokenizer.eos_token!r}, which is what ends an answer in generation, too"
        )
    apart = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if tokenizer(prompt + answer, add_special_tokens=False)["input_ids"][: len(apart)] != apart:
        yield (
            f"tokenised in one go, the end of a prompt ({prompt[-20:]!r}) and the beginning of an answer share a "
            "token; here they are tokenised apart, as generation meets them"
        )


def _of_a_prompt(tokenizer: PreTrainedTokenizerBase, settings: dict) -> Iterator[str]:
    """What is added to a prompt of one turn, and what is trimmed from it."""
    frame = prompt_text(tokenizer, "b7390", settings)
    if date := DATE.search(frame.replace(settings["system_prompt"] or "b7390", "")):
        yield f"the model's chat template writes the date {date[0]!r} into every prompt"
    if "  b7390 \n" not in prompt_text(tokenizer, "  b7390 \n", settings):
        yield "the model's chat template trims the white space around a turn"
    if settings["system_prompt"] is None:
        given = _rendered(tokenizer, _turns("b7390", {**settings, "system_prompt": "b7392"}))
        if given and len(frame) > len(given.replace("b7392", "")):
            yield f"the model's chat template has a system turn of its own: a prompt begins {frame[:80]!r}"


def _of_a_conversation(tokenizer: PreTrainedTokenizerBase, settings: dict) -> Iterator[str]:
    """What becomes of the turns of a longer conversation."""
    contents = {"system": "b7392", "user": "b7390", "assistant": "<think>b7393</think>b7391"}
    turns = [{"role": role, "content": contents[role]} for role in ("system", "user", "assistant", "user")]
    turns[-1] = {"role": "user", "content": "b7394"}
    with_system, without = _rendered(tokenizer, turns), _rendered(tokenizer, turns[1:])
    if without is None:
        yield "the model's chat template refuses a conversation of several turns"
        return
    if with_system is None:
        yield "the model's chat template refuses a system turn"
    whole = with_system or without
    there = [mark for mark in ("b7392", "b7390", "b7391", "b7394") if mark in whole]
    if there != sorted(there, key=whole.index):
        yield "the model's chat template reorders the turns of a conversation"
    if with_system and "b7392" not in with_system:
        yield "the model's chat template leaves out a system turn"
    if "b7391" in whole and "b7393" not in whole:
        yield "the model's chat template leaves out the thoughts (<think>) of earlier answers"
    if not without.startswith(_rendered(tokenizer, turns[1:2]) or ""):
        yield "the model's chat template renders a turn otherwise once the conversation goes on"


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str | None:
    """Turns as the template writes them, with a generation prompt after a user's; None if it refuses them."""
    from jinja2 import TemplateError

    asks = turns[-1]["role"] == "user"
    try:
        return rendered(tokenizer, turns, add_generation_prompt=asks)
    except TemplateError:
        return None


def left_out(rendered: str, turns: list[dict[str, str]]) -> list[str]:
    """The roles of the turns whose text is not in a rendered prompt as it was given (but for white space around it)."""
    return [turn["role"] for turn in turns if turn["content"].strip() not in rendered]


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer by itself puts BOS before plain text, as the model was pre-trained."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
