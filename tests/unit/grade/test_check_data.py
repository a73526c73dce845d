"""check_data and list_heldout, as rules run them: bad rows are named, good ones described and written."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytest.importorskip("lm_eval", reason="runs in the grade environment")

import check_data
import list_heldout
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arms.data.leakage import NEAR, NearDuplicates, Prompt, is_near, normalise, shingles, word_shingles
from arms.data.near import Signatures, candidates, near_rows
from arms.data.suspects import KINDS
from arms.job.files import UserError

VOCABULARY = [f"{start}{end}" for start in "abcdefghij" for end in ("an", "or", "ist", "um", "et", "ul", "ing", "os")]
NAMES = ("sft", "pairs", "heldout_pairs", "heldout_prompts")


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
            "chosen": f"It is a small and quiet place {i}." + " Really." * (i % 2) * 4,
            "rejected": f"It is a small and quiet place {i}; it is old.",
            "category": ["length", "format"][i % 2],
            "negative": ["too long", "two sentences"][i % 2],
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


GOOD = {"sft": sft_rows, "pairs": lambda: pair_rows("t"), "heldout_pairs": pair_rows, "heldout_prompts": prompt_rows}


class Study:
    """A folder with the four data files; `check` runs the check that is about one of them.

    In this process, unless `anew`: each start would import the graders, which takes a second.
    """

    anew = False

    def __init__(self, folder: Path, monkeypatch, capsys) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.sources: dict[str, dict] = {}  # where a data set is more than a file

    def run(self, rule: str, wildcards: dict, *flags: object) -> subprocess.CompletedProcess:
        job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": {}, "code": "0"})
        command = [str(ROOT / f"scripts/{rule}.py"), "--lock", str(ROOT / "envs/grade.yaml")]
        command += ["--job", job, "--manifest", "manifest.json", *map(str, flags)]
        if self.anew:
            environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONHASHSEED": "random"}
            command = [sys.executable, *command]
            return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder)
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", command)
        code, told = 0, ""
        try:
            {"check_data": check_data, "list_heldout": list_heldout}[rule].main()
        except UserError as error:
            code, told = 1, f"error: {error}\n"
        return subprocess.CompletedProcess(command, code, self.capsys.readouterr().out, told)

    def check(self, data: str, least: str = "{}", **rows: list) -> subprocess.CompletedProcess:
        for name in NAMES:
            write(self.folder / f"{name}.jsonl", rows.get(name) or GOOD[name]())
        sources, trained = {name: f"{name}.jsonl" for name in NAMES}, []
        if data.startswith("heldout"):  # after the checks of what is trained on, which do not know these held-out rows
            for name in ("sft", "pairs"):
                alone = ["--sources", json.dumps({name: f"{name}.jsonl"}), "--data", sources[name]]
                done = self.run("check_data", {"data": name}, *alone, "--audit", "a.json", "--rows", f"{name}.parquet")
                assert done.returncode == 0, done.stderr
            trained = ["--trained", "sft.parquet", "pairs.parquet"]
        flags = ["--data", sources[data], "--beside", *(sources[name] for name in NAMES if name != data), *trained]
        flags += ["--sources", json.dumps({**sources, **self.sources}), "--least", least, "--audit", "audit.json"]
        return self.run("check_data", {"data": data}, *flags, "--rows", f"{data}.parquet")

    def audit(self) -> dict:
        return json.loads((self.folder / "audit.json").read_text())


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'it\'s "data"'
    folder.mkdir()
    return Study(folder, monkeypatch, capsys)


def write(path: Path, rows: list) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def changed(name: str, index: int, **changes) -> list[dict]:
    """The good rows of a data set, one of them changed; None takes a column away."""
    rows = GOOD[name]()
    rows[index] = {key: value for key, value in {**rows[index], **changes}.items() if value is not None}
    return rows


def with_row(name: str, **changes) -> list[dict]:
    """The good rows and, as line 5, the first row changed (under another id)."""
    rows = GOOD[name]()
    return [*rows, {**rows[0], "id": "new", **changes}]


def test_good_rows_are_described_and_written(study):
    done = study.check("sft")
    assert done.returncode == 0, done.stderr
    audit = study.audit()
    first = [(entry["id"], entry["place"], entry["why"]) for entry in audit.pop("look_first") if not entry["odd"]]
    assert first == [(f"s{n}", f"sft.jsonl, line {n + 1}", ["one of the longest"]) for n in (3, 2, 1, 0)]
    lengths = audit.pop("histograms")["completion"]
    assert (lengths["min"], lengths["max"], sum(lengths["counts"])) == (4, 16, 4)
    assert audit == {
        "schema": 3,
        "rows": 4,
        "distinct_prompts": 4,
        "categories": {"format": 2, "length": 2},
        "characters": {
            "prompt": {"min": 45, "q25": 45.75, "median": 46.0, "q75": 46.25, "q95": 46.85, "max": 47},
            "completion": {"min": 4, "q25": 7.0, "median": 10.0, "q75": 13.0, "q95": 15.4, "max": 16},
        },
        "near_duplicates": [],
        "warnings": [],
        "suspicions": [],
        "scripts": {"LATIN": 4},
    }
    assert 3 <= len(done.stdout.splitlines()) <= 6
    assert "4 rows in 2 categories" in done.stdout
    manifest = json.loads((study.folder / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"sft.jsonl"}
    assert set(manifest["outputs"]) == {"audit", "rows"}
    written = pq.read_table(study.folder / "sft.parquet").to_pylist()
    places = [{"_turns": None, "cluster_id": None, "_row": n, "_place": f"sft.jsonl, line {n}"} for n in range(1, 5)]
    assert written == [{**row, **place} for row, place in zip(sft_rows(), places, strict=True)]
    first = [(study.folder / name).read_bytes() for name in ("audit.json", "sft.parquet")]
    study.anew = True
    assert study.check("sft").returncode == 0
    assert [(study.folder / name).read_bytes() for name in ("audit.json", "sft.parquet")] == first


def test_good_pairs_are_described(study):
    done = study.check("pairs")
    assert done.returncode == 0, done.stderr
    audit = study.audit()
    assert audit["rows"] == 4
    assert audit["negatives"] == {"too long": 2, "two sentences": 2}
    assert audit["longer_wins"] == 0.5
    assert audit["share_first_word_differs"] == 0.0
    assert set(audit["characters"]) == {"prompt", "chosen", "rejected"}
    assert audit["characters"]["rejected"]["median"] == 43
    assert audit["warnings"] == []


def test_what_a_row_may_leave_out(study):
    """Ids are made of the texts, so they stay when rows move; whole numbers are ids, too."""
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pair_rows("t")]
    rows[3]["id"] = 17
    assert study.check("pairs", pairs=rows).returncode == 0
    first = pq.read_table(study.folder / "pairs.parquet").to_pylist()
    assert [row["id"] for row in first][3] == "17"
    assert {row["category"] for row in first} == {"all"}
    assert {row["negative"] for row in first} == {None}
    assert study.audit()["negatives"] == {}
    assert study.check("pairs", pairs=rows[::-1]).returncode == 0
    second = pq.read_table(study.folder / "pairs.parquet").to_pylist()
    assert [row["id"] for row in second] == [row["id"] for row in first][::-1]


BAD = [
    ("sft", ["{'id': 1}", *sft_rows()], ["line 1", "not valid JSON"]),
    ("sft", [*sft_rows(), '{"id": "a", "id": "b"}'], ["line 5", "the key 'id' occurs twice"]),
    ("sft", [*sft_rows(), "[1]"], ["line 5", "expected a JSON object, found list"]),
    ("sft", changed("sft", 2, completion=None), ["line 3", "'completion' is missing"]),
    ("sft", changed("sft", 1, prompt=7), ["line 2", "'prompt' must be str, found int"]),
    ("sft", changed("sft", 1, id=True), ["line 2", "'id' must be a string, found bool"]),
    ("sft", changed("sft", 1, completion=" \n\t"), ["line 2", "'completion' is empty"]),
    ("sft", changed("sft", 1, completion="\u200b\u200d"), ["line 2", "'completion' has only characters that nobody"]),
    ("sft", changed("sft", 1, completion="a\0b"), ["line 2", "'completion' holds the character NUL"]),
    ("sft", changed("sft", 3, prompt=""), ["line 4", "'prompt' is empty"]),
    ("sft", changed("sft", 3, id="s0"), ["lines 1 and 4", "'id' occurs twice"]),
    (
        "sft",
        [*sft_rows(), r'{"id":"x","prompt":"a \ud83d b","completion":"c","category":"d"}'],
        ["line 5", "surrogate"],
    ),
    ("sft", [*sft_rows(), {**sft_rows()[1], "id": "again"}], ["lines 2 and 5", "the same prompt and completion"]),
    ("sft", [{**row, "completion": ""} for row in sft_rows() * 2], ["8 times: line 1, line 2", "line 5, and 3 more"]),
    ("heldout_prompts", changed("heldout_prompts", 2, category=" "), ["line 3: 'category' is empty"]),
    (
        "heldout_prompts",
        changed("heldout_prompts", 1, cluster_id=[4]),
        ["line 2: column 'cluster_id' must be a string"],
    ),
    ("heldout_prompts", changed("heldout_prompts", 2, id="h1"), ["line 3: 'id' is also used in heldout_pairs.jsonl"]),
]


@pytest.mark.parametrize(("name", "rows", "words"), BAD)
def test_bad_rows_are_refused(study, name, rows, words):
    """Held-out rows by the checks of training data too: whichever job comes first stops the study before training."""
    told = refusal(study.check("sft", **{name: rows}))
    assert f"{name}.jsonl" in told
    for word in words:
        assert word in told
    assert not (study.folder / "audit.json").exists()
    assert not (study.folder / "sft.parquet").exists()


def test_a_tenth_of_the_pairs_without_a_difference_is_one_message(study):
    rows = [
        {
            "prompt": f"Tell me about place {n}.",
            "chosen": f"It is {n}.",
            "rejected": f"It is {n}." if n % 10 == 0 else "No.",
        }
        for n in range(200)
    ]
    assert study.check("pairs", pairs=rows).stderr == (
        "error: pairs.jsonl, 20 times: line 1, line 11, line 21, line 31, line 41, and 15 more: "
        "'chosen' and 'rejected' are the same; remove the row or give it another answer\n"
    )


def test_all_kinds_of_faults_are_named_at_once(study):
    rows = changed("sft", 0, completion="") + [{**row, "id": f"x{row['id']}", "prompt": 3} for row in sft_rows()]
    done = study.check("sft", sft=rows)
    assert done.stderr.splitlines() == [
        "error: sft.jsonl, line 1: 'completion' is empty or only white space; fill it in or remove the row",
        "sft.jsonl, 4 times: line 5, line 6, line 7, line 8: column 'prompt' must be str, found int '3'; "
        "correct it or remove the row",
    ]


PAIRS = [
    ({"chosen": ""}, "line 5: 'chosen' is empty"),
    ({"rejected": "\n"}, "line 5: 'rejected' is empty"),
    ({"negative": 3}, "line 5: column 'negative' must be str"),
    ({"chosen": "same", "rejected": " same\n"}, "line 5: 'chosen' and 'rejected' are the same"),
    ({}, "lines 1 and 5: the same prompt, chosen and rejected"),
    ({"chosen": pair_rows()[0]["rejected"], "rejected": pair_rows()[0]["chosen"]}, "lines 1 and 5: swapped"),
    ({"chosen": "A third answer.", "rejected": pair_rows()[0]["chosen"]}, "lines 1 and 5: an answer is chosen"),
    ({"chosen": pair_rows()[0]["rejected"], "rejected": "A bad one."}, "lines 5 and 1: an answer is chosen"),
    ({"id": "{prefix}0", "chosen": "A third answer."}, "lines 1 and 5: 'id' occurs twice"),
]


@pytest.mark.parametrize("name", ["pairs", "heldout_pairs"])
@pytest.mark.parametrize(("changes", "words"), PAIRS)
def test_bad_pairs_are_refused(study, name, changes, words):
    prefix = {"pairs": "t", "heldout_pairs": "h"}[name]
    changes = {key: value.replace("{prefix}", prefix) if key == "id" else value for key, value in changes.items()}
    told = refusal(study.check(name, **{name: with_row(name, **changes)}))
    assert f"{name}.jsonl, {words}" in told
    assert not (study.folder / "audit.json").exists()


def test_rows_without_ids_that_are_there_twice_are_told_once(study):
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in sft_rows()]
    told = refusal(study.check("sft", sft=[*rows, rows[2]]))
    assert told == (
        "error: sft.jsonl, lines 3 and 5: the same prompt and completion; "
        "remove one of the two rows: a row that is trained on twice weighs twice"
    )
    rows = [{key: value for key, value in row.items() if key != "id"} for row in prompt_rows()]
    told = refusal(study.check("sft", heldout_prompts=[*rows, rows[0]]))
    assert (
        "heldout_prompts.jsonl, lines 1 and 4: 'id' occurs twice (where there is none, it is made of the texts)" in told
    )


def test_two_answers_to_one_prompt_are_fine(study):
    rows = with_row("pairs", chosen="Another good one.", rejected="Another bad one.")
    assert study.check("pairs", pairs=rows).returncode == 0


def test_fewer_rows_than_a_batch_are_refused(study):
    told = refusal(study.check("pairs", least='{"sft": 4, "pairs": 16}'))
    assert "pairs.jsonl: 4 rows, and a batch takes 16; get more rows or lower dpo.batch_size" in told


UNGRADABLE = [
    ({"instruction_id_list": ["punctuation:no_coma"]}, "line 2: unknown instruction 'punctuation:no_coma'"),
    ({"kwargs": []}, "line 2: 1 instruction ids and 0 kwargs"),
    ({"kwargs": [{"n": 1}]}, "line 2: 'punctuation:no_comma' takes the kwargs [], found ['n']"),
    ({"instruction_id_list": "punctuation:no_comma"}, "line 2: column 'instruction_id_list' must be list, found str"),
    ({"instruction_id_list": None}, "line 2: column 'instruction_id_list' is missing"),
]


@pytest.mark.parametrize(("changes", "words"), UNGRADABLE)
def test_heldout_prompts_that_cannot_be_graded_are_refused_before_training(study, changes, words):
    rows = changed("heldout_prompts", 1, **changes)
    assert f"heldout_prompts.jsonl, {words}" in refusal(study.check("pairs", heldout_prompts=rows))


def test_missing_file_is_named(study):
    study.check("sft")
    study.anew = True
    sources = {name: f"{name}.jsonl" for name in NAMES}
    (study.folder / "heldout_pairs.jsonl").unlink()
    flags = ["--sources", json.dumps(sources), "--rows", "r.parquet", "--audit", "a.json"]
    assert "heldout_pairs.jsonl: no such file" in refusal(study.run("check_data", {"data": "sft"}, *flags))


@pytest.mark.parametrize(
    "twin",
    [
        "List 0 rivers in lower case, one on each line.",
        "  LIST 0 rivers\tin lower case, one on\neach line.",
        "List ０ rivers in lower case, one on each\u00a0line.",
    ],
)
@pytest.mark.parametrize("name", ["heldout_pairs", "heldout_prompts"])
def test_a_heldout_prompt_that_is_trained_on_is_refused(study, name, twin):
    told = refusal(study.check("sft", **{name: changed(name, 1, prompt=twin)}))
    assert f"{name}.jsonl: 1 held-out prompt is also trained on: line 2 (sft.jsonl, line 1)" in told


def test_heldout_prompts_that_are_trained_on_are_counted_and_located(study):
    rows, trained = prompt_rows(), pair_rows("t")
    rows[0]["prompt"], rows[2]["prompt"] = trained[3]["prompt"].upper(), f" {trained[1]['prompt']} "
    told = refusal(study.check("heldout_pairs", heldout_prompts=rows))
    assert "heldout_prompts.jsonl: 2 held-out prompts are also trained on" in told
    assert "line 1 (pairs.jsonl, line 4), line 3 (pairs.jsonl, line 2)" in told


def test_heldout_rows_are_looked_for_in_the_checked_tables_of_what_is_trained_on(study):
    """A changed held-out file is checked without a job about training data: its own finds what is trained on."""
    twin = pair_rows("t")[2]["prompt"].upper()
    told = refusal(study.check("heldout_prompts", heldout_prompts=changed("heldout_prompts", 1, prompt=twin)))
    assert told == (
        "error: heldout_prompts.jsonl: 1 held-out prompt is also trained on: line 2 (pairs.jsonl, line 3); "
        "what was learnt by heart measures nothing, so remove it from one of the two files"
    )


def test_near_duplicates_and_unseen_categories_are_warnings(study):
    words = "please name every single river that flows through the old town of the north country in alphabetical order"
    rows = changed("sft", 0, prompt=words + " now")
    heldout = changed("heldout_prompts", 1, prompt=words + " today", category="language")
    heldout[2] |= {"prompt": words[:60]}
    done = study.check("sft", sft=rows, heldout_prompts=heldout)
    assert done.returncode == 0, done.stderr
    audit = study.audit()
    # 18 words + 1: 15 shingles each, 14 of them shared
    match = {"heldout_id": "p1", "training_id": "s0", "similarity": round(14 / 16, 3)}
    assert audit["near_duplicates"] == [match]
    assert len(audit["warnings"]) == 2
    assert "p1 and s0" in audit["warnings"][0]
    assert "language" in audit["warnings"][1]
    assert done.stdout.count("warning: ") == 2
    for name, found in (("pairs", []), ("heldout_pairs", []), ("heldout_prompts", [match])):
        assert study.check(name, sft=rows, heldout_prompts=heldout).returncode == 0
        assert study.audit()["near_duplicates"] == found


def test_near_duplicates_are_those_of_a_search_through_all_pairs():
    """Prompts of few words that share beginnings, against the definition: every one is found, and nothing else."""
    draw = random.Random(0)
    beginnings = ["solve the following problem step by step", "you are a helpful assistant who", "say"]

    def prompt() -> str:
        return f"{draw.choice(beginnings)} " + " ".join(draw.choices("abcdefg", k=draw.randrange(1, 60)))

    training = [prompt() for _ in range(1500)]
    heldout = [prompt() for _ in range(120)]
    for i in range(0, 120, 2):  # a training prompt with some words changed
        words = draw.choice(training).split()
        for _ in range(draw.randrange(3)):
            words[draw.randrange(len(words))] = "x"
        heldout[i] = " ".join(words) + " y" * draw.randrange(2)

    def grams(text: str) -> set:
        words = text.split()
        return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}

    expected = {}
    for i, text in enumerate(heldout):
        for j, other in enumerate(training):
            both = grams(text) | grams(other)
            similarity = len(grams(text) & grams(other)) / len(both)
            if similarity >= NEAR:
                expected[f"h{i}"] = (f"t{j}", round(similarity, 3))
                break
    index = NearDuplicates((f"h{i}", normalise(text)) for i, text in enumerate(heldout))
    for j, text in enumerate(training):
        index.compare({"id": f"t{j}"}, Prompt(text))
    found = {entry["heldout_id"]: (entry["training_id"], entry["similarity"]) for entry in index.matches()}
    assert found == expected
    assert len(expected) > 15


def test_near_duplicates_inside_a_data_set_are_those_of_a_search_through_all_pairs():
    """What is found is right; of what there is, at most a twentieth is missed (0.8 is the least alike that counts)."""
    draw = random.Random(5)
    begun = "you are a helpful assistant who answers every question that people ask"
    prompts = [f"{begun} " + " ".join(draw.choices(VOCABULARY, k=draw.randrange(5, 50))) for _ in range(1200)]
    for i in range(100, 1200, 5):
        words = prompts[draw.randrange(i)].split()
        words[draw.choice((-1, -2, 0))] = "changed"
        prompts[i] = " ".join(words)
    prompts[7] = prompts[3]  # equal prompts are no near-duplicates
    sets = [word_shingles(prompt) for prompt in prompts]
    expected = {
        i
        for i, own in enumerate(sets)
        if prompts[i] not in prompts[:i] and any(is_near(own, other) for other in sets[:i] if other != own)
    }
    signatures = Signatures()
    for prompt in prompts:
        signatures.add(shingles(prompt))
    digests = np.array([hashlib.sha256(prompt.encode()).digest()[:16] for prompt in prompts], dtype="S16")
    pairs = candidates(signatures.keys(), digests)
    found = near_rows(pairs, lambda rows: {row: prompts[row] for row in rows.tolist()})
    assert all(is_near(sets[row], sets[other]) and other < row for row, other in found.items())
    assert len(expected) > 150
    assert found.keys() <= expected
    assert len(found) >= 0.95 * len(expected)


def test_give_away_pairs_are_warnings(study):
    rows = [{**row, "chosen": "Yes, " + "very " * 30 + str(i)} for i, row in enumerate(pair_rows("t"))]
    done = study.check("pairs", pairs=rows)
    assert done.returncode == 0, done.stderr
    warnings = study.audit()["warnings"]
    assert len(warnings) == 2
    assert "the longer answer is the chosen one in 100% of the pairs" in warnings[0]
    assert "100% of the pairs differ in the first word" in warnings[1]


def test_heldout_prompts_are_listed_by_the_contract(study):
    heldout, prompts = pair_rows("h"), prompt_rows()
    heldout[1]["prompt"] = heldout[0]["prompt"]
    prompts[0]["prompt"] = heldout[0]["prompt"].upper()
    prompts[1]["cluster_id"] = "family"
    rows = {"heldout_pairs": heldout, "heldout_prompts": prompts}

    def listed(**rows):
        for name in ("heldout_pairs", "heldout_prompts"):
            assert study.check(name, **rows).returncode == 0
        flags = ["--heldout", "heldout_pairs.parquet", "heldout_prompts.parquet", "--prompts", "prompts.parquet"]
        done = study.run("list_heldout", {}, *flags, "--audit", "audit.json")
        assert done.returncode == 0, done.stderr
        return (study.folder / "prompts.parquet").read_bytes()

    first = listed(**rows)
    table = pq.read_table(study.folder / "prompts.parquet")
    names = ["prompt_id", "prompt_sha256", "category", "cluster_id", "split"]
    assert table.schema == pa.schema([pa.field(name, pa.string(), nullable=False) for name in names])
    entries = table.to_pylist()
    assert [row["prompt_id"] for row in entries] == ["h0", "h1", "h2", "h3", "p0", "p1", "p2"]
    assert {row["split"] for row in entries} == {"heldout"}
    by_id = {row["prompt_id"]: row for row in entries}
    assert by_id["h0"]["prompt_sha256"] == hashlib.sha256(heldout[0]["prompt"].encode()).hexdigest()
    assert by_id["h1"]["category"] == "format"
    clusters = [row["cluster_id"] for row in entries]
    assert clusters[0] == clusters[1] == clusters[4]
    assert clusters[0] == hashlib.sha256(heldout[0]["prompt"].lower().encode()).hexdigest()[:16]
    assert by_id["p1"]["cluster_id"] == "family"
    assert len(set(clusters)) == 5 == study.audit()["clusters"]
    assert study.audit()["rows"] == 7
    assert listed(heldout_pairs=heldout[::-1], heldout_prompts=prompts) == first


def test_what_is_left_out_is_said(study):
    study.sources = {"pairs": {"path": "pairs.jsonl", "min_margin": 2}}
    rows = [row | {"score_chosen": n, "score_rejected": 0} for n, row in enumerate(pair_rows("t"))]
    done = study.check("pairs", pairs=rows)
    assert done.returncode == 0, done.stderr
    told = "pairs.jsonl: 2 pairs are left out, whose scores differ by less than 2"
    assert study.audit()["warnings"] == [told]
    assert f"warning: {told}" in done.stdout
    assert study.audit()["rows"] == 2


def test_long_rows_are_left_out_before_anything_else(study):
    study.sources = {"pairs": {"path": "pairs.jsonl", "max_characters": 1000}}
    rows = pair_rows("t")
    rows[1]["chosen"] += "x" * 1000
    done = study.check("pairs", pairs=rows)
    assert done.returncode == 0, done.stderr
    told = "pairs.jsonl: 1 rows are left out, whose texts have more than 1000 characters"
    assert study.audit()["warnings"] == [told]
    assert study.audit()["rows"] == len(rows) - 1


def many_pairs() -> list[dict]:
    """10 000 good pairs."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    rows = [
        {"id": f"t{n}", "prompt": f"Tell me of {text(14)}.", "category": "abc"[n % 3], "negative": "n"}
        for n in range(10_000)
    ]
    for row in rows:
        shared = text(3)
        row |= {"chosen": f"{shared} {text(draw.randrange(5, 15))}.", "rejected": f"{shared} {text(10)}."}
    return rows


