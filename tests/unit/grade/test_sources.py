"""Samples and mixtures: drawn by a seed, each data set with its share, and one message for what cannot be had."""

import json

import pytest

from arms.data.sources import open_source, read_checked
from arms.job.files import UserError


def pairs(name: str, count: int) -> list[dict]:
    return [
        {"id": number, "prompt": f"{name} {number}?", "chosen": f"yes {number}", "rejected": "no"}
        for number in range(count)
    ]


@pytest.fixture
def write(tmp_path):
    def file(name: str, count: int) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in pairs(name, count)))
        return str(path)

    return file


def ids(spec: dict) -> list[str]:
    return [row["id"] for row in read_checked(spec, "pairs")]


def test_a_sample_is_drawn_by_its_seed_and_keeps_the_order(write):
    path = write("a", 500)
    found = [ids({"path": path, "sample": 100, "seed": seed}) for seed in (0, 0, 1)]
    assert [len(set(one)) for one in found] == [100, 100, 100]
    assert found[0] == found[1] != found[2]
    assert found[0] == sorted(found[0], key=int)
    assert ids({"path": path, "sample": 100}) == found[0]
    assert ids({"path": path, "sample": 500}) == ids({"path": path})
    with pytest.raises(UserError, match=r"a\.jsonl: a sample of 501 rows is asked for, and there are 500; lower it"):
        ids({"path": path, "sample": 501})


def test_a_sample_is_uniform(write):
    """Each of 20 rows is drawn in half of 400 samples of ten: within four standard deviations of a half."""
    path = write("a", 20)
    drawn = [ids({"path": path, "sample": 10, "seed": seed}) for seed in range(400)]
    shares = [sum(str(row) in one for one in drawn) / 400 for row in range(20)]
    assert all(abs(share - 0.5) < 4 * 0.025 for share in shares)


def mixture(write, weights: tuple, counts: tuple, **more) -> dict:
    members = [
        {"path": write(f"set{number}", count), "name": f"set{number}", "weight": weight}
        for number, (weight, count) in enumerate(zip(weights, counts, strict=True))
    ]
    return {"mix": members, **more}


@pytest.mark.parametrize(
    ("weights", "counts", "sample", "shares"),
    [
        ((3, 1), (300, 300), 100, [75, 25]),
        ((3, 1), (300, 300), None, [300, 100]),
        ((0.1, 0.2), (300, 300), None, [150, 300]),
        ((1, 1, 1), (10, 10, 10), 10, [4, 3, 3]),
        ((1, 1), (5, 7), 12, None),
        ((2, 1), (3, 9), 9, None),
    ],
)
def test_each_data_set_has_its_share(write, weights, counts, sample, shares):
    spec = mixture(write, weights, counts, **({} if sample is None else {"sample": sample}))
    if shares is None:
        most = {5: 10, 3: 4}[counts[0]]
        words = rf"6 of {sample} rows are to come from 'set0', which has {counts[0]}; lower .* sample to at most {most}"
        with pytest.raises(UserError, match=words):
            ids(spec)
        return
    found = ids(spec)
    names = [f"set{number}" for number in range(len(weights))]
    assert [sum(name.startswith(f"{one}/") for name in found) for one in names] == shares
    assert len(set(found)) == sum(shares)
    assert found == ids(spec) != ids({**spec, "seed": 1}) or sum(shares) == sum(counts)


def test_a_weight_that_gives_no_row(write):
    with pytest.raises(UserError, match="by its weight no row of 3 comes from 'set1'; raise it"):
        ids(mixture(write, (100, 1), (9, 9), sample=3))


def test_rows_of_a_mixture_keep_place_and_layout_and_are_counted(write, tmp_path):
    chats = [
        {side: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
         for side in ("chosen", "rejected")}
        for row in pairs("chat", 20)
    ]  # fmt: skip
    (tmp_path / "chats.json").write_text(json.dumps(chats))
    spec = mixture(write, (1,), (40,))
    spec["mix"].append({"path": str(tmp_path / "chats.json"), "name": "org/chats", "weight": 1})
    source = open_source(spec, "pairs")
    rows = [source.complete(row) for row in source.rows()]
    assert source.layout == "text and messages"
    assert source.facts(b"") == {
        "sources": {"set0": {"rows": 20, "weight": 1, "of": 40}, "org/chats": {"rows": 20, "weight": 1, "of": 20}}
    }
    assert source.facts_in_words() == ["a mixture: 20 of 40 of set0, 20 of 20 of org/chats"]
    assert [row["prompt"] for row in rows[20:]] == [f"chat {number}?" for number in range(20)]
    assert rows[20]["_place"].endswith("chats.json, row 1")
    assert rows[20]["id"].startswith("org/chats/")


def test_a_mixture_may_be_split(write):
    spec = mixture(write, (2, 1), (60, 60), sample=60)
    (sft,) = ([{"path": write("sft", 5), "columns": {"completion": "chosen"}}],)
    part = {"split": {"heldout": {"by": "prompt", "seed": 0, "rows": 12}}, "among": {"pairs": spec, "sft": sft[0]}}
    sides = [ids({"part": side, "of": "pairs", **part}) for side in ("training", "heldout")]
    assert [len(side) for side in sides] == [48, 12]
    assert sorted(sides[0] + sides[1]) == sorted(ids(spec))
