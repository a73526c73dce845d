"""Every path that ARCHITECTURE.md and CONTRIBUTING.md name exists, and so does every `path: name` in its file."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from display import checklist

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/checklist.md")
NAMED = re.compile(r"((?:[\w.*-]+/)*[\w.*-]+/?)(?:: ([\w.]+))?")
SUFFIXES = (".py", ".smk", ".md", ".yaml", ".yml", ".toml", ".lock", ".json", ".j2")
MADE = ("results", ".envs", ".snakemake")  # by runs, so not there in a fresh clone


def absent(text: str) -> list[str]:
    """What a document names between backticks, or in a shell block, that is not there."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    words = [word for block in blocks for word in re.findall(r"(?:tests|scripts|tools|config)/[\w./-]+", block)]
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words += re.findall(r"`([^`]+)`", plain)
    wrong = []
    for word in words:
        found = NAMED.fullmatch(word)
        if not found or not ("/" in word or found[1].endswith(SUFFIXES)):
            continue
        path, name = found.groups()
        if path.split("/")[0] in MADE or "NAME" in path:
            continue
        files = sorted(ROOT.glob(path.rstrip("/")))
        if not files:
            wrong.append(f"{path}: no such file")
        elif name and name not in names(files[0]):
            wrong.append(f"{path}: no {name} in it")
    return wrong


def names(path: Path) -> set[str]:
    """What a file defines: functions, classes, their methods and constants; rules; keys at the top of YAML."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".smk":
        return set(re.findall(r"^ *(?:rule|use rule \w+ as) (\w+)", text, re.MULTILINE))
    if path.suffix != ".py":
        return set(re.findall(r"^ *([\w-]+):", text, re.MULTILINE))
    found = set()
    for node in ast.parse(text).body:
        found |= defined(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for member in node.body for name in defined(member)}
    return found


def defined(node: ast.AST) -> set[str]:
    """Names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    assert absent((ROOT / document).read_text(encoding="utf-8")) == []


def test_the_checklist_names_a_place_and_a_test_for_each_item():
    """Which are there: its page is among the DOCUMENTS."""
    items = [item for items in checklist.ITEMS.values() for item in items]
    assert len({item.name for item in items}) == len(items) > 20
    for item in items:
        assert item.enforced, item.name
        assert item.tests, item.name
        assert all(re.fullmatch(r"tests/\S+\.py: (\w+\.)?test_\w+", test) for test in item.tests), item.name


def test_the_checklist_on_record_is_the_one_that_is_made(tmp_path):
    assert (ROOT / "docs" / "checklist.md").read_text(encoding="utf-8") == checklist.page()
    for name in ("tools/checklist.py", "scripts/display", "scripts/study/vocabulary.py", "docs/checklist.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "tools/checklist.py", "--check"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    page = tmp_path / "docs" / "checklist.md"
    page.write_text(page.read_text().replace("test_oracle", "test_oracles"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "docs/checklist.md is out of step with scripts/display/checklist.py" in done.stderr


def test_what_does_not_exist_is_found():
    words = (
        "scripts/nowhere.py",
        "rules/data.smk: check_data",
        "rules/data.smk: check_nothing",
        "scripts/study/runs.py: Run.parse",
        "scripts/study/runs.py: walk",
        "tests/unit/train/test_dpo.py: test_nothing",
        "results/demo/report.html",
        "beta",
        "envs/*.yaml",
    )
    text = "\n".join(f"`{word}`" for word in words) + "\n```bash\npython tests/run.py tests/unit/nowhere.py\n```\n"
    assert absent(text) == [
        "tests/unit/nowhere.py: no such file",
        "scripts/nowhere.py: no such file",
        "rules/data.smk: no check_nothing in it",
        "scripts/study/runs.py: no walk in it",
        "tests/unit/train/test_dpo.py: no test_nothing in it",
    ]


def test_pre_commit_runs_the_linters_of_make_lint():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    linters = set(re.findall(r"\.envs/driver/bin/(?!python)(\w+)|python (tools/\w+\.py)", recipe))
    assert len(linters) >= 5
    for linter in map("".join, linters):
        assert linter in hooks, f"{linter} is in `make lint`, not in .pre-commit-config.yaml"
