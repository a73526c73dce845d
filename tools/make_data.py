"""Make the demo's data: sample the model, grade each answer with IFEval's checkers, pair a pass with a fail.

    .envs/train/bin/python tools/make_data.py --model MODEL --grade-python .envs/grade/bin/python \
        --work ../data-work --output config/data

MODEL is the Hugging Face directory that rule fetch_model makes (results/demo/model/weights). The program samples in
the `train` environment and grades in the `grade` environment (they cannot be one). It takes about half an hour on two
cores, is seeded, and keeps each finished round under --work, so that it can be stopped and started again; delete --work
to start over. No rule calls it: the files it made are part of the repository, and config/data/README.md describes them.

How a pair comes about. Let the model answer a prompt several times. If that gives no pair, cut an answer at a word in
the second half of the part before its fate is decided (before the first comma, before the word limit, ...) and sample
continuations from there. Grade them all, and take the passing and the failing answer with the longest common prefix.
So the two differ late, and what they differ in is what the checker looks at: pairs that differ in the first token
mostly teach the model to say neither (likelihood displacement, Razin et al. 2024, https://arxiv.org/abs/2410.08847).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from demo_data.prompts import CATEGORIES, SEED, make_prompts, topics
from demo_data.sampler import Sampler, grade, say

from arms.job.files import UserError, exit_with_message, read_json, write_json, write_text

MAX_TOKENS = 48  # a completion with its end-of-turn token; rows stay short, so that the demo stays quick
COPIES = 5  # answers sampled from each context, which is read only once
MIN_COMMON_TOKENS = 3
ROUNDS = 6
HELD_OUT_PROMPTS = 20  # in each category
QUOTA = {"sft": 34, "pairs": 34, "heldout": 20}  # rows wanted in each category
# Words of an answer that talks about the instruction instead of following it.
META = re.compile(r"\b(sentences?|words?|phrase|exact|example|help you|ready to help|rephrased|version)\b", re.I)


def main() -> None:
    """Sample in rounds, then write the four files and the figures of the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory of the model to sample")
    parser.add_argument("--grade-python", type=Path, required=True, help="the interpreter of the grade environment")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished rounds")
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON Lines files")
    args = parser.parse_args()

    sampler = Sampler(args.model)
    prompts = make_prompts()
    say(f"{len(prompts)} prompts over {len(topics())} topics")
    answers = sample_rounds(sampler, prompts, args.work, args.grade_python)
    files = assemble(sampler, prompts, answers, args.grade_python)
    for name, rows in files.items():
        write_text(args.output / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        say(f"{args.output / name}: {len(rows)} rows")
    write_json(args.work / "figures.json", figures(sampler, files, args.grade_python))
    say(f"figures for the card: {args.work / 'figures.json'}")


def sample_rounds(sampler: Sampler, prompts: list[dict], work: Path, python: Path) -> dict[str, list[dict]]:
    """Prompt -> usable graded answers {"text", "ids", "passes"}. Each round is kept under `work`.

    The first round answers every prompt, the others branch from the answers there are, where a pair is still lacking.
    """
    answers: dict[str, list[dict]] = {row["prompt"]: [] for row in prompts}
    for number in range(ROUNDS):
        kept = work / f"round-{number}.json"
        if not kept.is_file():
            done = count_served(prompts, answers)
            still_open = [
                row
                for row in prompts
                if not served(row, answers[row["prompt"]])
                and done[row["use"], row["category"]] < QUOTA[row["use"]]
                # After two rounds the model has shown that it hardly ever adds an ending: `templates` does.
                and (number < 2 or row["category"] != "end_phrase")
            ]
            seed = SEED + 100_000 * number
            new = branches(sampler, still_open, answers, seed) if number else fresh(sampler, still_open, seed)
            graded = zip(new, grade(new, python), strict=True)
            found = [{**{key: row[key] for key in ("prompt", "text", "ids")}, "passes": good} for row, good in graded]
            write_json(kept, {"answers": found})
        for row in read_json(kept)["answers"]:
            answers[row["prompt"]].append(row)
        done = count_served(prompts, answers)
        say(f"round {number + 1} served " + ", ".join(f"{use} {name} {n}" for (use, name), n in sorted(done.items())))
    return answers


def served(row: dict, answers: list[dict]) -> bool:
    """Whether a prompt has what it is for: a passing answer (sft), or a pair."""
    if row["use"] == "sft":
        return any(answer["passes"] for answer in answers)
    return best_pair(answers) is not None


def count_served(prompts: list[dict], answers: dict[str, list[dict]]) -> Counter:
    """(use, category) -> number of prompts served."""
    return Counter((row["use"], row["category"]) for row in prompts if served(row, answers[row["prompt"]]))


def fresh(sampler: Sampler, prompts: list[dict], seed: int) -> list[dict]:
    """COPIES fresh answers to each prompt, those that are usable."""
    say(f"{len(prompts)} prompts, {COPIES} answers each")
    # Neighbours of equal length waste no time on padding.
    prompts = sorted(prompts, key=lambda row: len(sampler.context(row["prompt"])))
    found = sampler.generate([sampler.context(row["prompt"]) for row in prompts], MAX_TOKENS, seed, COPIES)
    return keep_usable(sampler, [(prompts[n // COPIES], ids) for n, ids in enumerate(found)])


def branches(sampler: Sampler, prompts: list[dict], answers: dict[str, list[dict]], seed: int) -> list[dict]:
    """COPIES continuations from a cut of one answer to each prompt, those that are usable."""
    rng = random.Random(seed)  # noqa: S311
    cuts = []
    for row in (row for row in prompts if row["use"] != "sft" and answers[row["prompt"]]):
        ids = rng.choice(answers[row["prompt"]])["ids"]
        cut = cut_point(sampler, row, ids, rng)
        if cut >= MIN_COMMON_TOKENS:
            cuts.append((row, ids[:cut]))
    say(f"{len(cuts)} cuts, {COPIES} continuations each")
    contexts = [sampler.context(row["prompt"]) + ids for row, ids in cuts]
    found = sampler.generate(contexts, MAX_TOKENS * 2 // 3, seed, COPIES)
    return keep_usable(sampler, [(cuts[n // COPIES][0], cuts[n // COPIES][1] + ids) for n, ids in enumerate(found)])


def keep_usable(sampler: Sampler, found: list[tuple[dict, list[int]]]) -> list[dict]:
    """Prompt rows with the text and token ids of their usable answers."""
    return [{**row, "text": sampler.text(ids), "ids": ids} for row, ids in found if usable(sampler, row, ids)]


def usable(sampler: Sampler, row: dict, ids: list[int]) -> bool:
    """Whether an answer may enter the data, passing or not: complete, short, one line, about the topic."""
    text = sampler.text(ids)
    topic = row["topic"].split()[-1]
    stem = topic[: max(3, len(topic) - 3)]  # libraries -> librar: the answer may say it in the singular
    return (
        ids[-1] == sampler.end
        and len(ids) <= MAX_TOKENS
        and text == text.strip()
        and "\n" not in text
        and text.isascii()
        and len(text.split()) >= 5
        and stem in text.lower()
        and not META.search(text)
        and sampler.ids(text) == ids
    )


def cut_point(sampler: Sampler, row: dict, ids: list[int], rng: random.Random) -> int:
    """How many tokens to keep: up to a word start in the second half of what comes before the answer's fate."""
    text, kwargs = sampler.text(ids), row["kwargs"][0]
    limit = len(text)
    if row["category"] == "no_comma" and "," in text:
        limit = text.index(",")
    elif row["category"] == "end_phrase" and kwargs["end_phrase"] in text:
        limit = text.index(kwargs["end_phrase"])
    elif "num_words" in kwargs:
        words = list(re.finditer(r"\w+", text))
        limit = words[min(len(words), kwargs["num_words"] - 2) - 1].end()
    elif row["category"] in ("keywords", "forbidden_word"):
        wanted = kwargs.get("keywords") or kwargs["forbidden_words"]
        places = [text.lower().find(word) for word in wanted]
        # The last wanted word decides a passing answer, the first forbidden one a failing answer.
        limit = max(places) if min(places) >= 0 else limit
    starts = [n for n in range(1, len(ids)) if sampler.tokenizer.decode(ids[n : n + 1])[:1] in (" ", "<")]
    starts = [n for n in starts if limit / 2 <= len(sampler.text(ids[:n])) <= limit]
    return rng.choice(starts) if starts else 0


def common_prefix(one: list, other: list) -> int:
    """Length of the longest common prefix."""
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length


def best_pair(answers: list[dict]) -> tuple[dict, dict] | None:
    """The (passing, failing) answers with the longest common prefix, less their difference in length; or None."""
    pairs = []
    for good in (answer for answer in answers if answer["passes"]):
        for bad in (answer for answer in answers if not answer["passes"]):
            common = common_prefix(good["ids"], bad["ids"])
            if common >= MIN_COMMON_TOKENS:
                pairs.append((common - abs(len(good["ids"]) - len(bad["ids"])), good, bad))
    return max(pairs, key=lambda pair: pair[0])[1:] if pairs else None


def negative(row: dict, text: str) -> str:
    """What is wrong with a failing answer, in a word."""
    if row["category"] == "end_phrase":
        return "text_after_ending" if row["kwargs"][0]["end_phrase"].lower() in text.lower() else "missing_ending"
    return {
        "no_comma": "has_comma",
        "max_words": "too_long",
        "min_words": "too_short",
        "keywords": "missing_keyword",
        "forbidden_word": "has_forbidden_word",
    }[row["category"]]


def assemble(
    sampler: Sampler, prompts: list[dict], answers: dict[str, list[dict]], python: Path
) -> dict[str, list[dict]]:
    """The rows of the four files, categories interleaved so that the first rows of a file are balanced too.

    Of the training prompts those that gave a pair go to the pairs, and of the others those with a passing answer to
    SFT. Held-out prompts are the first topics of a shuffled list, never chosen by how the model did on them.
    """
    rows: dict[str, list] = {use: [] for use in (*QUOTA, "prompts")}
    for category in CATEGORIES:
        mine = [row for row in prompts if row["category"] == category]
        asked = [row for row in mine if row["use"] == "heldout"]
        columns = ("prompt", "category", "instruction_id_list", "kwargs")
        rows["prompts"] += enumerate({key: row[key] for key in columns} for row in asked[:HELD_OUT_PROMPTS])
        free = [row for row in mine if row["use"] != "heldout"]
        for use in ("heldout", "pairs", "sft"):
            pool = asked if use == "heldout" else free
            make = completion_row if use == "sft" else pair_row
            made = [found for row in pool if (found := make(row, answers[row["prompt"]]))][: QUOTA[use]]
            if category == "end_phrase":
                have = {row["prompt"] for row in made}
                lacking = [row for row in pool if row["prompt"] not in have]
                made += templates(sampler, lacking, answers, use, QUOTA[use] - len(made), python)
            rows[use] += enumerate(made)
            taken = {row["prompt"] for row in made}  # a prompt that became a pair is no row of sft.jsonl
            free = [row for row in free if row["prompt"] not in taken]

    files = {"sft.jsonl": "sft", "preferences.jsonl": "pairs"}
    files |= {"heldout_preferences.jsonl": "heldout", "heldout_prompts.jsonl": "prompts"}
    prefixes = {"sft": "sft", "pairs": "pair", "heldout": "heldout-pair", "prompts": "heldout-prompt"}
    return {
        name: [
            {"id": f"{prefixes[use]}-{number:03d}", **row}
            for number, (_, row) in enumerate(sorted(rows[use], key=lambda item: item[0]), start=1)
        ]
        for name, use in files.items()
    }


def completion_row(row: dict, answers: list[dict]) -> dict | None:
    """A row of sft.jsonl from the first passing answer."""
    good = next((answer for answer in answers if answer["passes"]), None)
    return good and {
        "prompt": row["prompt"],
        "completion": good["text"],
        "category": row["category"],
        "source": "sampled",
    }


def pair_row(row: dict, answers: list[dict]) -> dict | None:
    """A row of the preference files from the best pair of sampled answers."""
    pair = best_pair(answers)
    return pair and {
        "prompt": row["prompt"],
        "chosen": pair[0]["text"],
        "rejected": pair[1]["text"],
        "category": row["category"],
        "negative": negative(row, pair[1]["text"]),
        "source": "sampled",
    }


def templates(
    sampler: Sampler, prompts: list[dict], answers: dict[str, list[dict]], use: str, wanted: int, python: Path
) -> list[dict]:
    """Rows of category end_phrase that sampling did not give: a sampled failing answer, and the same with the ending.

    The model itself adds the ending after a whole sentence too seldom.
    """
    made = []
    for row in prompts:
        ending = row["kwargs"][0]["end_phrase"]
        for answer in answers[row["prompt"]]:
            text = f"{answer['text']} {ending}"
            whole = answer["text"][-1] in ".!" and ending.lower() not in answer["text"].lower()
            if not answer["passes"] and whole and len(sampler.ids(text)) <= MAX_TOKENS:
                made.append({**row, "text": text, "passes": True, "ids": sampler.ids(text), "without": answer})
                break
    made = made[: max(wanted, 0)]
    if not all(grade(made, python)):
        raise UserError("a template failed its own checker; correct `templates`")
    rows = []
    for row in made:
        found = completion_row(row, [row]) if use == "sft" else pair_row(row, [row, row["without"]])
        rows.append(found | {"source": "template"})
    return rows


def figures(sampler: Sampler, files: dict[str, list[dict]], python: Path) -> dict:
    """The numbers of the data card: the base model's pass rate and preference accuracy, lengths, common prefixes."""
    questions = files["heldout_prompts.jsonl"]
    greedy = sampler.generate([sampler.context(row["prompt"]) for row in questions], 64, None)
    graded = grade([{**row, "text": sampler.text(ids)} for row, ids in zip(questions, greedy, strict=True)], python)
    ended = [ids[-1] == sampler.end for ids in greedy]
    passed = [good and end for good, end in zip(graded, ended, strict=True)]
    out: dict[str, dict] = {"greedy_ended": {"all": mean(ended)}, "greedy_pass_rate": by_category(questions, passed)}
    out["prompt_tokens_with_template"] = spread(
        [len(sampler.context(row["prompt"])) for rows in files.values() for row in rows]
    )
    completions = files["sft.jsonl"]
    out["sft.jsonl"] = {
        "rows": by_category(completions),
        "source": dict(Counter(row["source"] for row in completions)),
        "tokens": spread([len(sampler.ids(row["completion"])) for row in completions]),
    }
    for name in ("preferences.jsonl", "heldout_preferences.jsonl"):
        pairs = files[name]
        sides = {side: [sampler.ids(row[side]) for row in pairs] for side in ("chosen", "rejected")}
        common = list(map(common_prefix, *sides.values()))
        longer = [len(one) > len(other) for one, other in zip(*sides.values(), strict=True)]
        say(f"log-probabilities of {name}")
        right = [
            sampler.logp(row["prompt"], row["chosen"]) > sampler.logp(row["prompt"], row["rejected"]) for row in pairs
        ]
        out[name] = {
            "rows": by_category(pairs),
            "source": dict(Counter(f"{row['category']} {row['source']}" for row in pairs)),
            "negative": dict(Counter(row["negative"] for row in pairs)),
            "chosen_tokens": by_category(pairs, list(map(len, sides["chosen"]))),
            "rejected_tokens": by_category(pairs, list(map(len, sides["rejected"]))),
            "chosen_is_longer": by_category(pairs, longer),
            "common_tokens": spread(common),
            "common_tokens_mean": by_category(pairs, common),
            "share_common_at_least_3": mean([n >= MIN_COMMON_TOKENS for n in common]),
            "base_preference_accuracy": by_category(pairs, right),
        }
    return out


def mean(values: list) -> float:
    """Mean, rounded for the card."""
    return round(sum(values) / len(values), 3)


def spread(values: list[int]) -> dict[str, int]:
    """Least, quartiles and greatest of a list of counts."""
    ordered = sorted(values)
    at = {"min": 0, "q1": len(ordered) // 4, "median": len(ordered) // 2, "q3": 3 * len(ordered) // 4, "max": -1}
    return {name: ordered[place] for name, place in at.items()}


def by_category(rows: list[dict], values: list | None = None) -> dict[str, float]:
    """Mean of `values` in each category and in all; the number of rows if there are no values."""
    groups: dict[str, list] = {name: [] for name in CATEGORIES}
    for row, value in zip(rows, values or [1] * len(rows), strict=True):
        groups[row["category"]].append(value)
    groups["all"] = [value for group in groups.values() for value in group]
    return {name: len(group) if values is None else mean(group) for name, group in groups.items() if group}


if __name__ == "__main__":
    exit_with_message(main)
