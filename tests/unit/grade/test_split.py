"""Pairs held out and set aside by prompt: near-duplicates stay together, and every job splits alike."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from arms.data.clusters import Clusters
from arms.data.leakage import is_near, normalise, word_shingles
from arms.data.sources import open_source, read_checked, split_of
from arms.job.files import UserError

ROOT = Path(__file__).parents[3]


def random_prompts(rng: random.Random) -> list[str]:
    words = [f"w{number}" for number in range(rng.choice([3, 8, 40]))]
    seeds = [[rng.choice(words) for _ in range(rng.randint(1, 30))] for _ in range(15)]
    prompts = []
    for _ in range(80):
        prompt = list(rng.choice(seeds))
        for _ in range(rng.randrange(3)):
            prompt[rng.randrange(len(prompt))] = rng.choice(words)
        prompts.append(" ".join(prompt + [rng.choice(words)] * rng.randrange(2)))
    return prompts


@pytest.mark.parametrize("seed", range(20))
def test_clusters_are_those_that_comparing_all_pairs_gives(seed):
    prompts = random_prompts(random.Random(seed))
    clusters = Clusters()
    found = clusters.labels([clusters.add(prompt) for prompt in prompts])
    sets, group = [word_shingles(prompt) for prompt in prompts], list(range(len(prompts)))
    for one, other in itertools.combinations(range(len(prompts)), 2):
        if prompts[one] == prompts[other] or is_near(sets[one], sets[other]):
            group = [group[one] if label == group[other] else label for label in group]
    assert len(set(zip(found, group, strict=True))) == len(set(found)) == len(set(group))


def test_rows_of_one_cluster_id_are_together():
    clusters = Clusters()
    numbers = [clusters.add("one text", "a"), clusters.add("another"), clusters.add("a third", "a")]
    one, other, third = clusters.labels(numbers)
    assert one == third != other


def pair(number: int, prompt: str, **more: str) -> dict:
    return {"id": f"p{number}", "prompt": prompt, "chosen": f"yes {number}", "rejected": f"no {number}", **more}


def families(count: int = 60) -> list[dict]:
    """Rows whose prompts come in families of one, two or three near-duplicates, each of which has its own town."""
    rows = []
    for number in range(count):
        text = " ".join(f"the town of number {number} has its river and place {word}" for word in "abcdefg")
        rows += [pair(len(rows) + n, text + " now" * n) for n in range(1 + number % 3)]
    return rows


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def asked(tmp_path):
    """Gives the rows of each part, of pairs and SFT rows that a test chooses."""

    def parts(pairs: list[dict], sft: list[dict] = (), **split: dict) -> dict[str, list[dict]]:
        split_of.cache_clear()  # which a job never has to: its files stay
        split = {part: {"by": "prompt", "seed": 0, **one} for part, one in split.items()}
        sft = sft or [{"id": "s", "prompt": "quite another thing", "completion": "c"}]
        among = {"sft": write(tmp_path / "sft.jsonl", sft), "pairs": write(tmp_path / "pairs.jsonl", pairs)}
        found = {}
        for part, of in (("training", "pairs"), ("training", "sft"), *((part, "pairs") for part in split)):
            spec = {"part": part, "of": of, "split": split, "among": among}
            found[of if part == "training" else part] = list(read_checked(spec, of))
        parts.source = open_source({"part": "training", "of": "sft", "split": split, "among": among}, "sft")
        return found

    return parts


def ids(rows):
    return [row["id"] for row in rows]


def test_near_duplicates_stay_on_one_side_and_every_row_is_somewhere(asked):
    rows = families()
    found = asked(rows, heldout={"fraction": 0.25}, development={"rows": 12})
    sides = [found["pairs"], found["heldout"], found["development"]]
    assert [len(side) for side in sides] == [78, 30, 12]
    assert sorted(itertools.chain(*map(ids, sides))) == sorted(ids(rows))
    sets = [[word_shingles(normalise(row["prompt"])) for row in side] for side in sides]
    for one, other in itertools.combinations(sets, 2):
        assert not any(is_near(a, b) for a in one for b in other)
    assert all(ids(side) == [i for i in ids(rows) if i in ids(side)] for side in sides), "not in file order"


def test_the_split_follows_prompts_and_seed_alone(asked):
    rows = families()
    first = asked(rows, heldout={"rows": 20}, development={"rows": 20})
    shuffled = random.Random(3).sample(rows, len(rows))
    again = asked(shuffled, heldout={"rows": 20}, development={"rows": 20})
    assert {part: sorted(ids(found)) for part, found in first.items()} == {
        part: sorted(ids(found)) for part, found in again.items()
    }
    other = asked(rows, heldout={"rows": 20, "seed": 1}, development={"rows": 20})
    assert ids(other["heldout"]) != ids(first["heldout"])
    developed = asked(rows, heldout={"rows": 20}, development={"rows": 20, "seed": 1})
    assert ids(developed["heldout"]) == ids(first["heldout"])
    assert ids(developed["development"]) != ids(first["development"])


def test_another_process_splits_alike(asked, tmp_path):
    """Python's own hash of a text differs from process to process."""
    here = asked(families(), heldout={"fraction": 0.3})
    spec = {
        "part": "heldout", "of": "pairs", "split": {"heldout": {"by": "prompt", "seed": 0, "fraction": 0.3}},
        "among": {name: str(tmp_path / f"{name}.jsonl") for name in ("sft", "pairs")},
    }  # fmt: skip
    ask = "import json, sys; from arms.data.sources import read_checked; "
    ask += "print(json.dumps([row['id'] for row in read_checked(json.loads(sys.argv[1]), 'pairs')]))"
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", ask, json.dumps(spec)],
            env={"PYTHONPATH": str(ROOT / "scripts"), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == ids(here["heldout"])


def test_sft_rows_whose_prompt_is_set_apart_are_left_out_and_told(asked):
    rows = families()
    sft = [{"id": f"s{row['id']}", "prompt": row["prompt"] + " please", "completion": row["chosen"]} for row in rows]
    found = asked(rows, sft, heldout={"fraction": 0.2}, development={"fraction": 0.1})
    apart = ids(found["heldout"]) + ids(found["development"])
    assert ids(found["sft"]) == [f"s{row['id']}" for row in rows if row["id"] not in apart]
    assert asked.source.split.left_out == [f"s{row['id']}" for row in rows if row["id"] in apart]
    assert f"{len(apart)} SFT rows are left out, whose prompts are held out or set aside" in asked.source.notes()[-1]


def test_what_cannot_be_split_is_one_message(asked):
    for rows, split, words in [
        (families(), {"heldout": {"rows": 200}}, "data.heldout: 200 of 120 rows .*leaves none to train on"),
        (families(), {"heldout": {"fraction": 0.001}}, "data.heldout: 0 of 120 rows .* no cluster of prompts is that"),
        (
            [pair(n, "the same prompt") for n in range(9)],
            {"development": {"rows": 3}},
            r"data.development: 3 of 9 rows of .*pairs.jsonl are asked for, and no cluster .* \(1 clusters, the "
            "smallest of 9 rows",
        ),
    ]:
        with pytest.raises(UserError, match=words):
            asked(rows, **split)


def test_a_bad_row_is_told_by_the_training_side(asked):
    rows = families()
    rows[7]["chosen"] = " "
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 8: 'chosen' is empty"):
        asked(rows, heldout={"rows": 100})
