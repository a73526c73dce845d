"""How answers are graded by what their prompts name. Environment: groups grade + dev."""

import csv
import json

import pytest

pytest.importorskip("lm_eval", reason="runs in the grade environment")

from arms.data import graders
from arms.data.functions import FunctionFailed
from arms.data.graders import Graders, chosen_letter
from arms.data.rows import BadRow
from arms.data.sources import read_checked
from arms.job.files import UserError

FILE = '''
import os
import time

print("loaded")

def short(prompt, answer, most=10):
    """Whether the answer has few words."""
    print("printed", answer)
    os.write(1, b"from C")
    return len(answer.split()) <= most

def raises_on_numbers(prompt, answer):
    if any(letter.isdigit() for letter in answer):
        raise ValueError("a\\nnumber")
    return True

def hangs_on_numbers(prompt, answer):
    while any(letter.isdigit() for letter in answer):
        time.sleep(0.1)
    return True

def leaves_on_numbers(prompt, answer):
    if any(letter.isdigit() for letter in answer):
        os._exit(0)
    return True

def raises(prompt, answer):
    raise KeyError("answer")

def hangs(prompt, answer):
    time.sleep(60)

def prints(prompt, answer):
    print(True)

def says_text(prompt, answer):
    return "yes"

def _own(prompt, answer):
    return True
'''


def row(grader, **more):
    return {"id": "p1", "prompt": "A question?", "grader": grader, **more}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's file with functions, which get three seconds."""
    monkeypatch.setattr(graders, "SECONDS", 3.0)
    (tmp_path / "own.py").write_text(FILE)
    with Graders(str(tmp_path / "own.py")) as found:
        yield found


@pytest.mark.parametrize(
    ("grader", "passing", "failing"),
    [
        ({"exact": "Paris"}, " Paris\n", "paris"),
        ({"exact": ["Paris", "Lutetia"], "ignore_case": True}, "LUTETIA", "Paris."),
        ({"number": 18}, "She has 16 - 3 = 13, so 9 * 2 = $18.", "18 eggs, 3 of them eaten"),
        ({"number": -1.5}, "It is −1.5", "It is 1.5"),
        ({"number": 1234567}, "About 1,234,567 people.", "About 1,234,56 people."),
        ({"number": 6.02e23, "tolerance": 1e21}, "6.022e23 particles", "6.1e23 particles"),
        ({"number": 0.3}, "0.1 + 0.2 = 0.3", "0.1 + 0.2 = 0.30000000000000004"),
        ({"regex": r"^\d{4}-\d{2}$"}, "2024-07", "2024-7"),
        ({"regex": r"(?i)answer:\s*(\w+)", "equals": "no"}, "Answer: yes? No. Answer: no", "answer: no. ANSWER: yes"),
        ({"regex": "[0-9]+", "equals": "7"}, "3, then 7", "7, then 3"),
        ({"choice": "B", "of": "ABCD"}, "The answer is (B).", "A"),
        ({"json_schema": {"type": "object", "required": ["a"]}}, '```json\n{"a": null}\n```', '{"b": 1}'),
    ],
)
def test_every_kind_knows_a_passing_and_a_failing_answer(grader, passing, failing):
    with Graders() as found:
        found.check(row(grader))
        assert found.passes(row(grader), passing)
        assert not found.passes(row(grader), failing)
        assert not found.passes(row(grader), "")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C) since it rains", "C"),
        ("**D**", "D"),
        ("A: the first", "A"),
        ("Answer: A\n... no. Final answer: C", "C"),
        ("The correct answer is b", "B"),
        ("It must be (D), I think.", "D"),
        ("(A) or (B)", None),
        ("A bird in the hand", None),
        ("Because", None),
        ("The answer is blue", None),
        ("E", None),
    ],
)
def test_the_letter_that_an_answer_settles_on(text, letter):
    assert chosen_letter("ABCD", text) == letter


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ("Paris", "'grader' must be an object, found str"),
        ({}, "'grader' has nothing; give it one of exact, "),
        ({"exact": "a", "number": 1}, "'grader' has 'exact', 'number'"),
        ({"exact": "a", "tolerance": 1}, "grader 'exact' does not take 'tolerance'; it takes ignore_case"),
        ({"exact": []}, r"'exact' is \[\], it must be a text"),
        ({"number": "18"}, "'number' is \"18\", it must be a finite number"),
        ({"number": True}, "finite number"),
        ({"number": 1, "tolerance": -1}, "finite number"),
        ({"regex": "(open"}, "'regex': \"\\(open\" is none"),
        ({"regex": 7}, "'regex': 7 is none"),
        ({"choice": "E", "of": "ABCD"}, "one of the letters of 'of'"),
        ({"choice": "A"}, "needs 'of'"),
        ({"choice": "A", "of": "A"}, "needs 'of'"),  # a choice of one
        ({"json_schema": {"type": "objekt"}}, "'json_schema': 'objekt' is not valid"),
        ({"python": "short"}, "name its file in the config: data.graders: FILE.py"),
        ({"regex": "(a+)+$(?<!x{9999})"}, None),
    ],
)
def test_a_grader_that_is_none_is_refused(grader, message):
    with Graders() as found:
        if message is None:
            return found.check(row(grader))
        with pytest.raises(BadRow, match=message):
            found.check(row(grader))
    return None


