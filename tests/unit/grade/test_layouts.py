"""Layouts that people's data have: each gives the rows of our own layout, in every format that can hold it."""

import os
import re

import pytest
from layouts import FORMATS, PAIRS, ROWS, SFT, as_jsonl, as_parquet, assistant, is_flat, user

from arms.data.sources import Source, read_checked
from arms.job.files import UserError


def content(path, kind):
    return [{name: v for name, v in row.items() if name not in ("_row", "_place")} for row in read_checked(path, kind)]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("layout", PAIRS)
def test_pairs_of_every_layout_and_format_are_the_same(tmp_path, layout, format_):
    if format_ == "a.csv" and not is_flat(PAIRS[layout]("p", "c", "r")):
        return
    as_jsonl(tmp_path / "ours.jsonl", ROWS)
    FORMATS[format_](tmp_path / format_, [PAIRS[layout](*row.values()) for row in ROWS])
    found = content(tmp_path / format_, "pairs")
    assert found == content(tmp_path / "ours.jsonl", "pairs")
    assert [row["prompt"] for row in found] == [row["prompt"] for row in ROWS]
    assert all(row["_turns"] is None for row in found)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("layout", SFT)
def test_sft_rows_of_every_layout_and_format_are_the_same(tmp_path, layout, format_):
    if format_ == "a.csv" and not is_flat(SFT[layout]("p", "c")):
        return
    rows = [(row["prompt"], row["chosen"]) for row in ROWS]
    as_jsonl(tmp_path / "ours.jsonl", [SFT["text"](*row) for row in rows])
    FORMATS[format_](tmp_path / format_, [SFT[layout](*row) for row in rows])
    assert content(tmp_path / format_, "sft") == content(tmp_path / "ours.jsonl", "sft")


def one(tmp_path, row, kind, **spec):
    as_jsonl(tmp_path / "one.jsonl", row if isinstance(row, list) else [row])
    return next(read_checked({"path": str(tmp_path / "one.jsonl"), **spec}, kind))


TALK = [user("Hi"), assistant("Hello"), user("Bye?")]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("kind", "row", "turns"),
    [
        ("pairs", {"prompt": TALK, "chosen": [assistant("Bye")], "rejected": [assistant("No")]}, TALK),
        ("pairs", {"prompt": "Bye?", "chosen": [*TALK, assistant("Bye")], "rejected": [*TALK, assistant("No")]}, TALK),
        (
            "pairs",
            {
                side: f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye?\n\nAssistant: {text}"
                for side, text in (("chosen", "Bye"), ("rejected", "No"))
            },
            TALK,
        ),
        ("pairs", {"system": "Be brief.", "question": "Hi", "chosen": "A", "rejected": "B"}, [SYSTEM, user("Hi")]),
        ("pairs", {"system": "", "prompt": "Hi", "chosen": "A", "rejected": "B"}, None),
        ("sft", {"system": "Be brief.", "conversations": [user("Hi"), assistant("A")]}, [SYSTEM, user("Hi")]),
        ("sft", {"messages": [SYSTEM, *TALK, assistant("Bye")]}, [SYSTEM, *TALK]),
        ("prompts", {"prompt": [SYSTEM, *TALK]}, [SYSTEM, *TALK]),
    ],
)
def test_conversations_are_kept_turn_by_turn(tmp_path, kind, row, turns):
    found = one(tmp_path, row, kind)
    assert found["_turns"] == turns
    spoken = [turn["content"] for turn in turns or [user("Hi")] if turn["role"] != "system"]
    assert found["prompt"] == "\n\n".join(spoken)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "c"}
