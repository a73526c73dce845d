"""The data in config/data keeps every promise of its card. Environment: groups grade + dev."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="runs in the grade environment")

import make_data

from arms.data.grading import check_instructions, follows
from arms.data.sources import read_checked
from arms.job.formats import read_rows

DATA = Path(__file__).parents[3] / "config" / "data"
PAIR = ("id", "prompt", "chosen", "rejected", "category", "negative", "source")
COLUMNS = {
    "sft": ("id", "prompt", "completion", "category", "source"),
    "preferences": PAIR,
    "heldout_preferences": PAIR,
    "heldout_prompts": ("id", "prompt", "category", "instruction_id_list", "kwargs"),
}
LEAST_ROWS = {"sft": 160, "preferences": 160, "heldout_preferences": 64, "heldout_prompts": 96}
PAIR_FILES = ("preferences", "heldout_preferences")
# The instructions of every prompt that the program can make: the only source of kwargs for training prompts.
INSTRUCTIONS = {row["prompt"]: row for row in make_data.make_prompts()}


def rows(name):
    kinds = {"instruction_id_list": list, "kwargs": list}
    found = read_rows(DATA / f"{name}.jsonl", {column: kinds.get(column, str) for column in COLUMNS[name]})
    return [{key: value for key, value in row.items() if key not in ("_row", "_place")} for row in found]


def normal(prompt):
    return re.sub(r"\W+", " ", prompt).strip().casefold()


@pytest.mark.parametrize("name", COLUMNS)
def test_sizes_and_columns(name):
    found = rows(name)
    assert len(found) >= LEAST_ROWS[name]
    assert {tuple(row) for row in found} == {COLUMNS[name]}
    assert all(value.strip() == value and value for row in found for value in row.values() if isinstance(value, str))


@pytest.mark.parametrize("name", COLUMNS)
def test_no_duplicates(name):
    found = rows(name)
    assert len({row["id"] for row in found}) == len(found)
    assert len({normal(row["prompt"]) for row in found}) == len(found)


def test_training_files_share_no_prompt_and_none_with_held_out():
    prompts = {name: {normal(row["prompt"]) for row in rows(name)} for name in COLUMNS}
    for one, other in combinations(COLUMNS, 2):
        if {one, other} != {"heldout_preferences", "heldout_prompts"}:
            assert not prompts[one] & prompts[other], (one, other)


def test_held_out_topics_occur_in_no_training_prompt():
    topics = {name: {INSTRUCTIONS[row["prompt"]]["topic"] for row in rows(name)} for name in COLUMNS}
    training = topics["sft"] | topics["preferences"]
    assert not training & (topics["heldout_preferences"] | topics["heldout_prompts"])


def test_ids_are_unique_over_all_files():
    ids = Counter(row["id"] for name in COLUMNS for row in rows(name))
    assert max(ids.values()) == 1


@pytest.mark.parametrize("name", COLUMNS)
def test_categories_are_balanced(name):
    counts = Counter(row["category"] for row in rows(name))
    assert set(counts) == set(make_data.CATEGORIES)
    assert min(counts.values()) >= 0.5 * max(counts.values())


def test_each_category_has_prompts_enough_for_a_test():
    counts = Counter(row["category"] for row in rows("heldout_prompts"))
    assert min(counts.values()) >= 20


@pytest.mark.parametrize("name", PAIR_FILES)
def test_at_least_four_kinds_of_negatives(name):
    counts = Counter(row["negative"] for row in rows(name))
    assert sum(number >= 8 for number in counts.values()) >= 4


@pytest.mark.parametrize("name", PAIR_FILES)
def test_chosen_passes_and_rejected_fails(name):
    for row in rows(name):
        instruction = INSTRUCTIONS[row["prompt"]]
        assert follows(instruction, row["chosen"]), row["id"]
        assert not follows(instruction, row["rejected"]), row["id"]
        assert row["negative"] == make_data.negative(instruction, row["rejected"]), row["id"]


def test_sft_completions_pass():
    for row in rows("sft"):
        assert follows(INSTRUCTIONS[row["prompt"]], row["completion"]), row["id"]


def test_held_out_prompts_can_be_graded():
    found = rows("heldout_prompts")
    assert len(list(read_checked(DATA / "heldout_prompts.jsonl", "prompts", check_instructions))) == len(found)
    for row in found:
        made = INSTRUCTIONS[row["prompt"]]
        assert (row["instruction_id_list"], row["kwargs"]) == (made["instruction_id_list"], made["kwargs"])


@pytest.mark.parametrize("name", PAIR_FILES)
def test_pairs_differ_late(name):
    """The card counts tokens; without the model's tokenizer, words say nearly the same."""
    found = rows(name)
    assert min(make_data.common_prefix(row["chosen"], row["rejected"]) for row in found) >= 3
    words = [make_data.common_prefix(row["chosen"].split(), row["rejected"].split()) for row in found]
    assert sum(number >= 3 for number in words) >= 0.8 * len(words)


def test_templates_are_few_and_only_where_the_card_says():
    for name in ("sft", *PAIR_FILES):
        found = rows(name)
        assert {row["category"] for row in found if row["source"] == "template"} <= {"end_phrase"}
        assert {row["source"] for row in found} <= {"sampled", "template"}


def test_program_knows_which_part_of_an_answer_it_may_keep():
    assert make_data.common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    good = {"ids": [1, 2, 3, 4, 9], "passes": True}
    near = {"ids": [1, 2, 3, 5, 9], "passes": False}
    far = {"ids": [1, 2, 6, 5, 9], "passes": False}
    assert make_data.best_pair([good, far, near]) == (good, near)
    assert make_data.best_pair([good, far]) is None
