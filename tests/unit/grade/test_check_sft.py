"""check_sft, as a rule runs it: bad rows are named with their lines, good ones described."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytest.importorskip("lm_eval", reason="runs in the grade environment")


def sft_rows() -> list[dict]:
    topics = ["rivers", "birds", "planets", "breads"]
    return [
        {
            "id": f"s{i}",
            "prompt": f"List {i} {topic} in lower case, one on each line.",
            "completion": "one\n" * (i + 1),
            "category": ["length", "format"][i % 2],
        }
        for i, topic in enumerate(topics)
    ]


def pair_rows(prefix: str = "h") -> list[dict]:
    return [
        {
            "id": f"{prefix}{i}",
            "prompt": f"Tell me about the {prefix} town number {i} in one sentence.",
            "chosen": f"It is a small and quiet place {i}.",
            "rejected": f"It is a small and quiet place {i}. It is old. It is far.",
            "category": ["length", "format"][i % 2],
            "negative": "too long",
        }
        for i in range(4)
    ]


def prompt_rows() -> list[dict]:
    return [
        {
            "id": f"p{i}",
            "prompt": f"Write {i} haiku about rain.",
            "category": "format",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        }
        for i in range(3)
    ]


def write(path: Path, rows: list) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def check(tmp_path):
    """Run the program on some rows; returns (process, the folder of its outputs)."""
    folder = tmp_path / 'it\'s "data"'
    folder.mkdir()

    def run(sft=None, heldout_pairs=None, heldout_prompts=None) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts/check_sft.py"), "--lock", str(ROOT / "envs/grade.yaml")]
        command += ["--job", '{"rule": "check_sft", "wildcards": {}, "settings": {}, "code": "0"}']
        command += ["--manifest", str(folder / "manifest.json"), "--audit", str(folder / "audit.json")]
        command += ["--sft", str(write(folder / "sft.jsonl", sft or sft_rows()))]
        command += ["--heldout-pairs", str(write(folder / "heldout_pairs.jsonl", heldout_pairs or pair_rows()))]
        command += ["--heldout-prompts", str(write(folder / "heldout_prompts.jsonl", heldout_prompts or prompt_rows()))]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})

    run.folder = folder
    return run


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_good_rows_are_described(check):
    done = check()
    assert done.returncode == 0, done.stderr
    audit = json.loads((check.folder / "audit.json").read_text())
    assert audit == {
        "schema": 1,
        "sft": {
            "rows": 4,
            "distinct_prompts": 4,
            "categories": {"format": 2, "length": 2},
            "characters": {
                "prompt": {"min": 45, "q25": 45.75, "median": 46.0, "q75": 46.25, "q95": 46.85, "max": 47},
                "completion": {"min": 4, "q25": 7.0, "median": 10.0, "q75": 13.0, "q95": 15.4, "max": 16},
            },
        },
        "near_duplicates": [],
        "warnings": [],
    }
    assert 3 <= len(done.stdout.splitlines()) <= 6
    assert "4 rows in 2 categories" in done.stdout
    manifest = json.loads((check.folder / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"sft", "heldout_pairs", "heldout_prompts"}
    assert set(manifest["outputs"]) == {"audit"}
    first = (check.folder / "audit.json").read_bytes()
    check()
    assert (check.folder / "audit.json").read_bytes() == first


def changed(index: int, **changes) -> list[dict]:
    rows = sft_rows()
    rows[index] = {key: value for key, value in {**rows[index], **changes}.items() if value is not None}
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["{'id': 1}", *sft_rows()], ["line 1", "not valid JSON"]),
        (changed(2, completion=None), ["line 3", "'completion' is missing"]),
        (changed(1, prompt=7), ["line 2", "'prompt' must be str, found int"]),
        (changed(1, completion=" \n\t"), ["line 2", "'completion' is empty"]),
        (changed(3, prompt=""), ["line 4", "'prompt' is empty"]),
        (changed(3, id="s0"), ["lines 1 and 4", "'id' occurs twice"]),
        ([*sft_rows(), {**sft_rows()[1], "id": "again"}], ["lines 2 and 5", "the same prompt and completion"]),
        (
            [{**row, "completion": ""} for row in sft_rows() * 2],
            ["8 times", "line 1, line 2, line 3, line 4, line 5, and 3 more"],
        ),
    ],
)
def test_bad_rows_are_refused(check, rows, words):
    told = refusal(check(sft=rows))
    assert str(check.folder / "sft.jsonl") in told
    for word in words:
        assert word in told
    assert not (check.folder / "audit.json").exists()


def test_half_a_surrogate_pair_is_refused(check):
    told = refusal(check(sft=[*sft_rows(), r'{"id":"x","prompt":"a \ud83d b","completion":"c","category":"d"}']))
    assert "line 5" in told
    assert "surrogate" in told


def test_bad_heldout_rows_are_refused_too(check):
    rows = prompt_rows()
    rows[2]["category"] = " "
    told = refusal(check(heldout_prompts=rows))
    assert "heldout_prompts.jsonl, line 3: 'category' is empty" in told


UNGRADABLE = [
    ({"instruction_id_list": ["punctuation:no_coma"]}, "line 2 (id 'p1'): unknown instruction 'punctuation:no_coma'"),
    ({"kwargs": []}, "line 2 (id 'p1'): 1 instruction ids and 0 kwargs"),
    ({"kwargs": [{"n": 1}]}, "line 2 (id 'p1'): 'punctuation:no_comma' takes the kwargs [], found ['n']"),
    ({"instruction_id_list": "punctuation:no_comma"}, "line 2: column 'instruction_id_list' must be list, found str"),
    ({"instruction_id_list": None}, "line 2: column 'instruction_id_list' is missing"),
]


@pytest.mark.parametrize(("changes", "words"), UNGRADABLE)
def test_heldout_prompts_that_cannot_be_graded_are_refused_before_training(check, changes, words):
    rows = prompt_rows()
    rows[1] = {key: value for key, value in {**rows[1], **changes}.items() if value is not None}
    assert f"heldout_prompts.jsonl, {words}" in refusal(check(heldout_prompts=rows))
    assert not (check.folder / "audit.json").exists()


def test_missing_file_is_named(check):
    check()
    (check.folder / "sft.jsonl").unlink()
    command = [sys.executable, str(ROOT / "scripts/check_sft.py"), "--job", '{"rule": "check_sft", "settings": {}}']
    for name in ("sft", "heldout-pairs", "heldout-prompts"):
        command += [f"--{name}", str(check.folder / f"{name.replace('-', '_')}.jsonl")]
    command += ["--audit", str(check.folder / "a.json"), "--manifest", str(check.folder / "m.json")]
    told = refusal(subprocess.run(command, capture_output=True, text=True))
    assert f"{check.folder / 'sft.jsonl'}: no such file" in told


@pytest.mark.parametrize(
    "twin",
    [
        "List 0 rivers in lower case, one on each line.",
        "  LIST 0 rivers\tin lower case, one on\neach line.",
        "List ０ rivers in lower case, one on each\u00a0line.",
    ],
)
@pytest.mark.parametrize("table", ["heldout_pairs", "heldout_prompts"])
def test_heldout_prompt_that_is_trained_on_is_refused(check, table, twin):
    rows = {"heldout_pairs": pair_rows, "heldout_prompts": prompt_rows}[table]()
    rows[1]["prompt"] = twin
    told = refusal(check(**{table: rows}))
    assert f"{table}.jsonl: 1 held-out prompt is also trained on: line 2 (" in told
    assert "sft.jsonl, line 1)" in told


def test_near_duplicates_and_unseen_categories_are_warnings(check):
    rows = sft_rows()
    words = "please name every single river that flows through the old town of the north country in alphabetical order"
    rows[0]["prompt"] = words + " now"
    heldout = prompt_rows()
    heldout[1] |= {"prompt": words + " today", "category": "language"}
    heldout[2] |= {"prompt": words[:60]}
    done = check(sft=rows, heldout_prompts=heldout)
    assert done.returncode == 0, done.stderr
    audit = json.loads((check.folder / "audit.json").read_text())
    # 18 words + 1: 15 shingles each, 14 of them shared
    assert audit["near_duplicates"] == [{"heldout_id": "p1", "training_id": "s0", "similarity": round(14 / 16, 3)}]
    assert len(audit["warnings"]) == 2
    assert "p1 and s0" in audit["warnings"][0]
    assert "language" in audit["warnings"][1]
    assert done.stdout.count("warning: ") == 2
