"""The record of TRL's versions, the page made from it, and the doctor who knows its errors."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAP = ROOT / "benchmarks" / "trl_map"
sys.path.append(str(MAP))

import trl_map
import trl_page

from arms.training.cures import cure
from arms.training.tracebacks import explain, refused, taken

RECORD = json.loads((MAP / "results.json").read_text(encoding="utf-8"))
VERSIONS = RECORD["versions"]
REFUSALS = sorted({(call, error) for one in VERSIONS.values() for call, error in refused(one)})


def test_the_page_is_what_the_record_says():
    assert trl_page.PAGE.read_text(encoding="utf-8") == trl_page.page(RECORD)


def test_every_version_has_a_lock_and_a_record_of_the_same_calls():
    assert list(VERSIONS) == trl_map.versions()
    assert {"0.8.6", "0.9.6", "0.11.4", "1.16.0"} < {*VERSIONS}
    assert any((0, 12) <= tuple(map(int, version.split(".")[:2])) <= (0, 19) for version in VERSIONS)
    for part in ("calls", "cases"):
        assert len({tuple(one[part]) for one in VERSIONS.values()}) == 1
    for version, one in VERSIONS.items():
        assert one["packages"]["trl"] == version
    for path in trl_map.LOCKS.glob("*.in"):
        locked = path.with_suffix(".txt").read_text(encoding="utf-8")
        for pin in path.read_text(encoding="utf-8").split():
            assert re.search(rf"^{re.escape(pin)} \\\n +--hash=sha256:", locked, re.MULTILINE), (path.name, pin)
        assert locked.count("==") == len(re.findall(r"^\S+==\S+ \\$", locked, re.MULTILINE)), path.name


def test_the_pinned_version_is_that_of_the_workflow():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    for version, group in trl_page.OF_STACKS.items():
        assert f"trl=={version}" in groups[group]


def test_no_record_names_a_place_of_the_machine_that_made_it():
    text = json.dumps(RECORD)
    assert not re.search(r"/(tmp|home|root|work|usr)/|0x[0-9a-f]{6}", text)


def test_what_the_record_must_say_of_the_pinned_version():
    """Known from tests/unit/train/test_traps.py, which asks the installed packages themselves."""
    cases = VERSIONS["0.9.6"]["cases"]
    assert cases["kept"]["reference"] == "base"
    assert cases["two_names"]["reference"] == "sft"
    assert cases["kept_precompute"]["passes"] == 2
    assert {round(loss, 4) for loss in cases["full_precompute"]["losses"]} == {0.6931}
    assert cases["columns_reference"]["reference"] == "base"
    assert "duplicated columns" in cases["columns_reference_flag"]["error"]
    assert VERSIONS["0.9.6"]["calls"]["DPOConfig(padding_value=)"]["effect"] != 77


@pytest.mark.parametrize(("call", "error"), REFUSALS, ids=[call for call, _ in REFUSALS])
def test_every_error_has_a_cure_and_what_it_proposes_was_taken(call, error):
    for one in VERSIONS.values():
        if (call, error) in refused(one):
            text = cure(call, taken(one))
            assert text
            proposed = re.search(r"write (.*?)(?:; |$)", text)
            assert proposed is None or proposed[1] in taken(one)


def doctor(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    """The public command; it needs no packages, so any Python will do."""
    command = [sys.executable, str(ROOT / "scripts" / "doctor.py"), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True)


def traceback(error: str) -> str:
    """What Python prints."""
    return f'Traceback (most recent call last):\n  File "train.py", line 7, in <module>\n    main()\n{error}\n'


def test_the_doctor_knows_every_error_on_record(tmp_path):
    path = tmp_path / "error.txt"
    for call, error in REFUSALS:
        path.write_text(traceback(error), encoding="utf-8")
        assert f"\n{call} ends so on TRL " in explain(path, MAP / "results.json"), error


def test_the_doctor_answers_for_the_version_that_the_text_names(tmp_path):
    error = "TypeError: DPOTrainer.__init__() got an unexpected keyword argument 'max_prompt_length'"
    path = tmp_path / "error.txt"
    path.write_text(traceback(error))
    done = doctor("--traceback", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == error
    assert len(lines) == 3
    call = "DPOTrainer(max_prompt_length=)"
    assert lines[1] == f"{call} ends so on TRL 0.19.1, 0.23.1. Cure: write DPOConfig(max_prompt_length=)."
    assert lines[2].startswith(f"{call} ends so on TRL 1.16.0. Cure: leave it out; ")
    path.write_text(f"trl==1.16.0\ntorch==2.15.0\n{traceback(error)}")
    assert doctor("--traceback", str(path)).stdout.splitlines() == [error, lines[2]]
    of_option = doctor("--traceback", "-", "--trl", "1.16.0", stdin=traceback(error))
    assert of_option.stdout.splitlines() == [error, lines[2]]
    untried = doctor("--traceback", "-", "--trl", "0.15.0", stdin=traceback(error)).stdout
    assert "TRL 0.15.0 was not tried; tried were 0.8.6, " in untried
    other = doctor("--traceback", "-", "--trl", "0.9.6", stdin=traceback(error)).stdout
    assert "TRL 0.9.6 did not end so when it was tried." in other


def test_the_doctor_takes_tracebacks_as_people_have_them():
    """The path of an import, a log's prefix, the name of a model's class, an error that came of another."""
    found = doctor(
        "--traceback", "-", stdin="ImportError: cannot import name 'DPOConfig' from 'trl' (/x y/trl/__init__.py)"
    )
    assert "from trl import DPOConfig ends so on TRL 0.8.6. Cure: pass transformers' TrainingArguments" in found.stdout
    error = "[rank0]: TypeError: Qwen2ForCausalLM.__init__() got an unexpected keyword argument 'dtype'"
    found = doctor("--traceback", "-", stdin=error)
    assert "Cure: it has another name; write from_pretrained(torch_dtype=)." in found.stdout
    first = "AttributeError: 'TrainingArguments' object has no attribute 'padding_value'"
    found = doctor(
        "--traceback", "-", stdin=traceback(first) + "\nDuring handling ...\n\n" + traceback("ValueError: 7")
    )
    assert found.stdout.startswith(first)
    assert "on TRL 0.19.1, 0.23.1. Cure: pass a trl.DPOConfig as args; write from trl import DPOConfig." in found.stdout


def test_the_doctor_says_what_it_does_not_know():
    done = doctor("--traceback", "-", stdin=traceback("ValueError: the moon is full"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: -: nothing is known here about 'ValueError: the moon is full'; ")
    assert "errors of TRL 0.8.6, 0.9.6, " in done.stderr


BAD = {
    "missing": (None, "no such file; save the traceback in one"),
    "empty": (b" \n", "empty; paste the traceback into it"),
    "binary": (b"\x7fELF\0\0\1", "not a text file; save the traceback as text"),
    "no error": (b"all is well\n", "no line like 'TypeError: ...' in it; a traceback ends with one, paste it whole"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_traceback_is_said_in_a_line(tmp_path, case):
    content, complaint = BAD[case]
    path = tmp_path / "error.txt"
    if content is not None:
        path.write_bytes(content)
    done = doctor("--traceback", str(path))
    assert done.returncode == 1
    assert done.stderr == f"error: {path}: {complaint}\n"
    assert done.stdout == ""


def test_the_doctor_asks_for_something():
    done = doctor()
    assert done.returncode == 2
    assert "give --traceback, or --login and --nodes" in done.stderr


def test_differences_from_the_record_are_found():
    known = {"calls": {"a": {"outcome": "accepted"}}, "losses": [0.5, 0.25]}
    found = {"calls": {"a": {"outcome": "error"}, "b": {}}, "losses": [0.50001, 0.26]}
    assert list(trl_map.differing(known, found, "")) == [
        "calls a outcome: 'error', on record 'accepted'",
        "calls b: {}, on record None",
        "losses[1]: 0.26, on record 0.25",
    ]
    assert list(trl_map.differing(known, known, "")) == []
