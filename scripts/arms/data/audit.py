"""What must hold of the data before anything is trained on it, and what is worth knowing about it.

Rows are dicts as `arms.job.files.read_jsonl` gives them, with "_row" (line number in the file). A finding that would
make the comparison wrong is a UserError that names file, lines and cure; the rest goes into the audit as a number or a
warning. Standard library only.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from arms.job.files import UserError, read_jsonl, sha256_bytes

SFT_COLUMNS: dict[str, type] = {"id": str, "prompt": str, "completion": str, "category": str}
PAIR_COLUMNS: dict[str, type] = {
    "id": str,
    "prompt": str,
    "chosen": str,
    "rejected": str,
    "category": str,
    "negative": str,
}
PROMPT_COLUMNS: dict[str, type] = {
    "id": str,
    "prompt": str,
    "category": str,
    "instruction_id_list": list,
    "kwargs": list,
}
SHOWN = 5  # offending lines in a message
SHINGLE = 5  # words
NEAR = 0.8  # Jaccard similarity of word 5-grams from which two prompts count as near-duplicates


class Table:
    """The rows of one JSONL file, with the file's name for messages."""

    def __init__(self, path: str | Path, columns: dict[str, type]) -> None:
        """Read `path`; UserError for a missing file, column or type, an empty or broken text or a repeated id."""
        self.path = Path(path)
        self.texts = [name for name in ("prompt", "completion", "chosen", "rejected") if name in columns]
        self.rows = read_jsonl(path, columns)
        for name in (name for name, kind in columns.items() if kind is str):
            self.refuse(
                [row["_row"] for row in self.rows if not row[name].strip()],
                f"{name!r} is empty or only white space",
                "fill it in or remove the row",
            )
            self.refuse(
                [row["_row"] for row in self.rows if any("\ud800" <= letter <= "\udfff" for letter in row[name])],
                f"{name!r} holds half of a surrogate pair, which is no character",
                "write the character itself in UTF-8",
            )
        self.refuse(repeats(self.rows, lambda row: row["id"]), "'id' occurs twice", "give every row an id of its own")

    def refuse(self, lines: Iterable[int | tuple[int, ...]], problem: str, cure: str) -> None:
        """UserError if `lines` (line numbers, or tuples of lines that belong together) is not empty."""
        found = list(lines)
        if found:
            count = f"{len(found)} times: " if len(found) > 1 else ""
            raise UserError(f"{self.path}, {count}{show_lines(found)}: {problem}; {cure}")


def show_lines(found: Sequence[int | tuple[int, ...]]) -> str:
    """The first few line numbers in words: "line 3, lines 4 and 9, and 2 more"."""
    words = [
        f"line {item}" if isinstance(item, int) else f"lines {' and '.join(map(str, item))}" for item in found[:SHOWN]
    ]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return ", ".join(words + more)


def repeats(rows: Iterable[dict], key) -> list[tuple[int, int]]:
    """(first line, later line) of every row whose `key(row)` was there before."""
    first: dict[object, int] = {}
    found = []
    for row in rows:
        value = key(row)
        if value in first:
            found.append((first[value], row["_row"]))
        first.setdefault(value, row["_row"])
    return found


