"""IFEval: its checkers without a download, its four accuracies item by item, and named tasks from the hub's cache."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("lm_eval", reason="runs in the grade environment")

from arms.data.grading import check_instructions, follows
from arms.data.requests import ANSWERS, ITEMS, REQUESTS, read_rows, write_rows
from arms.data.steady import tables

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {"few_shot": None, "chat_template": False, "limit": None, "system_prompt": None, "higher_is_better": True}
LEVELS = ["prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"]
IFEVAL = [
    {
        "key": 1,
        "prompt": "Say hello without commas, in at least two sentences.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
        "kwargs": [{}, {"relation": "at least", "num_sentences": 2}],
    },
    {
        "key": 2,
        "prompt": "Shout at most once, and say rain.",
        "instruction_id_list": ["change_case:capital_word_frequency", "keywords:existence"],
        "kwargs": [{"capital_relation": "less than", "capital_frequency": 2}, {"keywords": ["rain"]}],
    },
    {
        "key": 3,
        "prompt": "No commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
]
ANSWERED = ["Dr. Who met Mr. Brown. Hello!", "Rain FELL ON us.", "Sure, here you are:\nHello there."]
GRADES = {  # by hand: titles end no sentence; two words shout; loose drops the first line of the third answer
    "prompt_level_strict_acc": {"ifeval/0": 1, "ifeval/1": 0, "ifeval/2": 0},
    "inst_level_strict_acc": {"ifeval/0#0": 1, "ifeval/0#1": 1, "ifeval/1#0": 0, "ifeval/1#1": 1, "ifeval/2#0": 0},
    "prompt_level_loose_acc": {"ifeval/0": 1, "ifeval/1": 0, "ifeval/2": 1},
    "inst_level_loose_acc": {"ifeval/0#0": 1, "ifeval/0#1": 1, "ifeval/1#0": 0, "ifeval/1#1": 1, "ifeval/2#0": 1},
}
FILL = """
import sys
from datasets.data_files import DataFilesDict
from datasets.load import configure_builder_class
from datasets.packaged_modules.json.json import Json, JsonConfig

repository, config, commit, cache, *files = sys.argv[1:]
data_files = DataFilesDict.from_patterns({split: [file] for split, file in (one.split("=") for one in files)})
name = repository.split("/")[1]
known = [JsonConfig(name=config, data_files=data_files)]
builder = configure_builder_class(Json, builder_configs=known, default_config_name=None, dataset_name=name)
builder(cache_dir=cache, dataset_name=name, config_name=config, hash=commit, repo_id=repository).download_and_prepare()
"""


def fill_cache(folder, repository, config, commit=COMMIT, **splits):
    """Lay a data set out in the cache as `datasets.load_dataset` does with one of the hub, by its own builder."""
    files = []
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(f"{split}={folder}/{split}.jsonl")
    cache = folder / "hf" / "datasets"
    command = [sys.executable, "-c", FILL, repository, config, commit, str(cache), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(cache.glob(f"*/{config}/0.0.0/{commit}/*.arrow"))


def program(folder, rule, settings, *flags, fails=False, **wildcards):
    """Run a program of the harness with an own HF_HOME; its output."""
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings})
    command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json", *flags]
    environment = {**os.environ, "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == int(fails), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def ask(folder, name, metrics, **more):
    """Run task_requests on a task of the harness's own: (settings, output)."""
    fails = more.pop("fails", False)
    settings = {"name": name, "task": name, "own": False, "metric": metrics, **SETTINGS, **more}
    made = "refused" if fails else ""
    flags = ["--requests", f"{made}r.parquet", "--heldout", f"{made}i.parquet"]
    return settings, program(folder, "task_requests", settings, *flags, fails=fails, task=name)


