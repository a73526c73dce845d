"""CONTRIBUTING.md's recipes, applied to a copy of the repository: the public command shows what each does.

A recipe is the `diff` blocks under a heading: a file, then hunks (parted by `@@`) without line numbers. What a hunk
keeps or removes must be in the file exactly once.
"""

import json
import re
import subprocess
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".envs" / "driver" / "bin" / "python"


def recipe(heading: str) -> list[tuple[str, str, str]]:
    """(file, old text, new text) of every hunk under a heading of CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    hunks = []
    for name, body in re.findall(r"```diff\n--- (\S+)\n(.*?)```", section, re.DOTALL):
        for hunk in body.split("@@\n"):
            lines = [(line[:1] or " ", line[1:]) for line in hunk.splitlines()]
            old, new = ("".join(f"{text}\n" for sign, text in lines if sign in kept) for kept in (" -", " +"))
            hunks.append((name, old, new))
    assert hunks, heading
    return hunks


def cook(clone, heading: str) -> set[str]:
    """Apply a recipe, and write the documents that are made; the names of the files that changed: at most three."""
    sources = [path for path in clone.folder.rglob("*") if path.is_file() and is_source(path.relative_to(clone.folder))]
    before = {path: path.read_bytes() for path in sources}
    for name, old, new in recipe(heading):
        text = (clone.folder / name).read_text()
        assert text.count(old) == 1, f"{heading}: {name} holds this {text.count(old)} times:\n{old}"
        (clone.folder / name).write_text(text.replace(old, new))
    subprocess.run([PYTHON, "tools/describe.py"], cwd=clone.folder, check=True)
    changed = {str(path.relative_to(clone.folder)) for path, text in before.items() if path.read_bytes() != text}
    assert 1 <= len(changed) <= 3, changed
    return changed


def is_source(path: Path) -> bool:
    """Whether a file belongs to the repository: not to results or environments."""
    return path.parts[0] not in ("results", ".snakemake", ".envs", ".git") and "__pycache__" not in path.parts


@pytest.fixture
def copied(finished, tmp_path):
    """The finished smoke study, to be edited freely."""
    return finished.copy(tmp_path / "copy")


def test_a_metric(copied):
    assert cook(copied, "Add a metric") == {"scripts/study/vocabulary.py", "rules/evaluate.smk", "scripts/grade.py"}
    assert copied.planned() == {"freeze_plan": 1, "grade": 7, "compare": 1, "plot": 1, "report": 1}
    done = copied.snakemake("--cores", "2", "results/smoke/stats/contrasts.csv")
    assert done.returncode == 0, done.stdout[-4000:]
    contrasts = pandas.read_csv(copied.folder / "results/smoke/stats/contrasts.csv")
    found = contrasts[contrasts["metric"] == "distinct_words"]
    assert set(found["contrast"]) == {f"C{number}" for number in range(1, 8)}
    assert found["estimate"].notna().all()


def test_a_loss(copied):
    changed = cook(copied, "Add a loss")
    assert changed == {"config/schema.yaml", "config/README.md", "scripts/arms/training/dpo.py"}
    copied.edit("config/smoke.yaml", "dpo:\n", "dpo:\n  loss_type: apo_zero\n")
    done = copied.snakemake("--cores", "2", "results/smoke/dpo_only-seed1/observed.json")
    assert done.returncode == 0, done.stdout[-4000:]
    facts = json.loads((copied.folder / "results/smoke/dpo_only-seed1/train.manifest.json").read_text())["facts"]
    assert facts["step0"]["closed_form"] == 1.0
    assert facts["step0"]["loss_difference"] < 1e-4


def test_a_check_of_the_data(clone):
    assert cook(clone, "Add a check of the data") == {"scripts/arms/data/audit.py"}
    pairs = clone.folder / "config/data/preferences.jsonl"
    rows = pairs.read_text().splitlines()
    row = {**json.loads(rows[0]), "id": "bad", "rejected": "Yes.<|im_end|>"}
    pairs.write_text("\n".join([*rows, json.dumps(row)]) + "\n")
    done = clone.snakemake("--cores", "1", "results/smoke/data/pairs.audit.json")
    assert done.returncode != 0
    assert f"line {len(rows) + 1}: an answer holds the mark of a chat template; remove the mark" in done.stdout