def test_a_row_has_one_grader():
    with Graders() as found:
        with pytest.raises(BadRow, match="both 'grader' and 'instruction_id_list'"):
            found.check(row({"exact": "a"}, instruction_id_list=["punctuation:no_comma"], kwargs=[{}]))
        with pytest.raises(BadRow, match="say what the answer is graded by: grader, or IFEval's"):
            found.check(row(None))


def test_an_expression_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(graders, "SECONDS", 0.2)
    with Graders() as found, pytest.raises(TimeoutError):
        found.passes(row({"regex": "(x+x+)+y"}), "x" * 4000)


def test_a_function_grades_and_its_prints_stay_out(tmp_path, capfd):
    (tmp_path / "own.py").write_text(FILE)
    with Graders(str(tmp_path / "own.py")) as found:
        found.check(row({"python": "short", "most": 3}))
        assert found.passes(row({"python": "short", "most": 3}), "one two three")
        assert not found.passes(row({"python": "short", "most": 2}), "one two three")
    told = capfd.readouterr()
    assert told.out == ""
    assert "printed one two three" in told.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises_on_numbers", "raises_on_numbers raised ValueError: a number"),
        ("hangs_on_numbers", "hangs_on_numbers took more than 3 s"),
        ("leaves_on_numbers", "leaves_on_numbers ended Python"),
    ],
)
def test_what_a_function_does_to_itself_does_not_happen_to_the_job(own, name, message):
    own.check(row({"python": name}))  # whose sentences have no numbers
    with pytest.raises(FunctionFailed, match=message):
        own.passes(row({"python": name}), "1 2")
    assert own.passes(row({"python": name}), "one two")


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"python": "raises"}, "raises raised KeyError: 'answer'; correct the function or the row"),
        ({"python": "hangs"}, "hangs took more than 3 s; correct the function or the row"),
        ({"python": "prints"}, "prints gave NoneType None, not True or False"),
        ({"python": "says_text"}, "says_text gave str 'yes', not True or False; correct the function"),
        ({"python": "_own"}, r"no function '_own' in .*own.py \(found: hangs, hangs_on_numbers, leaves_on"),
        ({"python": "short", "at_most": 3}, "short raised TypeError: short\\(\\) got an unexpected keyword"),
    ],
)
def test_a_function_that_cannot_grade_is_found_before_training(own, grader, message):
    with pytest.raises(BadRow, match=message):
        own.check(row(grader))


@pytest.mark.parametrize(("text", "message"), [("x = (", "SyntaxError"), ("exit(3)", "SystemExit: 3")])
def test_a_file_that_cannot_be_loaded(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=rf"own.py \(data.graders in the config\): cannot be loaded: {message}"):
        Graders(str(tmp_path / "own.py"))


def test_graders_go_through_files_of_each_kind(tmp_path):
    """CSV holds them as JSON text; parquet gives every row the keys of all, null where they are another's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [{"exact": "a"}, {"number": 2, "tolerance": 0.5}]
    rows = [{"id": str(i), "prompt": f"Question {i}?", "grader": one} for i, one in enumerate(found)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["id", "prompt", "grader"], *([r["id"], r["prompt"], json.dumps(r["grader"])] for r in rows)])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    with Graders() as all_graders:
        for name in ("p.jsonl", "p.csv", "p.parquet"):
            read = list(read_checked(tmp_path / name, "prompts", all_graders.check))
            assert [one["grader"] for one in read] == found, name


def test_the_process_of_the_functions_ends_with_the_grading(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    with Graders(str(tmp_path / "own.py")) as found:
        process = found.functions.process
        assert process.poll() is None
    assert process.poll() is not None