# name of the fault: what is done to a row (and the one before it), words of the message
OF_ONE_ROW = {
    "empty prompt": (lambda row, _: row | {"prompt": ""}, "'prompt' is empty"),
    "empty chosen": (lambda row, _: row | {"chosen": " "}, "'chosen' is empty"),
    "empty rejected": (lambda row, _: row | {"rejected": "\n"}, "'rejected' is empty"),
    "empty category": (lambda row, _: row | {"category": ""}, "'category' is empty"),
    "null chosen": (lambda row, _: row | {"chosen": None}, "column 'chosen' is empty (null)"),
    "no rejected": (lambda row, _: {key: row[key] for key in row if key != "rejected"}, "column 'rejected' is missing"),
    "a number": (lambda row, _: row | {"prompt": 3}, "column 'prompt' must be str, found int '3'"),
    "a list": (lambda row, _: row | {"chosen": ["a"]}, "column 'chosen' must be str, found list"),
    "id of a list": (lambda row, _: row | {"id": ["a"]}, "column 'id' must be a string"),
    "nothing to see": (lambda row, _: row | {"rejected": "\u200b"}, "'rejected' has only characters that nobody sees"),
    "NUL": (lambda row, _: row | {"chosen": "a\0b"}, "'chosen' holds the character NUL"),
    "no difference": (lambda row, _: row | {"rejected": f" {row['chosen']}"}, "'chosen' and 'rejected' are the same"),
}
OF_TWO_ROWS = {
    "twice": (lambda row, before: before | {"id": row["id"]}, "the same prompt, chosen and rejected"),
    "swapped": (
        lambda row, before: before | {"id": row["id"], "chosen": before["rejected"], "rejected": before["chosen"]},
        "swapped",
    ),
    "contradictory": (
        lambda row, before: before | {"id": row["id"], "chosen": "Another.", "rejected": before["chosen"]},
        "an answer is chosen in the one row and rejected in the other",
    ),
    "id twice": (lambda row, before: row | {"id": before["id"]}, "'id' occurs twice"),
}