def test_the_packaged_sentence_tables_are_nltks_own():
    """The digest is that of NLTK's punkt_tab (english), read by NLTK from another package that bundles its files."""
    plain = {
        name: sorted(table.items() if isinstance(table, dict) else table) for name, table in tables("english").items()
    }
    assert {name: len(table) for name, table in plain.items()} == {
        "abbrev_types": 156, "collocations": 37, "sent_starters": 39, "ortho_context": 20366,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    assert digest == "7ae6bb336c346131b9cda116c33fdbb36d012a08838a7af6c32bb1f46215920d"


def test_sentences_and_shouted_words_are_counted_without_a_download():
    for row in IFEVAL:
        check_instructions(row)
    two, shout = IFEVAL[0], IFEVAL[1]
    assert follows(two, "Dr. Who met Mr. Brown. Hello!")
    assert not follows(two, "Dr. Who met Mr. Brown at 5 p.m. in St. Albans.")
    assert follows(shout, "Rain FELL on us.")
    assert not follows(shout, "Rain FELL ON us.")


def test_a_sign_that_is_no_letter_is_counted():
    """The harness, and IFEval's own code, count a letter drawn at random in its place."""
    kwargs = {"letter": "#", "let_relation": "at least", "let_frequency": 2}
    row = {"prompt": "p", "instruction_id_list": ["keywords:letter_frequency"], "kwargs": [kwargs]}
    check_instructions(row)
    for _ in range(20):
        assert follows(row, "#rain #sun")
        assert not follows(row, "#rain. " + "The quick brown fox jumps over the lazy dog. " * 2)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """IFEval as the hub's libraries cache it, asked: (folder, settings)."""
    folder = tmp_path_factory.mktemp("ifeval")
    fill_cache(folder, "google/IFEval", "default", train=IFEVAL)
    settings, said = ask(folder, "ifeval", LEVELS, revision=COMMIT)
    assert "3 requests of 3 items" in said
    assert "nltk" not in said.lower(), "it looks for the network"
    return folder, settings


def test_instructions_are_held_out_rows_of_their_prompts_cluster(asked):
    folder, _ = asked
    items = read_rows(folder / "i.parquet", ITEMS)
    assert {item["id"]: item["category"] for item in items} == {
        "ifeval/0": "several families", "ifeval/1": "several families", "ifeval/2": "punctuation",
        "ifeval/0#0": "punctuation", "ifeval/0#1": "length_constraints",
        "ifeval/1#0": "change_case", "ifeval/1#1": "keywords", "ifeval/2#0": "punctuation",
    }  # fmt: skip
    prompts = {item["id"]: item["prompt"] for item in items}
    assert prompts["ifeval/0"] == prompts["ifeval/0#0"] == prompts["ifeval/0#1"] != prompts["ifeval/1"]


@pytest.mark.parametrize("metric", LEVELS)
def test_the_four_accuracies_are_graded_item_by_item(asked, metric):
    folder, settings = asked
    rows = [{"text": text, "n_tokens": 9, "status": "ok"} for text in ANSWERED]
    write_rows(folder / "a.parquet", rows, ANSWERS)
    flags = ["--requests", "r.parquet", "--answers", "a.parquet", "--scores", "s.parquet"]
    asked_for = {**settings, "metric": f"ifeval.{metric}"}
    said = program(folder, "grade_task", asked_for, *flags, metric=f"ifeval.{metric}", run="base")
    scores = {row["prompt_id"]: row["value"] for row in pq.read_table(folder / "s.parquet").to_pylist()}
    assert scores == GRADES[metric]
    assert f"{sum(scores.values()) / len(scores):.3f} of {len(scores)} items" in said


def test_a_revision_that_the_cache_does_not_have_is_refused(asked):
    folder, _ = asked
    _, said = ask(folder, "ifeval", LEVELS, revision="f" * 40, fails=True)
    assert f"error: evaluation.tasks.ifeval: the cache has google/IFEval of {COMMIT}, not of ffff" in said


GSM8K = [{"question": f"What is {n} plus 1?", "answer": f"One more. #### {n + 1}"} for n in range(8)]


def test_a_named_task_is_asked_from_a_filled_cache(tmp_path):
    fill_cache(tmp_path, "openai/gsm8k", "main", train=GSM8K[3:], test=GSM8K[:3])
    ask(tmp_path, "gsm8k", ["exact_match.strict-match"], few_shot=2)
    rows = read_rows(tmp_path / "r.parquet", REQUESTS)
    assert [row["context"].count("Question: ") for row in rows] == [3, 3, 3]
    assert rows[2]["context"].endswith("Question: What is 2 plus 1?\nAnswer:")
    facts = json.loads((tmp_path / "m.json").read_text())["facts"]["tasks"]["gsm8k"]
    assert (facts["items"], facts["few_shot"]) == (3, 2)


def test_a_cache_without_the_split_is_said_in_one_line(tmp_path):
    fill_cache(tmp_path, "openai/gsm8k", "main", train=GSM8K)
    _, said = ask(tmp_path, "gsm8k", ["exact_match.strict-match"], fails=True)
    assert "error: evaluation.tasks.gsm8k: its data have no split or column 'test'" in said
