"""What a judge is asked, and the verdict in its answer."""

from __future__ import annotations

import re
from pathlib import Path

from arms.job.files import UserError

# MT-Bench's prompt for pairs (FastChat, llm_judge/data/judge_prompts.jsonl, pair-v2; Zheng et al. 2023, Apache-2.0),
# in one turn, since not every model has a system turn.
BUILT_IN = """\
Please act as an impartial judge and evaluate the quality of the responses provided by two AI assistants to the user \
question displayed below. You should choose the assistant that follows the user's instructions and answers the user's \
question better. Your evaluation should consider factors such as the helpfulness, relevance, accuracy, depth, \
creativity, and level of detail of their responses. Begin your evaluation by comparing the two responses and provide a \
short explanation. Avoid any position biases and ensure that the order in which the responses were presented does not \
influence your decision. Do not allow the length of the responses to influence your evaluation. Do not favor certain \
names of the assistants. Be as objective as possible. After providing your explanation, output your final verdict by \
strictly following this format: "[[A]]" if assistant A is better, "[[B]]" if assistant B is better, and "[[C]]" for a \
tie.

[User Question]
{question}

[The Start of Assistant A's Answer]
{answer_a}
[The End of Assistant A's Answer]

[The Start of Assistant B's Answer]
{answer_b}
[The End of Assistant B's Answer]
"""
PLACES = ("question", "answer_a", "answer_b")
VERDICTS = {"A": 1.0, "B": 0.0, "C": 0.5}  # the value of the answer that was shown first
PLACE = re.compile(rf"\{{({'|'.join(PLACES)})\}}")


def read_prompt(path: str) -> str:
    """A prompt of the user's; UserError if it does not show both answers and the question, or asks for no verdict."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no text in UTF-8 that can be read ({error})") from None
    for place in PLACES:
        if f"{{{place}}}" not in text:
            raise UserError(f"{path}: {{{place}}} is missing; a judge's prompt has {{{'}, {'.join(PLACES)}}}")
    for verdict in VERDICTS:
        if f"[[{verdict}]]" not in text:
            raise UserError(f"{path}: does not ask for [[{verdict}]]; a verdict is [[A]], [[B]] or [[C]] (a tie)")
    return text


def filled_in(prompt: str, question: str, answer_a: str, answer_b: str) -> str:
    """The prompt with its texts; what looks like a place in them stays text."""
    texts = {"question": question, "answer_a": answer_a, "answer_b": answer_b}
    return PLACE.sub(lambda found: texts[found[1]], prompt)


def verdict(answer: str) -> str | None:
    """A, B or C, if an answer names one of them and no other; None for anything else.

    What a model thought before it answered (up to </think>) does not count.

    >>> verdict("Both are wrong, but B is polite. [[B]]"), verdict("[[A]] or [[B]]?"), verdict("A")
    ('B', None, None)
    """
    named = set(re.findall(r"\[\[([ABC])\]\]", answer.rpartition("</think>")[2]))
    return named.pop() if len(named) == 1 else None
