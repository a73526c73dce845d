"""Program `grade` and the IFEval checkers behind it. Environment: groups grade + dev."""

import base64
import json
import math
import sys

import pytest

pytest.importorskip("lm_eval", reason="runs in the grade environment")

import grade
import pyarrow as pa
import pyarrow.parquet as pq

from arms.data.grading import check_instructions, checkers, follows
from arms.data.rows import BadRow
from arms.job.files import UserError, read_json, sha256_bytes

KNOWN = {
    "no_comma": ("punctuation:no_comma", {}, "Rivers carry water.", "Rivers, and lakes."),
    "max_words": (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 4},
        "Rivers carry water.",
        "Rivers carry water far.",
    ),
    "min_words": (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 4},
        "Rivers carry water far.",
        "Rivers carry water.",
    ),
    "keywords": (
        "keywords:existence",
        {"keywords": ["water", "boats"]},
        "Boats need water.",
        "Rivers carry water.",
    ),
    "forbidden_word": (
        "keywords:forbidden_words",
        {"forbidden_words": ["water"]},
        "A waterfall is loud.",
        "Rivers carry Water.",
    ),
    "end_phrase": (
        "startend:end_checker",
        {"end_phrase": "Thank you."},
        "Rivers flow. thank you.\n",
        "Thank you. Rivers flow.",
    ),
}


def prompt_row(category="no_comma", name="p1", row=1):
    instruction, kwargs, _, _ = KNOWN[category]
    return {
        "_row": row,
        "id": name,
        "prompt": f"Prompt {name}.",
        "category": category,
        "instruction_id_list": [instruction],
        "kwargs": [kwargs],
    }


@pytest.mark.parametrize("category", KNOWN)
def test_checker_knows_a_passing_and_a_failing_answer(category):
    _, _, passing, failing = KNOWN[category]
    assert follows(prompt_row(category), passing)
    assert not follows(prompt_row(category), failing)


def test_blank_answer_never_passes():
    assert not follows(prompt_row("no_comma"), " \n")


def test_every_instruction_must_be_followed():
    row = prompt_row("no_comma")
    row["instruction_id_list"] += ["startend:end_checker"]
    row["kwargs"] += [{"end_phrase": "Bye."}]
    assert follows(row, "No comma. Bye.")
    assert not follows(row, "A comma, here. Bye.")
    assert not follows(row, "No comma.")


def test_strict_is_not_loose():
    """IFEval's loose reading would drop the first line; strict does not."""
    assert not follows(prompt_row("no_comma"), "Sure, here it is:\nRivers carry water.")


def test_langdetect_is_seeded():
    import langdetect

    checkers()
    assert langdetect.DetectorFactory.seed == 0


def test_null_kwargs_of_other_checkers_are_allowed():
    """IFEval's own files give every argument of every checker, null where it is another's."""
    row = prompt_row("end_phrase")
    row["kwargs"] = [{"end_phrase": "Thank you.", "num_words": None, "keywords": None}]
    check_instructions(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"]}, "unknown instruction 'punctuation:no_coma'"),
        ({"instruction_id_list": []}, "0 instruction ids and 1 kwargs"),
        ({"kwargs": []}, "1 instruction ids and 0 kwargs"),
        ({"kwargs": [{"num_words": 5}]}, r"takes the kwargs \[\], found \['num_words'\]"),
        ({"kwargs": [None]}, "must be an object"),
        ({"instruction_id_list": ["startend:end_checker"]}, r"takes the kwargs \['end_phrase'\], found \[\]"),
        (
            {
                "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
                "kwargs": [{"num_paragraphs": 3, "nth_paragraph": 4, "first_word": "rain"}],
            },
            "would replace one of these kwargs by a random one",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 5, "relation": "more than"}],
            },
            "the checkers refuse these kwargs",
        ),
        (
            {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 5}]},
            "drawn at random",
        ),
    ],
)
def test_rows_that_cannot_be_graded_are_refused(change, message):
    check_instructions(prompt_row(name="good"))
    with pytest.raises(BadRow, match=message):
        check_instructions({**prompt_row(name="bad"), **change})