@pytest.mark.parametrize("faults", [OF_ONE_ROW, OF_TWO_ROWS], ids=["of one row", "of two rows"])
def test_planted_faults_are_all_found_with_their_lines(study, faults):
    rows = many_pairs()
    places = iter(random.Random(2).sample(range(1, 5000), 3 * len(faults)))
    planted = {name: sorted(2 * next(places) for _ in range(3)) for name in faults}  # even: no two side by side
    for name, (spoil, _) in faults.items():
        for index in planted[name]:
            rows[index] = spoil(rows[index], rows[index - 1])
    done = study.check("pairs", pairs=rows)
    assert done.returncode == 1
    told = done.stderr.removeprefix("error: ").splitlines()
    assert len(told) == len(faults)
    for name, (_, words) in faults.items():
        (line,) = (line for line in told if f": {words}" in line)
        lines = [index + 1 for index in planted[name]]
        shown = [f"line {n}" for n in lines] if faults is OF_ONE_ROW else [f"lines {n - 1} and {n}" for n in lines]
        assert f"pairs.jsonl, 3 times: {', '.join(shown)}:" in line


def test_a_clean_set_gives_no_warning(study):
    assert study.check("pairs", pairs=many_pairs(), heldout_pairs=changed("heldout_pairs", 0)).returncode == 0
    audit = study.audit()
    assert [told for told in audit["warnings"] if "categories that are not in" not in told] == []
    assert audit["near_duplicates"] == audit["suspicions"] == []
    assert len(audit["look_first"]) == 20


