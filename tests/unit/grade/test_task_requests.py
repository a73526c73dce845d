"""Program `task_requests`: what the harness asks, and what it could not ask or grade in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arms.data.requests import ITEMS, REQUESTS, read_rows

ROOT = Path(__file__).parents[3]
SETTINGS = {"few_shot": None, "chat_template": False, "limit": None, "system_prompt": None, "higher_is_better": True}
CHOICE = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
doc_to_choice: "{{c}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROWS = [{"q": "One?", "c": ["a", "b"], "a": 0}, {"q": "Two?", "c": ["a", "b", "c"], "a": 2}]
WRITTEN = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["."], max_gen_toks: 5}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def ask(folder, *, fails=False, files=("mine.yaml", "mine.jsonl"), **settings):
    """Run the program; its rows, or with `fails` its one line."""
    settings = {"name": "mine", "task": "mine", "own": bool(files), "metric": ["acc"], **SETTINGS, **settings}
    job = json.dumps({"rule": "task_requests", "wildcards": {"task": settings["name"]}, "settings": settings})
    command = [sys.executable, str(ROOT / "scripts" / "task_requests.py"), "--job", job, "--manifest", "m.json"]
    command += ["--requests", "requests.parquet", "--heldout", "items.parquet", "--files", *files]
    environment = {**os.environ, "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == int(fails), done.stdout + done.stderr
    if fails:
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr[done.stderr.index("error: ") :]
    return read_rows(folder / "requests.parquet", REQUESTS)


@pytest.fixture
def mine(tmp_path):
    write(tmp_path, CHOICE, ROWS)
    return tmp_path


def write(folder, text, rows):
    (folder / "mine.yaml").write_text(text)
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_choice_asks_for_each_continuation(mine):
    rows = ask(mine)
    assert [(row["doc_id"], row["context"], row["continuation"]) for row in rows] == [
        (0, "One?", " a"), (0, "One?", " b"), (1, "Two?", " a"), (1, "Two?", " b"), (1, "Two?", " c"),
    ]  # fmt: skip
    items = read_rows(mine / "items.parquet", ITEMS)
    assert [(item["id"], item["category"]) for item in items] == [("mine/0", "mine"), ("mine/1", "mine")]
    facts = json.loads((mine / "m.json").read_text())["facts"]
    assert (facts["lm_eval"], facts["tasks"]["mine"]["items"]) == ("0.4.13", 2)


def test_an_answer_has_its_end_and_its_length(tmp_path):
    write(tmp_path, WRITTEN, ROWS)
    (row, *_) = ask(tmp_path, metric=["exact_match"], limit=1)
    assert (row["context"], row["continuation"], row["until"], row["max_new_tokens"]) == ("One?", None, ["."], 5)


def test_a_conversation_is_left_to_the_tokenizer(mine):
    (row, *_) = ask(mine, chat_template=True, system_prompt="Be brief.")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]
    assert row["conversation"]
    assert json.loads(row["context"]) == {"messages": turns, "continued": False}


def test_other_content_of_the_same_size_and_time_is_seen(mine):
    first = ask(mine)
    facts = (mine / "mine.jsonl").stat()
    write(mine, CHOICE, [{**ROWS[0], "q": "Six?"}, ROWS[1]])
    os.utime(mine / "mine.jsonl", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert [row["context"] for row in (first[0], ask(mine)[0])] == ["One?", "Six?"]


def test_a_group_has_its_tasks_as_categories(mine):
    (mine / "both.yaml").write_text("group: both\ntask: [mine, more]\n")
    (mine / "more.yaml").write_text("include: mine.yaml\ntask: more\n")
    rows = ask(mine, name="both", files=("both.yaml", "mine.yaml", "more.yaml", "mine.jsonl"))
    assert sorted({row["task"] for row in rows}) == ["mine", "more"]
    items = read_rows(mine / "items.parquet", ITEMS)
    assert [(item["id"], item["category"]) for item in items][1:3] == [("both/mine/1", "mine"), ("both/more/0", "more")]


def test_a_function_of_the_users_own_runs(mine):
    write(mine, CHOICE + "process_docs: !function parts.loud\n", ROWS)
    (mine / "parts.py").write_text("def loud(docs):\n    return docs.map(lambda row: {'q': row['q'].upper()})\n")
    assert ask(mine)[0]["context"] == "ONE?"
    (mine / "parts.py").write_text("def loud(docs):\n    return 1 / 0\n")
    assert "the harness stopped (ZeroDivisionError: division by zero)" in ask(mine, fails=True)


WRONG = {
    "an unknown task": (
        {"files": (), "task": "gsm8"}, {}, "lm-evaluation-harness 0.4.13 has no task 'gsm8'; did you mean gsm8k"
    ),
    "data that are elsewhere": (
        {"files": (), "task": "gsm8k", "metric": ["exact_match.strict-match"]}, {}, "its data are not here, and no job"
    ),
    "a split that is missing": ({}, {"test_split: test": "test_split: validation"}, "no split or column 'validation'"),
    "a metric that is not the task's": ({"metric": ["f1"]}, {}, "mine is not graded by 'f1'; choose from acc"),
    "a filter that is not the task's": ({"metric": ["acc.strict"]}, {}, "names none; choose from acc.none"),
    "less is better": ({}, {"better: true": "better: false"}, "the harness says false of acc in mine"),
    "few-shot where the task has none": ({"few_shot": 2}, {"test_s": "num_fewshot: 0\ntest_s"}, "num_fewshot: 0"),
    "few-shot without examples": ({"few_shot": 9}, {}, "the harness stopped"),
    "whole texts": ({}, {"multiple_choice": "loglikelihood_rolling"}, "loglikelihood_rolling"),
    "code that the model wrote": ({}, {"test_s": "unsafe_code: true\ntest_s"}, "code that the model writes"),
}  # fmt: skip


def test_what_a_metric_of_a_whole_corpus_keeps_of_an_item_is_no_value():
    """Such as BLEU's answer and reference, which may look like numbers; lists of True and False are an item's parts."""
    from arms.data import harness
    from arms.job.files import UserError

    sample = {"doc_id": 0, "filter": "none", "metrics": ["bleu", "inst"], "bleu": ["1", "0"], "inst": [True, False]}
    results = {"samples": {"t": [sample]}}
    assert list(harness.values(results, "t", "inst")) == [("t", 0, 0, 1.0), ("t", 0, 1, 0.0)]
    with pytest.raises(UserError, match="computes this metric from all items together"):
        list(harness.values(results, "t", "bleu"))


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_asked_or_graded_is_said_in_one_line(mine, case):
    settings, edits, complaint = WRONG[case]
    text = CHOICE
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new, 1)
    write(mine, text, ROWS)
    assert complaint in ask(mine, fails=True, **settings)


def test_one_choice_is_no_choice(mine):
    write(mine, CHOICE, [*ROWS, {"q": "Three?", "c": ["a"], "a": 0}])
    assert "item 2 of mine has one choice (' a')" in ask(mine, fails=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("do_sample: true, temperature: 0.7", "samples its answers"),
        ("temperature: 0.7", "samples its answers"),
        ("repetition_penalty: 1.2", "has repetition_penalty, which changes greedy answers"),
    ],
)
def test_answers_that_are_not_greedy_are_refused(tmp_path, arguments, complaint):
    write(tmp_path, WRITTEN.replace('until: ["."]', f'until: ["."], {arguments}'), ROWS)
    assert complaint in ask(tmp_path, fails=True, metric=["exact_match"])


def test_one_of_several_filters_has_to_be_named(tmp_path):
    for name in ("word_problems.yaml", "word_problems.train.jsonl", "word_problems.test.jsonl"):
        (tmp_path / "config" / "tasks").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "config" / "tasks" / name, tmp_path / "config" / "tasks")
    files = ("config/tasks/word_problems.yaml",)
    said = ask(tmp_path, fails=True, files=files, metric=["exact_match"])
    assert "choose from exact_match.flexible-extract, exact_match.strict-match" in said
    assert len(ask(tmp_path, files=files, metric=["exact_match.strict-match"])) == 32
