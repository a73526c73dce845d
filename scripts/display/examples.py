"""Answers of every arm to held-out prompts and to items of tasks. Generated text is untrusted: the page escapes it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import TypeVar

from arms.job.files import UserError, sha256_bytes
from display.frames import read_frame
from display.words import metric_name, number
from study.runs import Run
from study.vocabulary import ADDED_ARMS, ALL_ARMS, ARMS, CONTRASTS, PRIMARY_CONTRASTS

SHOWN, KEPT = 6, 48  # prompts shown at once, and those that the page has, as evenly from all categories as can be
LONGEST = 1200  # characters of an answer or a prompt

OfRun = TypeVar("OfRun")


def heldout_examples(prompts: list[dict], generations: list[str], scores: list[str], seed: int) -> dict:
    """Answers of every arm at one seed to held-out prompts.

    prompts: rows with id, prompt, category. generations: <run>/generations.parquet. scores: part-<run>.parquet.
    """
    found = {
        arm: {str(row.prompt_id): row.text for row in first_samples(read_frame(path)).itertuples()}
        for arm, path in of_arms({Path(path).parent.name: path for path in generations}, seed).items()
    }
    return group("held-out prompts", "pass_rate", prompts, found, graded(scores, seed)) | {
        "scored": False,
        "lower_is_better": False,
    }


def task_examples(metric: str, asked: list[dict], answers: dict[str, list[dict]], scores: list[str], seed: int) -> dict:
    """Answers of every arm at one seed to the items of a task.

    metric: <task>.<metric>, the one that is shown. asked: the task's requests, with their item's id. answers: run ->
    its answers, row for row with them. scores: part-<run>.parquet of the metric.
    """
    places = defaultdict(list)
    for place, row in enumerate(asked):
        places[row["id"]].append(place)
    marks = graded(scores, seed)
    # What is graded is an item, or a part of it: ifeval/12#0 (arms.data.harness.part_id).
    own = {one: places.get(one) or places[one.rpartition("#")[0]] for one in marks["base"]}
    firsts = {one: asked[rows[0]] for one, rows in own.items()}
    items = [{"id": one, "prompt": question(row), "category": row["task"]} for one, row in firsts.items()]
    found = {
        arm: {one: told([(asked[place], given[place]) for place in rows]) for one, rows in own.items()}
        for arm, given in of_arms(answers, seed).items()
    }
    scored = any(row["continuation"] is not None for row in asked)
    shown = group(metric.partition(".")[0], metric, items, found, marks)
    return shown | {"scored": scored}


def question(request: dict) -> str:
    """What a request asks, a conversation as its last turn that is not the model's; the end of what is long."""
    text = request["context"]
    if request["conversation"]:
        turns = json.loads(text)["messages"]
        text = [turn["content"] for turn in turns if turn["role"] != "assistant"][-1]
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"


def told(answers: list[tuple[dict, dict]]) -> str:
    """The answers to an item's requests as one text: what was written, or the choices, the likeliest first."""
    written = [answer["text"] for _, answer in answers if answer["text"] is not None]
    if written:
        return "\n".join(written)
    scored = [(answer["logp"], request["continuation"].strip()) for request, answer in answers if request["context"]]
    return "\n".join(f"{number(logp, 1, signed=False)}  {text}" for logp, text in sorted(scored, reverse=True))


def of_arms(runs: dict[str, OfRun], seed: int) -> dict[str, OfRun]:
    """Arm -> what there is of its run at one seed, among that of all runs; UserError for an arm without any."""
    found = {arm: runs.get(str(Run(arm, seed=None if arm == "base" else seed))) for arm in ALL_ARMS}
    for arm, own in found.items():
        if own is None and arm not in ADDED_ARMS:
            raise UserError(f"no answers or scores of arm {arm!r} at seed {seed} among the files that were given")
    return {arm: own for arm, own in found.items() if own is not None}


def graded(scores: list[str], seed: int) -> dict[str, dict[str, tuple[float, str]]]:
    """Arm -> prompt id -> (score, status)."""
    paths = of_arms({Path(path).stem.removeprefix("part-"): path for path in scores}, seed)
    return {
        arm: {str(row.prompt_id): (row.value, str(row.status)) for row in first_samples(read_frame(path)).itertuples()}
        for arm, path in paths.items()
    }


def first_samples(frame):
    """The first sample of each prompt in a table of answers or scores."""
    return frame[frame["sample_idx"] == 0]


def group(name: str, metric: str, items: list[dict], answers: dict, scores: dict) -> dict:
    """What the page shows of one kind of prompts. answers: arm -> id -> text. scores: arm -> id -> (score, status).

    Nobody picks them: of each category come first those on which the arms disagree, in the order of the sha256 of their
    ids; categories take turns.
    """
    values = [value for own in scores.values() for value, _ in own.values()]
    binary = all(value in (0, 1) for value in values if not math.isnan(value))
    by_category = defaultdict(list)
    for item in items:
        own = {arm: of[item["id"]] for arm, of in scores.items()}
        reached = {0.0 if math.isnan(value) else value for value, _ in own.values()}
        by_category[item["category"]].append({**item, "scores": own, "disagree": len(reached) > 1})
    for rows in by_category.values():
        rows.sort(key=lambda row: (not row["disagree"], sha256_bytes(row["id"].encode())))
    turns = itertools.zip_longest(*(by_category[category] for category in sorted(by_category)))
    chosen = [row for turn in turns for row in turn if row][:KEPT]
    slug = re.sub(r"\W+", "-", name)
    for row in chosen:
        row["anchor"] = f"{slug}-{sha256_bytes(row['id'].encode())[:10]}"
        row["answers"] = [answer(arm, answers[arm][row["id"]], row["scores"][arm], binary) for arm in scores]
        row["prompt"] = printable(row["prompt"])
    categories = sorted({row["category"] for row in chosen})
    own = {"name": name, "slug": slug, "metric": metric_name(metric), "total": len(items), "categories": categories}
    return {**own, "shown": chosen[:SHOWN], "more": chosen[SHOWN:], "winners": winners()}


def answer(arm: str, text: str, graded: tuple[float, str], binary: bool) -> dict:
    """One arm's answer with its grade, as the page shows it and narrows by it."""
    score, status = graded
    told = "" if math.isnan(score) else f"{score:g}"
    return {"arm": arm, "name": ALL_ARMS[arm], "mark": mark(score, status, binary), "score": told, **clipped(text)}


def winners() -> dict[str, str]:
    """What the page can be narrowed to: "a>b" -> words, for both directions of each primary contrast of two arms."""
    found = {}
    for contrast in PRIMARY_CONTRASTS:
        better, worse = sorted(CONTRASTS[contrast][0], key=CONTRASTS[contrast][0].__getitem__, reverse=True)
        for first, second in ((better, worse), (worse, better)):
            found[f"{first}>{second}"] = f"{ARMS[first]} beats {ARMS[second]}"
    return found


def mark(score: float, status: str, binary: bool) -> str:
    """pass, fail (also an answer that never ended) or the score; or why there is none (an empty answer has failed)."""
    if math.isnan(score):
        return status.replace("_", " ")
    return ("pass" if score else "fail") if binary else number(score, 1, signed=False)


def clipped(text: str | None) -> dict[str, object]:
    """A generated text in printable form, and how many characters of a long one are left out."""
    text = printable(text or "")
    return {"text": text[:LONGEST], "more": max(0, len(text) - LONGEST)}


def printable(text: str) -> str:
    """Text without the control characters that HTML forbids."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)