OLD_CALL = {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "4"}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("sft", {"messages": [SYSTEM, user("2+2?"), CALL, RESULT, assistant("Four")], "tools": "[]"}),
        ("sft", {"system": "Be brief.", "conversations": [user("2+2?"), *OLD_CALL, assistant("Four")]}),
        ("pairs", {
            "chosen": [SYSTEM, user("2+2?"), CALL, RESULT, assistant("Four")],
            "rejected": [SYSTEM, user("2+2?"), CALL, RESULT, assistant("Five")],
        }),
        ("pairs", {
            "prompt": [SYSTEM, user("2+2?"), CALL, RESULT], "chosen": [assistant("Four")], "rejected": [assistant("5")],
        }),
    ],
)  # fmt: skip
def test_turns_of_tools_are_ignored_and_counted(tmp_path, kind, row):
    as_jsonl(tmp_path / "a.jsonl", [row])
    source = Source(tmp_path / "a.jsonl", kind)
    (found,) = [source.complete(one) for one in source.rows()]
    assert found["_turns"] == [SYSTEM, user("2+2?")]
    assert found["completion" if kind == "sft" else "chosen"] == "Four"
    turns = 4 if "rejected" in row and len(row["chosen"]) > 1 else 2
    assert source.facts(b"") == {"tools": {"turns": turns, "left_out": []}}
    assert source.notes() == [f"{source.words}: {turns} turns of tools, or that call one, are ignored"]


def test_rows_whose_answer_calls_a_tool_are_left_out_with_their_ids(tmp_path):
    good = {"messages": [user("a"), assistant("b")]}
    bad = [{"id": f"t{n}", "messages": [user("a"), CALL]} for n in range(6)] + [{"messages": [user("a"), CALL, RESULT]}]
    as_jsonl(tmp_path / "a.jsonl", [good, *bad])
    source = Source(tmp_path / "a.jsonl", "sft")
    assert [row["_row"] for row in source.rows()] == [1]
    left_out = [*(f"t{n}" for n in range(6)), f"{tmp_path / 'a.jsonl'}, line 8"]
    assert source.facts(b"")["tools"] == {"turns": 8, "left_out": left_out}
    assert source.notes()[1].endswith(
        "7 rows are left out, whose answer calls a tool or is one's: t0, t1, t2, t3, t4, ..."
    )


def test_columns_of_ones_own_are_no_matter(tmp_path):
    """Not even those that are called as ours are."""
    row = {**ROWS[0], "turns": ["a"], "extra": {"b": None}, "_row": "seven", "_place": 3}
    found = one(tmp_path, row, "pairs")
    assert (found["_turns"], found["_row"], found["_place"]) == (None, 1, f"{tmp_path / 'one.jsonl'}, line 1")


def test_an_alpaca_input_follows_its_instruction(tmp_path):
    row = {"instruction": "Translate.", "input": "Fluss", "output": "river"}
    assert one(tmp_path, row, "sft")["prompt"] == "Translate.\n\nFluss"


def test_columns_may_be_named(tmp_path):
    row = {"uid": 3, "q": "Why?", "good": "So.", "bad": "No.", "kind": "k"}
    columns = {"id": "uid", "prompt": "q", "chosen": "good", "rejected": "bad", "category": "kind"}
    found = one(tmp_path, row, "pairs", columns=columns)
    assert [found[name] for name in columns] == ["3", "Why?", "So.", "No.", "k"]


@pytest.mark.parametrize(
    "names", [("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating"), ("good", "bad")]
)
def test_pairs_that_differ_too_little_may_be_left_out(tmp_path, names):
    scores = [(5, 1), (3.5, 2), (2, 2), ("4", "2.5"), (1, 3)]
    as_jsonl(
        tmp_path / "a.jsonl", [row | dict(zip(names, s, strict=True)) for row, s in zip(ROWS, scores, strict=False)]
    )
    columns = {"score_chosen": "good", "score_rejected": "bad"} if names == ("good", "bad") else {}
    source = Source({"path": str(tmp_path / "a.jsonl"), "min_margin": 1.5, "columns": columns}, "pairs")
    assert [row["prompt"] for row in source.rows()] == [ROWS[n]["prompt"] for n in (0, 1, 3)]
    assert source.left_out == 2