def normalise(text: str) -> str:
    """A text as the leakage check sees it: Unicode NFKC, case folded, every run of white space one space.

    >>> normalise("  Write\\u00a0THREE ﬁsh ")
    'write three fish'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def check_sft_rows(table: Table) -> None:
    """UserError for a repeated (prompt, completion)."""
    table.refuse(
        repeats(table.rows, lambda row: (row["prompt"], row["completion"])),
        "the same prompt and completion",
        "remove one of the two rows: a row that is trained on twice weighs twice",
    )


def check_pair_rows(table: Table) -> None:
    """UserError for pairs that teach nothing, or the opposite of another pair."""
    table.refuse(
        [row["_row"] for row in table.rows if row["chosen"].strip() == row["rejected"].strip()],
        "'chosen' and 'rejected' are the same",
        "remove the row or give it another answer",
    )
    table.refuse(
        repeats(table.rows, lambda row: (row["prompt"], row["chosen"], row["rejected"])),
        "the same prompt, chosen and rejected",
        "remove one of the two rows: a pair that is trained on twice weighs twice",
    )
    line_of = {(row["prompt"], row["chosen"], row["rejected"]): row["_row"] for row in table.rows}
    swapped = [
        (other, row["_row"])
        for row in table.rows
        if (other := line_of.get((row["prompt"], row["rejected"], row["chosen"]), row["_row"])) < row["_row"]
    ]
    table.refuse(swapped, "swapped: one row's chosen is the other's rejected", "remove the row that is wrong")
    chosen_at = {(row["prompt"], row["chosen"]): row["_row"] for row in reversed(table.rows)}
    contradictory = [
        (chosen_at[row["prompt"], row["rejected"]], row["_row"])
        for row in table.rows
        if (row["prompt"], row["rejected"]) in chosen_at
    ]
    table.refuse(
        contradictory,
        "an answer is chosen in the one row and rejected in the other, for the same prompt",
        "decide whether it is good and remove the other row",
    )


def check_leakage(training: Table, heldout: Iterable[Table]) -> None:
    """UserError if a held-out prompt is also trained on (after `normalise`)."""
    trained = {normalise(row["prompt"]): row["_row"] for row in reversed(training.rows)}
    for table in heldout:
        leaks = [
            (row["_row"], trained[prompt]) for row in table.rows if (prompt := normalise(row["prompt"])) in trained
        ]
        if leaks:
            shown = ", ".join(f"line {here} ({training.path}, line {there})" for here, there in leaks[:SHOWN])
            more = f", and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
            raise UserError(
                f"{table.path}: {len(leaks)} held-out prompt{'s are' if len(leaks) > 1 else ' is'} also trained on: "
                f"{shown}{more}; what was learnt by heart measures nothing, so remove it from one of the two files"
            )


def near_duplicates(training: Table, heldout: Table) -> list[dict]:
    """Held-out rows whose prompt nearly is a training prompt: the best match of each, best first.

    Similarity is the Jaccard index of the sets of word 5-grams (a shorter prompt is one), near from 0.8 on.
    """
    shingles = [word_shingles(row["prompt"]) for row in training.rows]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, own in enumerate(shingles):
        for shingle in own:
            holders[shingle].append(index)
    found = []
    for row in heldout.rows:
        own = word_shingles(row["prompt"])
        shared = Counter(index for shingle in own for index in holders.get(shingle, ()))
        scored = [(count / (len(own) + len(shingles[index]) - count), -index) for index, count in shared.items()]
        similarity, index = max(scored, default=(0.0, 0))
        if similarity >= NEAR:
            match = training.rows[-index]
            found.append({"heldout_id": row["id"], "training_id": match["id"], "similarity": round(similarity, 3)})
    return sorted(found, key=lambda entry: (-entry["similarity"], entry["heldout_id"]))


def word_shingles(text: str) -> set[tuple[str, ...]]:
    """The set of word 5-grams of a text; all its words if it has fewer."""
    words = normalise(text).split()
    return {tuple(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}


def prompt_sha256(prompt: str) -> str:
    """Hexadecimal sha256 of the exact prompt, as UTF-8."""
    return sha256_bytes(prompt.encode("utf-8"))


def cluster_id(row: dict) -> str:
    """The cluster that a prompt's row belongs to in the statistics: its column cluster_id, else its prompt's digest.

    Rows that share a prompt (a pair and a generation, two pairs) are not independent, so they share a cluster.
    """
    given = row.get("cluster_id")
    return given if given else sha256_bytes(normalise(row["prompt"]).encode("utf-8"))[:16]


def summary_of(table: Table) -> dict:
    """Rows, counts by category (and negative), distinct prompts, and lengths in characters of every text column."""
    summary = {
        "rows": len(table.rows),
        "distinct_prompts": len({normalise(row["prompt"]) for row in table.rows}),
        "categories": dict(sorted(Counter(row["category"] for row in table.rows).items())),
        "characters": {name: quantiles([len(row[name]) for row in table.rows]) for name in table.texts},
    }
    if "rejected" in table.texts:
        summary["negatives"] = dict(sorted(Counter(row["negative"] for row in table.rows).items()))
        summary["share_chosen_longer"] = share(len(row["chosen"]) > len(row["rejected"]) for row in table.rows)
        summary["share_first_word_differs"] = share(
            row["chosen"].split()[0] != row["rejected"].split()[0] for row in table.rows
        )
    return summary


def warnings(training: Table, heldout: Sequence[Table], near: Sequence[dict]) -> list[str]:
    """What a reader of the results should know about the data, in words; none of it is an error."""
    found = []
    if near:
        found.append(
            f"{len(near)} held-out prompts nearly are training prompts (word 5-gram similarity >= {NEAR}); "
            f"the closest: {near[0]['heldout_id']} and {near[0]['training_id']}"
        )
    for table in heldout:
        unseen = sorted({row["category"] for row in table.rows} - {row["category"] for row in training.rows})
        if unseen:
            found.append(f"{table.path.name}: categories that are not in {training.path.name}: {', '.join(unseen)}")
    if "rejected" in training.texts:
        longer = share(len(row["chosen"]) > len(row["rejected"]) for row in training.rows)
        if not 0.2 <= longer <= 0.8:
            found.append(
                f"{training.path.name}: chosen is longer in {longer:.0%} of the pairs; "
                "length alone tells them apart, and DPO can learn just that"
            )
        early = share(row["chosen"].split()[0] != row["rejected"].split()[0] for row in training.rows)
        if early > 0.5:
            found.append(
                f"{training.path.name}: {early:.0%} of the pairs differ in the first word; "
                "DPO tends to lower the likelihood of both answers there (likelihood displacement)"
            )
    return found


def share(values: Iterable[bool]) -> float:
    """Share of true values, rounded to four digits."""
    values = list(values)
    return round(sum(values) / len(values), 4)


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Minimum, quartiles, 95 % point and maximum, linearly interpolated (Hyndman-Fan type 7, numpy's default).

    >>> quantiles([1, 2, 3, 4])["median"]
    2.5
    """
    ordered = sorted(values)

    def at(level: float) -> float:
        position = level * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return round(ordered[low] + (position - low) * (ordered[high] - ordered[low]), 2)

    levels = {"min": 0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1}
    return {name: at(level) for name, level in levels.items()}