def ended(text: str, end: str) -> str:
    return text.removesuffix(".") + end


# kind of suspicion: what is done to a row, seen beside the one before it
SUSPECT = {
    "refused": lambda row, _: row | {"chosen": "I'm sorry, but I cannot help with that request."},
    "placeholder": lambda row, _: row | {"rejected": "N/A"},
    "alike": lambda row, _: row | {"rejected": row["chosen"].upper().replace(" ", "  ", 1)},
    "beginning": lambda row, _: row | {"rejected": ended(row["chosen"], ", and no more.").replace(",", ". Then,")},
    "mark": lambda row, _: row | {"chosen": ended(row["chosen"], ". <|im_end|>.")},
    "replacement": lambda row, _: row | {"prompt": row["prompt"] + " caf\ufffd"},
    "mojibake": lambda row, _: row | {"rejected": "Itâ€™s so. " + row["rejected"]},
    "control": lambda row, _: row | {"chosen": row["chosen"].replace(" ", "\x08", 1)},
    "unseen": lambda row, _: row | {"chosen": row["chosen"].replace(" ", " \u200b", 1)},
    "private": lambda row, _: row | {"chosen": row["chosen"].replace(" ", " \ue123", 1)},
    "open": lambda row, _: row | {"rejected": row["rejected"] + "\n```python\nprint(1)."},
    "unended": lambda row, _: row | {"chosen": ended(row["chosen"], " and then the")},
    "repeats": lambda row, _: row | {"chosen": row["chosen"] + " Again and again." * 30},
    "echo": lambda row, _: row | {"chosen": f"{row['prompt']} {row['chosen']}"},
    "script": lambda row, _: row | {"chosen": "Это ответ на русском языке, а вопрос задан латиницей."},
    "html": lambda row, _: row | {"rejected": ended(row["rejected"], " &amp; so on.")},
    "gap": lambda row, _: row | {"chosen": "Yes.", "rejected": row["rejected"] * 4},
    "long": lambda row, _: row | {"rejected": " ".join(f"word{n}" for n in range(900)) + "."},
    "near": lambda row, before: row | {"prompt": before["prompt"].replace("Tell", "Say", 1)},
}


