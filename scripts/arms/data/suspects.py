"""What in a row is worth a look although nothing proves it wrong. None of it is an error: kinds are counted, with rows.

A kind is what a reader would check first: an answer that refuses while the other one answers, that breaks off, repeats
itself or its prompt, is in another script than its prompt, holds marks of a chat template or characters of a broken
encoding. Languages are told by Unicode script alone (the first word of a letter's name), which needs no model: English
in a French data set goes unseen, Russian in it does not.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

# kind: what is said of its rows. In the order in which rows are shown: the likeliest faults first.
KINDS = {
    "refused": "the chosen answer (or completion) refuses, and no other does",
    "placeholder": "an answer is a placeholder, such as N/A or [deleted]",
    "alike": "chosen and rejected differ in nothing but case, punctuation or white space",
    "beginning": "one of the two answers is the beginning of the other",
    "mark": "a mark of a chat template or the name of a role in a text",
    "replacement": "the character U+FFFD, which stands for bytes that could not be read",
    "mojibake": "UTF-8 that was read as another encoding, such as â€™ for an apostrophe",
    "control": "a control character",
    "unseen": "characters of no width, or that turn the direction of writing",
    "private": "characters of the private use area, which have no meaning of their own",
    "open": "a code block that is never closed",
    "unended": "an answer ends in the middle of a sentence, as few others here do",
    "repeats": "an answer says few words many times",
    "echo": "an answer begins with the whole prompt",
    "script": "the chosen answer (or completion) is in another script than the prompt",
    "html": "HTML in a text: entities or tags of a page",
    "gap": "one answer is ten times as long as the other",
    "long": "a text ten times as long as 95% of its column",
    "near": "the prompt nearly is that of a row before it (word 5-grams)",
}
MARK = re.compile("|".join(map(re.escape, (
    "<|", "|>", "[INST]", "[/INST]", "<<SYS>>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<start_of_turn>",
    "<end_of_turn>", "### Instruction", "### Response", "\nHuman:", "\nAssistant:", "\nUser:", "\nUSER:",
    "\nASSISTANT:", "<think>", "</think>",
))))  # fmt: skip
ROLES = ("Human:", "Assistant:", "User:", "USER:", "ASSISTANT:")  # at the very beginning
HTML = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#39);|<br ?/?>|</(?:p|div|span)>")
PLACEHOLDERS = {
    "n/a", "na", "none", "null", "nan", "todo", "tbd", "...", "…", "-", "--", "?", "[deleted]", "[removed]",
    "undefined", "no answer", "no response", "no output", "<no output>", "<noinput>", "error", "string",
}  # fmt: skip
CANNOT = r"(?:can ?not|can['’]t|am unable|['’]m unable|unable|am not able|['’]m not able|won['’]t|will not)"
REFUSES = re.compile(
    r"\W*(?:(?:(?:I['’]m|I am)(?: \w+)? sorry|sorry|(?:my )?apologies|I apologi[sz]e|unfortunately)\b[^.\n]{0,40}?\bI"
    rf" ?{CANNOT}|I ?{CANNOT} (?:to )?(?:help|assist|fulfil|provide|comply|answer|do|create|write|generate|support|"
    r"engage|participate|give|discuss|continue|share|recommend|offer)|as an? (?:AI|(?:large )?language model)\b)",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNSEEN = re.compile("[\u00ad\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]")
PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010fffd]")
MOJIBAKE = re.compile(
    "Ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œŸ€]|â€|Â[\u00a0-\u00bf]|(?:[ÐÑ][\u0080-\u00bf‚„…†‡ˆ‰Š‹Œ‘’“”•–—™š›œŸ€]){2}"
)
LETTERS = 20  # of a text whose script is told, and at least as many of a prompt that an answer may repeat
SENTENCE = 40  # characters of an answer that should end with one
SAMPLE = 400  # characters of a text that tell its script
JOINT = {"FULLWIDTH": "LATIN", "HIRAGANA": "CJK", "KATAKANA": "CJK", "HALFWIDTH": "CJK", "BOPOMOFO": "CJK"}


def look(row: dict, sides: tuple[str, ...]) -> list[str]:
    """The kinds of what is odd about a row in our layout, in no order; what takes the whole file is not among them.

    sides: its answers, chosen or completion first.
    """
    found = [kind for name in ("prompt", *sides) for kind in odd_characters(row[name])]
    for name in sides:
        found += odd_answer(row[name], row["prompt"])
    if sides:
        found += _odd_side(row, sides)
    if len(sides) == 2:
        found += _odd_pair(row[sides[0]], row[sides[1]])
    return found


def odd_characters(text: str) -> Iterator[str]:
    """Kinds of characters, and of marks that come from a tool, not from a writer."""
    if MARK.search(text) or text.startswith(ROLES):
        yield "mark"
    if HTML.search(text):
        yield "html"
    if CONTROL.search(text):
        yield "control"
    if text.isascii():
        return
    if "\ufffd" in text:
        yield "replacement"
    for kind, pattern in (("unseen", UNSEEN), ("private", PRIVATE), ("mojibake", MOJIBAKE)):
        if pattern.search(text):
            yield kind


def odd_answer(answer: str, prompt: str) -> Iterator[str]:
    """Kinds of an answer of either side. prompt: what it answers."""
    short = answer.strip()
    if len(short) < 12 and short.casefold() in PLACEHOLDERS:
        yield "placeholder"
    if short.count("```") % 2:
        yield "open"
    begun = prompt.strip()
    if len(begun) >= LETTERS and short.startswith(begun):
        yield "echo"
    words = answer.split()
    if len(words) >= 50 and 5 * len(set(words)) < len(words):
        yield "repeats"


def _odd_side(row: dict, sides: tuple[str, ...]) -> Iterator[str]:
    """Kinds of the chosen answer or the completion, which is what is learnt."""
    learnt, other = row[sides[0]], row[sides[-1]]
    if REFUSES.match(learnt) and (len(sides) == 1 or not REFUSES.match(other)):
        yield "refused"
    if not (learnt.isascii() and row["prompt"].isascii()):
        scripts = {script(learnt), script(row["prompt"])} - {None}
        if len(scripts) == 2:
            yield "script"


def _odd_pair(chosen: str, rejected: str) -> Iterator[str]:
    """Kinds of two answers side by side."""
    one, other = sorted((chosen.strip(), rejected.strip()), key=len)
    if other.startswith(one):
        yield "beginning"
    elif len(other) - len(one) <= 16 and _bare(one) == _bare(other):
        yield "alike"
    if len(other) >= 200 and len(other) >= 10 * len(one):
        yield "gap"


def _bare(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


def is_unended(answer: str) -> bool:
    """Whether an answer of some words stops at a letter, a digit, a comma, a colon, a dash or a bracket."""
    whole = answer.strip()
    return len(whole) >= SENTENCE and (whole[-1].isalnum() or whole[-1] in ",;:-–—([")


def script(text: str) -> str | None:
    """The Unicode script of at least half of a text's letters, as their names say; None if there are not LETTERS.

    >>> script("Un texte en français, de vingt lettres"), script("Текст на русском языке, длинный")
    ('LATIN', 'CYRILLIC')
    """
    if text.isascii():
        return "LATIN" if sum(map(str.isalpha, text[:SAMPLE])) >= LETTERS else None
    counts = Counter(map(script_of, filter(str.isalpha, text[:SAMPLE])))
    total = counts.total()
    (name, count), *_ = counts.most_common(1) or [("", 0)]
    return name if total >= LETTERS and 2 * count >= total else None


@functools.cache
def script_of(letter: str) -> str:
    """The script of one letter: the first word of its name. Chinese and Japanese writing count as one."""
    name = unicodedata.name(letter, "NONE").split(" ")[0]
    return JOINT.get(name, name)


def common_words(chosen: str, rejected: str) -> int:
    """How many words two answers begin with alike, at most 50."""
    count = 0
    for one, other in zip(chosen.split(None, 50)[:50], rejected.split(None, 50)[:50], strict=False):
        if one != other:
            break
        count += 1
    return count