class Study:
    """A folder with the three inputs of the program; `run` calls its main."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.prompts = [prompt_row("no_comma", "p2"), prompt_row("end_phrase", "p1")]
        texts = {"p1": ("Rivers. Thank you.", "Rivers."), "p2": ("No comma.", "A, comma.")}
        self.generations = [
            {"prompt_id": name, "sample_idx": k, "text": text, "n_tokens": 4, "status": "ok"}
            for name in ("p2", "p1")
            for k, text in reversed(list(enumerate(texts[name])))
        ]
        self.pairs = [
            {
                "pair_id": name,
                "chosen_logp": chosen,
                "chosen_tokens": 4,
                "rejected_logp": rejected,
                "rejected_tokens": 8,
            }
            for name, chosen, rejected in (("q3", -8.0, -8.0), ("q1", -8.0, -12.0), ("q2", -9.0, -8.0))
        ]

    def run(self, run="sft-seed1", out="out", without=()):
        lines = [json.dumps({k: v for k, v in row.items() if k != "_row"}) for row in self.prompts]
        (self.folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(self.generations), self.folder / "generations.parquet")
        pq.write_table(pa.Table.from_pylist(self.pairs), self.folder / "logps.parquet")
        out = self.folder / out
        flags = {
            "job": json.dumps({"rule": "grade", "wildcards": {"run": run}, "settings": {}}),
            "manifest": out / "manifest.json",
            "prompts": self.folder / "prompts.jsonl",
            "generations": self.folder / "generations.parquet",
            "pair-logps": self.folder / "logps.parquet",
            "pref-acc": out / "pref_acc.parquet",
            "pass-rate": out / "pass_rate.parquet",
            "logp-margin": out / "logp_margin.parquet",
        }
        flags = {name: value for name, value in flags.items() if name not in without}
        argv = ["grade.py", *(str(part) for name, value in flags.items() for part in (f"--{name}", value))]
        self.monkeypatch.setattr(sys, "argv", argv)
        grade.main()
        return {name: out / f"{name}.parquet" for name in ("pref_acc", "pass_rate", "logp_margin")}


@pytest.fixture
def study(tmp_path, monkeypatch):
    folder = tmp_path / "a folder with 'quotes'"
    folder.mkdir()
    return Study(folder, monkeypatch)


def test_without_heldout_prompts_preferences_are_scored_alike(study):
    whole = study.run(out="whole")
    alone = study.run(out="alone", without=("prompts", "generations", "pass-rate"))
    assert not alone["pass_rate"].exists()
    for metric in ("pref_acc", "logp_margin"):
        assert alone[metric].read_bytes() == whole[metric].read_bytes()


def test_score_contract(study):
    for path in study.run().values():
        # As written: pyarrow widens every dictionary index to int32 when it reads parquet.
        written = base64.b64decode(pq.read_metadata(path).metadata[b"ARROW:schema"])
        schema = pa.ipc.read_schema(pa.py_buffer(written))
        assert [(field.name, field.type, field.nullable) for field in schema] == [
            ("arm", pa.dictionary(pa.int8(), pa.string()), False),
            ("train_seed", pa.int32(), False),
            ("prompt_id", pa.dictionary(pa.int32(), pa.string()), False),
            ("sample_idx", pa.int16(), False),
            ("value", pa.float64(), True),
            ("status", pa.dictionary(pa.int8(), pa.string()), False),
            ("gen_sha256", pa.string(), True),
        ]
        column = pq.ParquetFile(path).metadata.row_group(0).column(4)
        assert column.compression == "ZSTD"


def test_pass_rate_rows_are_sorted_and_hashed(study):
    rows = pq.read_table(study.run()["pass_rate"]).to_pylist()
    assert [(r["prompt_id"], r["sample_idx"], r["value"]) for r in rows] == [
        ("p1", 0, 1.0),
        ("p1", 1, 0.0),
        ("p2", 0, 1.0),
        ("p2", 1, 0.0),
    ]
    assert {(r["arm"], r["train_seed"], r["status"]) for r in rows} == {("sft", 1, "ok")}
    assert rows[0]["gen_sha256"] == sha256_bytes(b"Rivers. Thank you.")


def test_log_probability_metrics(study):
    paths = study.run()
    accuracy = pq.read_table(paths["pref_acc"]).to_pylist()
    margins = pq.read_table(paths["logp_margin"]).to_pylist()
    assert [(r["prompt_id"], r["value"]) for r in accuracy] == [("q1", 1.0), ("q2", 0.0), ("q3", 0.0)]
    assert [r["value"] for r in margins] == [-8 / 4 + 12 / 8, -9 / 4 + 8 / 8, -8 / 4 + 8 / 8]
    assert {r["gen_sha256"] for r in accuracy + margins} == {None}


def test_an_unfinished_answer_fails_and_an_empty_one_is_missing(study):
    study.generations[0] |= {"text": "It goes on and", "status": "truncated"}
    study.generations[1] |= {"text": "", "status": "empty"}
    study.generations[2] |= {"text": " \n", "status": "ok"}
    rows = pq.read_table(study.run()["pass_rate"]).to_pylist()
    found = {(r["prompt_id"], r["sample_idx"]): (r["value"], r["status"]) for r in rows}
    assert found == {
        ("p1", 0): (1.0, "ok"),
        ("p1", 1): (None, "empty"),
        ("p2", 0): (None, "empty"),
        ("p2", 1): (0.0, "truncated"),
    }
    facts = read_json(study.folder / "out" / "manifest.json")["facts"]
    assert facts["statuses"] == {"ok": 1, "empty": 2, "truncated": 1}
    assert facts["truncated"] == 1
    assert math.isclose(facts["pass_rate"], 0.25)


def test_equal_inputs_give_equal_bytes(study):
    first = {name: path.read_bytes() for name, path in study.run(out="one").items()}
    study.generations.reverse()
    study.pairs.reverse()
    second = {name: path.read_bytes() for name, path in study.run(out="two").items()}
    assert first == second


def test_base_has_seed_minus_one(study):
    rows = pq.read_table(study.run("base")["pref_acc"]).to_pylist()
    assert {(r["arm"], r["train_seed"]) for r in rows} == {("base", -1)}


@pytest.mark.parametrize("run", ["base-seed0", "sft", "none-seed1"])
def test_a_wrong_run_is_named(study, run):
    with pytest.raises(UserError, match=f"'{run}' is no run"):
        study.run(run)


def drop(rows, number):
    del rows[number]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: drop(s.generations, 0), "no answer to prompt_id 'p2', sample_idx 1"),
        (lambda s: s.generations.append(s.generations[0]), "2 times the answer to prompt_id 'p2', sample_idx 1"),
        (lambda s: s.generations[0].update(prompt_id="x9"), "prompt_id 'x9' is not in"),
        (lambda s: s.generations[0].update(status="fine"), "'p2' has status 'fine'"),
        (lambda s: s.generations.clear(), "no column 'prompt_id'"),
        (lambda s: s.prompts.append(prompt_row("no_comma", "p1")), "line 3: 'id' occurs twice"),
        (lambda s: s.prompts[0].pop("kwargs"), "line 1: column 'kwargs' is missing"),
        (lambda s: s.pairs.append(s.pairs[0]), "pair_id 'q3' is there 2 times"),
        (lambda s: s.pairs[1].update(chosen_logp=math.nan), "pair_id 'q1' has chosen_logp = nan"),
        (lambda s: s.pairs[1].update(rejected_tokens=0), "pair_id 'q1' has rejected_tokens = 0"),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(study, spoil, message):
    spoil(study)
    with pytest.raises(UserError, match=message):
        study.run()
    assert not (study.folder / "out").exists()


def test_missing_and_foreign_files(study):
    study.run()
    with pytest.raises(UserError, match="no such file"):
        grade.read_table(str(study.folder / "absent.parquet"), ("text",))
    with pytest.raises(UserError, match="not a parquet file"):
        grade.read_table(str(study.folder / "prompts.jsonl"), ("text",))