def test_planted_suspects_are_all_found_with_their_ids(study):
    """Three of each kind among 10 000 pairs; the counts are exact but for rows that are odd in two ways."""
    rows = many_pairs()
    places = iter(random.Random(3).sample(range(1, 5000), 3 * len(SUSPECT)))
    planted = {kind: sorted(2 * next(places) for _ in range(3)) for kind in SUSPECT}
    for kind, spoil in SUSPECT.items():
        for index in planted[kind]:
            rows[index] = spoil(rows[index], rows[index - 1])
    done = study.check("pairs", pairs=rows)
    assert done.returncode == 0, done.stderr
    audit = study.audit()
    found = {entry["kind"]: {first["id"] for first in entry["first"]} for entry in audit["suspicions"]}
    assert found.keys() == SUSPECT.keys() == KINDS.keys()
    for kind, ids in found.items():
        also = {"gap": {"long"}, "long": {"gap"}}.get(kind, set())
        assert ids >= {rows[index]["id"] for index in planted[kind]}, kind
        allowed = {rows[index]["id"] for other in (kind, *also) for index in planted[other]}
        assert ids <= allowed, kind
    for entry in audit["suspicions"]:
        (line,) = (told for told in done.stdout.splitlines() if told.endswith(entry["words"]))
        assert f"warning: pairs.jsonl: {entry['rows']} rows ({entry['first'][0]['id']}, " in line
    shown = audit["look_first"]
    assert len(shown) == 20
    assert {why for entry in shown for why in entry["why"]} == set(KINDS.values())
    by_id = {row["id"]: row for row in rows}
    for entry in shown:
        text, own = entry["texts"]["rejected"], by_id[entry["id"]]["rejected"]
        assert text == own or (text.startswith(own[:1000]) and text.endswith(own[-300:]) and "characters ...]" in text)
