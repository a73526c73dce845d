"""Answers of every arm to the same held-out prompts. Generated text is untrusted: the page escapes it."""

from __future__ import annotations

import math
import re
from pathlib import Path

from arms.job.files import UserError, sha256_bytes
from display.frames import read_frame
from study.runs import Run
from study.vocabulary import ARMS

EXAMPLES = 6  # prompts shown, at most one of each category
LONGEST = 1200  # characters of an answer


def choose_examples(prompts: list[dict], generations: list[str], scores: list[str], seed: int) -> list[dict]:
    """Answers of every arm at one seed to one prompt of each category.

    Nobody picks them: of each category's prompts on which the arms disagree (of all, if none), the one whose id has
    the smallest sha256. generations: <run>/generations.parquet. scores: part-<run>.parquet.
    """
    arms = {str(Run(arm, seed=None if arm == "base" else seed)): arm for arm in ARMS}
    answers = {arms[run]: first_samples(path) for path in generations if (run := Path(path).parent.name) in arms}
    graded = {
        arms[run]: first_samples(path) for path in scores if (run := Path(path).stem.removeprefix("part-")) in arms
    }
    for arm in ARMS:
        if arm not in answers or arm not in graded:
            raise UserError(f"no answers or scores of arm {arm!r} at seed {seed} among --generations and --scores")
    chosen: dict[str, dict] = {}
    for row in sorted(prompts, key=lambda row: sha256_bytes(row["id"].encode())):
        marks = {arm: mark(graded[arm].loc[row["id"]]) for arm in ARMS}
        row = {**row, "disagree": len({marks[arm] == "pass" for arm in ARMS}) == 2}
        row["answers"] = [
            {"arm": arm, "name": label, "mark": marks[arm], **clipped(answers[arm].loc[row["id"], "text"])}
            for arm, label in ARMS.items()
        ]
        best = chosen.get(row["category"])
        if best is None or row["disagree"] > best["disagree"]:
            chosen[row["category"]] = row
    return [{**row, "prompt": printable(row["prompt"])} for _, row in sorted(chosen.items())][:EXAMPLES]


def first_samples(path: str):
    """The first sample of each prompt in a table of answers or scores, by prompt_id."""
    frame = read_frame(path)
    return frame[frame["sample_idx"] == 0].assign(prompt_id=frame["prompt_id"].astype(str)).set_index("prompt_id")


def mark(score) -> str:
    """pass, fail (also an answer that never ended), or why there is no grade (an empty answer counts as failed)."""
    if math.isnan(score["value"]):
        return score["status"].replace("_", " ")
    return "pass" if score["value"] == 1 else "fail"


def clipped(text: str | None) -> dict[str, object]:
    """A generated text in printable form, and how many characters of a long one are left out."""
    text = printable(text or "")
    return {"text": text[:LONGEST], "more": max(0, len(text) - LONGEST)}


def printable(text: str) -> str:
    """Text without the control characters that HTML forbids."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)
