"""Token ids of a task's requests: the rules of the harness's own `--model hf` (lm_eval 0.4.13, models/huggingface.py).

A text is tokenised as the tokenizer does by itself, BOS included where it adds one, but never twice. A continuation is
what its ids add to those of its context; white space that ends the context belongs to it. Where nothing is before it,
BOS is, or the end of a text for tokenizers without BOS.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from arms.data.templates import rendered
from arms.job.files import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TaskEncoder:
    """Tokenises requests for one model.

    end: the tokenizer's own end of a text. limit: most tokens of a row that the model takes; None: any.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str, limit: int | None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        bos = tokenizer.bos_token_id
        self.prefix = tokenizer.convert_tokens_to_ids(end) if bos is None else bos
        self.prefix_text = tokenizer.decode(self.prefix)
        self.cut = 0  # requests that lost the beginning of their context

    def tokens(self, row: dict) -> dict:
        """prompt_ids and answer_ids of a request; answer_ids are None where an answer is to be written.

        Raises UserError for one that does not fit the model. Without examples before it, a context is cut from the
        left, as the harness does.
        """
        context = self.rendered(json.loads(row["context"])) if row["conversation"] else row["context"]
        if row["continuation"] is None:
            prompt, answer, room = self.ids(context), None, row["max_new_tokens"]
        else:
            prompt, answer = self.pair(context, row["continuation"])
            room = len(answer) - 1  # the last token of an answer is predicted, never read
        return {"prompt_ids": self.fitting(prompt, room, row), "answer_ids": answer}

    def ids(self, text: str) -> list[int]:
        """A text's ids."""
        return self.tokenizer.encode(text, add_special_tokens=not text.startswith(self.prefix_text))

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """(ids of the context, ids of the continuation)."""
        if not context:
            ids = self.tokenizer.encode(continuation, add_special_tokens=False)
            return ([self.prefix], ids) if ids[:1] != [self.prefix] else (ids[:1], ids[1:])
        bare = context.rstrip()
        before = self.ids(bare)
        return before, self.ids(context + continuation)[len(before) :]

    def rendered(self, conversation: dict) -> str:
        """A conversation as the model sees it; without its system turn where the chat template takes none."""
        from jinja2 import TemplateError

        messages, continued = conversation["messages"], conversation["continued"]
        try:
            text = rendered(self.tokenizer, messages, add_generation_prompt=not continued)
        except TemplateError:
            messages = [message for message in messages if message["role"] != "system"]
            text = rendered(self.tokenizer, messages, add_generation_prompt=not continued)
        if continued:  # an answer that is begun: later transformers call it continue_final_message
            begun = messages[-1]["content"]
            text = text[: text.rindex(begun) + len(begun)].rstrip()
        return text

    def fitting(self, prompt: list[int], room: int, row: dict) -> list[int]:
        """The prompt, with so much room after it."""
        name = f"item {row['doc_id']} of {row['task']}"
        if room < 0:
            raise UserError(f"{name}: the answer {row['continuation']!r} has no token; correct the task's answers")
        if self.limit is None or len(prompt) + room <= self.limit:
            return prompt
        if room >= self.limit:
            raise UserError(
                f"{name}: its answer may have {room} tokens and the model takes {self.limit} in all; lower "
                "max_gen_toks of the task's generation_kwargs, or shorten its answers"
            )
        if row["few_shot"]:
            raise UserError(
                f"{name}: {len(prompt)} tokens with {row['few_shot']} examples before it and {room} of its answer are "
                f"more than the {self.limit} that the model takes; lower few_shot"
            )
        self.cut += 1
        return prompt[room - self.limit :]
