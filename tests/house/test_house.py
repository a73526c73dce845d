"""The house keeps its measures (measures.py), and each measure is tried on a copy that breaks it."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import measures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """The sources in a folder where they may be broken."""
    for name in ("scripts", "rules", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    return tmp_path


@pytest.mark.parametrize("check", measures.CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps_its_measures(check):
    assert check(ROOT) == []


STATEMENTS = "    one = 1\n" * 60
BREAKS = {
    "a function of 61 lines": ("too_long", "tools/pin_envs.py", f"def long():\n{STATEMENTS}", "long has 61 lines"),
    "a module of more than 400": ("too_long", "scripts/study/runs.py", "one = 1\n" * 400, "lines, at most 400"),
    "study sees arms": (
        "against_the_direction",
        "scripts/study/runs.py",
        "import arms.job.files\n",
        "study sees paired.forecast, arms.data.head",
    ),
    "paired sees study": (
        "against_the_direction",
        "scripts/paired/adjust.py",
        "from study.runs import Run\n",
        "paired sees nothing",
    ),
    "a room sees the next": (
        "against_the_direction",
        "scripts/arms/data/audit.py",
        "def late():\n    from arms.training import dpo\n",
        "data comes before training",
    ),
    "a room sees the next for its types": (
        "against_the_direction",
        "scripts/arms/job/files.py",
        "if TYPE_CHECKING:\n    from ..model import cpu\n",
        "job comes before model",
    ),
    "a program sees another": (
        "against_the_direction",
        "scripts/check_data.py",
        "from list_heldout import main\n",
        "check_data imports the program list_heldout",
    ),
    "a package sees a program": (
        "against_the_direction",
        "scripts/arms/data/audit.py",
        "import grade\n",
        "arms.data.audit imports the program grade",
    ),
    "two modules see each other": (
        "circles",
        "scripts/study/vocabulary.py",
        "def late():\n    from study import config\n",
        "study.config -> study.vocabulary -> study.config",
    ),
    "study needs torch": (
        "not_there_at_run_time",
        "scripts/study/digest.py",
        "import torch\n",
        "study.digest imports torch",
    ),
    "a program needs Snakemake": (
        "not_there_at_run_time",
        "scripts/grade.py",
        "import study.engine\n",
        "grade reaches study.engine, which needs snakemake",
    ),
    "a function among the rules": ("more_than_rules", "rules/data.smk", "\ndef one():\n    return 1\n", "'def one():'"),
    "a statement among the rules": ("more_than_rules", "rules/train.smk", "print(config)\n", "is no part of a rule"),
    "a long lambda": (
        "more_than_rules",
        "rules/train.smk",
        f"X = {{'a': lambda wildcards: [{'wildcards.run, ' * 9}]}}\n",
        "a long lambda",
    ),
    "rules of 691 lines": (
        "more_than_rules",
        "rules/train.smk",
        "# line\n" * 691,
        "lines that are not blank, at most 705",
    ),
    "a Snakefile of 101 lines": ("more_than_rules", "Snakefile", "# line\n" * 101, "lines, at most 100"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_break_is_found(copy, case):
    check, name, added, complaint = BREAKS[case]
    before = getattr(measures, check)(copy)
    with (copy / name).open("a") as file:
        file.write(added)
    new = [line for line in getattr(measures, check)(copy) if line not in before]
    assert any(complaint in line for line in new), new
