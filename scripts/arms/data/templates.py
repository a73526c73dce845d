"""Prompts as the model sees them: its chat template or a text, checked against the answers that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arms.job.files import UserError, sha256_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Prompt = str | list[dict[str, str]]  # the user's turn, or every turn of a conversation (role, content)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, settings: dict) -> str:
    """The prompt as the model sees it.

    settings["template"] is "chat" (the tokenizer's own chat template, with a generation prompt) or a text with the
    placeholder {prompt}. settings["system_prompt"] is the system turn of a chat template, where a conversation has none
    of its own; null leaves that to the template.
    """
    if settings["template"] != "chat":
        return settings["template"].replace("{prompt}", str(prompt))
    return tokenizer.apply_chat_template(_turns(prompt, settings), tokenize=False, add_generation_prompt=True)


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
            f"the model's chat template needs what the pinned transformers does not offer ({error}): write a fixed "
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
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
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


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer by itself puts BOS before plain text, as the model was pre-trained."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
