"""Training on every assistant turn of an SFT conversation: the tokens stay, more of them are trained.

The row's ids are the same as when its last turn alone is trained. What stands between two answers (the end of a turn,
the user's next one, the start of an answer) is context: spans of the completion in the column CONTEXT, as start and end
in turn, [start, end, start, end, ...]. The trained tokens of a turn are its own ids and EOS, as a generation would end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from arms.data.leakage import digest, normalise
from arms.data.tokens import encode_completions, encode_prompts
from arms.job.files import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = "context_spans"


def train_all_turns(tokenizer: PreTrainedTokenizerBase, row: dict, encoded: dict, settings: dict, place: str) -> None:
    """Let `encoded` (prompt_ids, completion_ids) begin with the first answer of the row's conversation, in place.

    Raises UserError naming the row where the chat template renders an earlier answer in another way than it was given,
    or its prompt in another way than a generation meets: those tokens are none that the model would have written.
    """
    turns, whole = row.get("_turns") or [], encoded["prompt_ids"] + encoded["completion_ids"]
    answers = []
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            start = len(prefix := encode_prompts(tokenizer, [turns[:number]], settings)[0])
            ends = [
                start + len(ids)
                for ids in encode_completions(tokenizer, [turn["content"], turn["content"].strip()])
                if whole[start : start + len(ids)] == ids
            ]
            if whole[:start] != prefix or not ends:
                what = "the prompt before" if whole[:start] != prefix else "the text and end of"
                raise UserError(
                    f"{place}: in the whole conversation the model's chat template renders {what} turn {number + 1}, "
                    "an answer, otherwise than on its own, as templates do that leave earlier reasoning out; set "
                    "tokens.assistant_turns: last, which trains the last answer, or remove the row"
                )
            answers.append((start, ends[0]))
    answers.append((len(encoded["prompt_ids"]), len(whole)))
    first = answers[0][0]
    between = pairwise(answers)
    encoded[CONTEXT] = [place - first for (_, end), (start, _) in between for place in (end, start)]
    encoded["prompt_ids"], encoded["completion_ids"] = whole[:first], whole[first:]


def not_held_out(rows: Iterable[dict], heldout: set[bytes]) -> Iterator[dict]:
    """The rows; UserError for one of which an earlier prompt is held out, since its answer is trained, too.

    heldout: digests of normalised prompts (`arms.data.leakage`). Rule check_data compares whole conversations.
    """
    for row in rows:
        spoken: list[str] = []
        for number, turn in enumerate(row.get("_turns") or []):
            if turn["role"] == "assistant" and digest(normalise("\n\n".join(spoken))) in heldout:
                raise UserError(
                    f"{row['_place']}: the prompt before turn {number + 1} is held out, and tokens.assistant_turns: all"
                    " would train its answer; remove it from one of the two, or set last"
                )
            spoken += [turn["content"]] if turn["role"] != "system" else []
        yield row


def keep_whole_answers(encoded: dict, room: int) -> None:
    """Cut a row after its last answer that ends within `room` completion tokens, in place; else after its first."""
    ends = encoded[CONTEXT][::2]  # of every answer but the last
    kept = max(1, sum(end <= room for end in ends))
    encoded["completion_ids"] = encoded["completion_ids"][: ends[kept - 1]]
    encoded[CONTEXT] = encoded[CONTEXT][: 2 * (kept - 1)]