def test_scores_that_are_no_numbers(tmp_path):
    for scores, words in [
        ({}, "line 1: min_margin needs the scores of both answers in columns, such as score_chosen and score_rejected"),
        ({"score_chosen": "high", "score_rejected": 1}, "line 1: the scores .*'high', 1.* are not numbers"),
        ({"score_chosen": None, "score_rejected": 1}, "line 1: the scores .*None, 1.* are not numbers"),
        ({"score_chosen": "nan", "score_rejected": 1}, "line 1: the scores .*'nan', 1.* are not numbers"),
    ]:
        as_jsonl(tmp_path / "a.jsonl", [ROWS[0] | scores])
        with pytest.raises(UserError, match=words):
            list(Source({"path": str(tmp_path / "a.jsonl"), "min_margin": 1}, "pairs").rows())


def test_a_layout_may_be_named(tmp_path):
    row = {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}
    with pytest.raises(UserError, match="fit several layouts, text and alpaca; name one in the config"):
        one(tmp_path, row, "sft")
    assert one(tmp_path, row, "sft", layout="alpaca")["prompt"] == "c"
    with pytest.raises(UserError, match="no layout 'hh' of such rows; choose text, messages, sharegpt, alpaca"):
        Source({"path": "x", "layout": "hh"}, "sft")


BAD = {
    "pairs as SFT rows": (
        "sft",
        ROWS[:1],
        r"these are pairs \('prompt', 'chosen', 'rejected'\), not SFT rows; data.pairs or",
    ),
    "SFT rows as pairs": ("pairs", {"messages": [user("a")]}, r"these are SFT rows .* not pairs; data\.sft takes them"),
    "SFT rows as prompts": (
        "prompts",
        {"instruction": "a", "output": "b"},
        r"not held-out prompts; data\.sft takes them",
    ),
    "unknown columns": ("pairs", {"a": "b", "c": "d"}, r"its columns \('a', 'c'\) are of no known layout .*columns: {"),
    "unpaired": (
        "pairs",
        {"prompt": "a", "completion": "b", "label": True},
        r"unpaired rows \(prompt, completion, label\), as KTO .*needs the columns prompt, chosen and rejected: where a",
    ),
    "unpaired as SFT rows, the bad ones among them": (
        "sft",
        {"prompt": "a", "completion": "b", "label": False},
        "unpaired rows .* Rows whose label is true may be SFT rows",
    ),
    "empty": ("sft", {"messages": []}, "line 1: column 'messages' is an empty conversation"),
    "no answer": ("sft", {"messages": [user("a")]}, "ends with a user turn, so there is no answer"),
    "answer first": ("sft", {"messages": [assistant("a"), user("b"), assistant("c")]}, "an assistant turn starts"),
    "only an answer": ("sft", {"messages": [assistant("a")]}, "there is no user turn before the answer"),
    "two users": ("sft", {"messages": [user("a"), user("b"), assistant("c")]}, "user and assistant do not take turns"),
    "late system": ("sft", {"messages": [user("a"), SYSTEM, assistant("c")]}, "user and assistant do not take turns"),
    "a tool": (
        "sft",
        {"messages": [user("a"), {"role": "tool", "content": "b"}]},
        "no row is left.*1 rows are left out, whose answer calls a tool or is one's: .*one.jsonl, line 1",
    ),
    "an unknown role": ("sft", {"messages": [user("a"), {"role": "judge", "content": "b"}]}, "has the role 'judge'"),
    "no text": ("sft", {"messages": [user("a"), assistant(None)]}, "has a message without text"),
    "a picture": ("sft", {"messages": [user([{"type": "image"}]), assistant("b")]}, "has a message without text"),
    "not the same talk": (
        "pairs",
        {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
        "differ before their last turn",
    ),
    "another prompt": (
        "pairs",
        {"prompt": "x", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("d")]},
        "'prompt' is not in the conversation of 'chosen'",
    ),
    "a later row of another layout": (
        "sft",
        [{"messages": [user("a"), assistant("b")]}, {"prompt": "a", "completion": "b"}],
        "line 2: column 'messages' is missing or not as in the rows before",
    ),
}


