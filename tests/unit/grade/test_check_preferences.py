"""check_preferences and check_heldout, as rules run them: bad pairs are named with their lines, prompts are listed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="runs in the grade environment")

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[3]


SFT_ROW = {"id": "s0", "prompt": "Name a colour.", "completion": "Blue.", "category": "format"}


def pair_rows(prefix: str) -> list[dict]:
    return [
        {
            "id": f"{prefix}{i}",
            "prompt": f"Tell me about the {prefix} town number {i} in one sentence.",
            "chosen": f"It is a small and quiet place {i}." + " Really." * (i % 2) * 4,
            "rejected": f"It is a small and quiet place {i}. It is old.",
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


@pytest.fixture
def check(tmp_path):
    """Run the program on some rows."""
    folder = tmp_path / 'it\'s "data"'
    folder.mkdir()

    def run(pairs=None, heldout_pairs=None, heldout_prompts=None, rule=None) -> subprocess.CompletedProcess:
        """The check that owns what was changed: the training pairs, or the held-out rows."""
        rule = rule or ("check_heldout" if heldout_pairs or heldout_prompts else "check_preferences")
        command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--lock", str(ROOT / "envs/grade.yaml")]
        command += ["--job", json.dumps({"rule": rule, "wildcards": {}, "settings": {}, "code": "0"})]
        command += ["--manifest", str(folder / "manifest.json"), "--audit", str(folder / "audit.json")]
        if rule == "check_heldout":
            (folder / "sft.jsonl").write_text(json.dumps(SFT_ROW) + "\n", encoding="utf-8")
            command += ["--prompts", str(folder / "prompts.parquet"), "--sft", str(folder / "sft.jsonl")]
        tables = {
            "pairs": pairs or pair_rows("t"),
            "heldout-pairs": heldout_pairs or pair_rows("h"),
            "heldout-prompts": heldout_prompts or prompt_rows(),
        }
        for name, rows in tables.items():
            path = folder / f"{name.replace('-', '_')}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            command += [f"--{name}", str(path)]
        return subprocess.run(command, capture_output=True, text=True)

    run.folder = folder
    run.audit = lambda: json.loads((folder / "audit.json").read_text())
    return run


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def with_row(prefix: str = "t", **changes) -> list[dict]:
    """The good rows and, as line 5, the first row changed (under another id)."""
    rows = pair_rows(prefix)
    return [*rows, {**rows[0], "id": "new", **changes}]


def test_good_pairs_are_described(check):
    done = check()
    assert done.returncode == 0, done.stderr
    audit = check.audit()
    assert audit["pairs"]["rows"] == 4
    assert audit["pairs"]["categories"] == {"format": 2, "length": 2}
    assert audit["pairs"]["negatives"] == {"too long": 2, "two sentences": 2}
    assert audit["pairs"]["share_chosen_longer"] == 0.5
    assert audit["pairs"]["share_first_word_differs"] == 0.0
    assert set(audit["pairs"]["characters"]) == {"prompt", "chosen", "rejected"}
    assert audit["pairs"]["characters"]["rejected"]["median"] == 43
    assert audit["warnings"] == []
    assert 3 <= len(done.stdout.splitlines()) <= 6


def test_heldout_rows_are_described(check):
    assert check(heldout_prompts=prompt_rows()).returncode == 0
    audit = check.audit()
    assert (audit["heldout_pairs"]["rows"], audit["heldout_prompts"]["rows"], audit["heldout_clusters"]) == (4, 3, 7)


def test_a_training_pair_whose_prompt_is_held_out_is_refused(check):
    trained = pair_rows("t")
    trained[1]["prompt"] = pair_rows("h")[2]["prompt"]
    assert "heldout_pairs.jsonl: 1 held-out prompt is also trained on" in refusal(check(pairs=trained))


def test_a_heldout_prompt_of_the_sft_rows_is_refused(check):
    prompts = prompt_rows()
    prompts[1]["prompt"] = SFT_ROW["prompt"]
    told = refusal(check(heldout_prompts=prompts))
    assert "heldout_prompts.jsonl: 1 held-out prompt is also trained on: line 2" in told


def test_heldout_prompts_are_listed_by_the_contract(check):
    heldout = pair_rows("h")
    heldout[1]["prompt"] = heldout[0]["prompt"]
    prompts = prompt_rows()
    prompts[0]["prompt"] = heldout[0]["prompt"].upper()
    prompts[1]["cluster_id"] = "family"
    assert check(heldout_pairs=heldout, heldout_prompts=prompts).returncode == 0
    table = pq.read_table(check.folder / "prompts.parquet")
    names = ["prompt_id", "prompt_sha256", "category", "cluster_id", "split"]
    assert table.schema == pa.schema([pa.field(name, pa.string(), nullable=False) for name in names])
    rows = table.to_pylist()
    assert [row["prompt_id"] for row in rows] == ["h0", "h1", "h2", "h3", "p0", "p1", "p2"]
    assert {row["split"] for row in rows} == {"heldout"}
    by_id = {row["prompt_id"]: row for row in rows}
    assert by_id["h0"]["prompt_sha256"] == hashlib.sha256(heldout[0]["prompt"].encode()).hexdigest()
    assert by_id["h1"]["category"] == "format"
    clusters = [row["cluster_id"] for row in rows]
    assert clusters[0] == clusters[1] == clusters[4]
    assert clusters[0] == hashlib.sha256(heldout[0]["prompt"].lower().encode()).hexdigest()[:16]
    assert by_id["p1"]["cluster_id"] == "family"
    assert len(set(clusters)) == 5 == check.audit()["heldout_clusters"]
    first = (check.folder / "prompts.parquet").read_bytes()
    check(heldout_pairs=list(reversed(heldout)), heldout_prompts=prompts)
    assert (check.folder / "prompts.parquet").read_bytes() == first


@pytest.mark.parametrize("table", ["pairs", "heldout_pairs"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chosen": ""}, "line 5: 'chosen' is empty"),
        ({"rejected": "\n"}, "line 5: 'rejected' is empty"),
        ({"negative": 3}, "line 5: column 'negative' must be str"),
        ({"chosen": "same", "rejected": " same\n"}, "line 5: 'chosen' and 'rejected' are the same"),
        ({}, "lines 1 and 5: the same prompt, chosen and rejected"),
        (
            {"chosen": pair_rows("x")[0]["rejected"], "rejected": pair_rows("x")[0]["chosen"]},
            "lines 1 and 5: swapped",
        ),
        ({"chosen": "A third answer.", "rejected": pair_rows("x")[0]["chosen"]}, "lines 1 and 5: an answer is chosen"),
        ({"chosen": pair_rows("x")[0]["rejected"], "rejected": "A bad one."}, "lines 5 and 1: an answer is chosen"),
        ({"id": "{prefix}0"}, "lines 1 and 5: 'id' occurs twice"),
    ],
)
def test_bad_pairs_are_refused(check, table, changes, words):
    prefix = {"pairs": "t", "heldout_pairs": "h"}[table]
    changes = {
        key: value.replace("{prefix}", prefix) if isinstance(value, str) else value for key, value in changes.items()
    }
    told = refusal(check(**{table: with_row(prefix, **changes)}))
    assert f"{check.folder / table}.jsonl, {words}" in told
    assert not (check.folder / "audit.json").exists()
    assert not (check.folder / "prompts.parquet").exists()


def test_two_answers_to_one_prompt_are_fine(check):
    assert check(pairs=with_row(chosen="Another good one.", rejected="Another bad one.")).returncode == 0


@pytest.mark.parametrize("rule", ["check_preferences", "check_heldout"])
def test_heldout_prompts_that_cannot_be_graded_are_refused_before_training(check, rule):
    rows = prompt_rows()
    rows[1]["instruction_id_list"] = ["punctuation:no_coma"]
    told = refusal(check(heldout_prompts=rows, rule=rule))
    assert "heldout_prompts.jsonl, line 2 (id 'p1'): unknown instruction 'punctuation:no_coma'" in told
    assert not (check.folder / "audit.json").exists()


@pytest.mark.parametrize("table", ["heldout_pairs", "heldout_prompts"])
def test_heldout_prompts_that_are_trained_on_are_counted_and_located(check, table):
    rows = {"heldout_pairs": pair_rows("h"), "heldout_prompts": prompt_rows()}[table]
    trained = pair_rows("t")
    rows[0]["prompt"] = trained[3]["prompt"].upper()
    rows[2]["prompt"] = f" {trained[1]['prompt']} "
    told = refusal(check(**{table: rows}))
    pairs = check.folder / "pairs.jsonl"
    assert f"{table}.jsonl: 2 held-out prompts are also trained on" in told
    assert f"line 1 ({pairs}, line 4), line 3 ({pairs}, line 2)" in told


def test_an_id_in_both_heldout_files_is_refused(check):
    prompts = prompt_rows()
    prompts[2]["id"] = "h1"
    told = refusal(check(heldout_prompts=prompts))
    assert "heldout_prompts.jsonl, line 3: 'id' is also used in" in told


def test_cluster_id_must_be_text(check):
    prompts = prompt_rows()
    prompts[1]["cluster_id"] = 4
    assert "line 2: column 'cluster_id' must be a string" in refusal(check(heldout_prompts=prompts))


def test_give_away_pairs_are_warnings(check):
    rows = [{**row, "chosen": "Yes, " + "very " * 30 + str(i)} for i, row in enumerate(pair_rows("t"))]
    done = check(pairs=rows)
    assert done.returncode == 0, done.stderr
    warnings = check.audit()["warnings"]
    assert len(warnings) == 2
    assert "chosen is longer in 100% of the pairs" in warnings[0]
    assert "100% of the pairs differ in the first word" in warnings[1]