@pytest.mark.parametrize("value", [float("nan"), None, 7])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_of_a_table_that_holds_no_text(tmp_path, value, suffix):
    path = tmp_path / f"a.{suffix}"
    FORMATS[f"a.{suffix}"](path, [ROWS[0] | {"chosen": value}])
    words = "is empty (null)" if value is None else f"must be str, found {type(value).__name__} '{value}'"
    with pytest.raises(UserError, match=re.escape(f"{path}, row 1: column 'chosen' {words}")):
        list(read_checked(path, "pairs"))


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_layout_is_one_message(tmp_path, case):
    kind, rows, message = BAD[case]
    as_jsonl(tmp_path / "one.jsonl", rows if isinstance(rows, list) else [rows])
    with pytest.raises(UserError, match=message):
        list(read_checked(tmp_path / "one.jsonl", kind))


REVISION = "0123456789abcdef0123456789abcdef01234567"
UNSORTED = {"train-00000-of-00001.parquet": ROWS, "test-00000-of-00001.parquet": ROWS[:3]}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Lay a hub cache out as the hub lays it: each file of a snapshot is a link to a blob. Returns a reader of it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "datasets--mine--preferences"

    def lay(files: dict, card: str = "---\nlicense: mit\n---\n") -> None:
        for number, (name, rows) in enumerate({**files, "README.md": card}.items()):
            path, blob = folder / "snapshots" / REVISION / name, folder / "blobs" / f"{number}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            as_parquet(blob, rows) if isinstance(rows, list) else blob.write_text(rows)
            path.symlink_to(os.path.relpath(blob, path.parent))

    def read(**spec) -> list[dict]:
        return list(read_checked({"hub": "mine/preferences", "revision": REVISION, "split": "test", **spec}, "pairs"))

    read.lay = lay
    return read


CARD = """---
configs:
- config_name: short
  data_files: [{split: test, path: few/*.parquet}, {split: train, path: [many/a.parquet, many/b.parquet]}]
- config_name: long
  data_files: many/*.parquet
---
# Preferences
"""
SORTED = {"few/x.parquet": ROWS[:3], "many/a.parquet": ROWS[:9], "many/b.parquet": ROWS[9:], "many/.c.parquet": ROWS}


@pytest.mark.parametrize(
    ("files", "card", "asked", "rows"),
    [
        ({f"data/{name}": rows for name, rows in UNSORTED.items()}, "# none", {}, ROWS[:3]),
        ({f"data/{name}": rows for name, rows in UNSORTED.items()}, "# none", {"split": "train"}, ROWS),
        ({"train.parquet": ROWS, "my_eval.parquet": ROWS[:3], "contest.parquet": ROWS[3:]}, "", {}, ROWS[:3]),
        ({"a.parquet": ROWS[:9], "b.parquet": ROWS[9:]}, "", {"split": "train"}, ROWS),
        (SORTED, CARD, {"config": "short"}, ROWS[:3]),
        (SORTED, CARD, {"config": "short", "split": "train"}, ROWS),
        (SORTED, CARD, {"config": "long", "split": "train"}, ROWS),
    ],
)
def test_a_data_set_of_the_hub(hub, files, card, asked, rows):
    hub.lay(files, card)
    assert [row["prompt"] for row in hub(**asked)] == [row["prompt"] for row in rows]


def test_rows_of_the_hub_say_where_they_stand(hub):
    hub.lay(UNSORTED)
    place = "mine/preferences at 0123456789ab, test-00000-of-00001.parquet, row 3"
    assert hub()[-1]["_place"] == place


def test_what_the_hub_does_not_have(hub):
    hub.lay(SORTED, CARD)
    for asked, words in [
        ({"hub": "mine/other"}, f"not in this machine's cache.*download --repo-type dataset mine/other .* {REVISION}"),
        ({}, "has several configurations; add config: one of short, long"),
        ({"config": "french"}, "has no configuration 'french'; it has short, long"),
        ({"config": "short", "split": "tset"}, "has no split 'tset'; it has test, train"),
    ]:
        with pytest.raises(UserError, match=words):
            hub(**asked)
