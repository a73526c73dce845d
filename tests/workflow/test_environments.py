"""Each rule's environment: named once, in step with the lock, and independent of the user's shell."""

import os
import re
import subprocess
import sys

import pytest

SHELL = {
    "CONDA_SHLVL": "2",
    "CONDA_PREFIX": "/nowhere",
    "CONDA_PREFIX_1": "/nowhere",
    "CONDA_DEFAULT_ENV": "base",
    "CONDA_PROMPT_MODIFIER": "(base) ",
    "PYTHONPATH": "/nowhere",
    "PIP_USER": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
SET = {"PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "TOKENIZERS_PARALLELISM": "false"}


def test_a_job_sees_nothing_of_the_users_shell(clone):
    shared = (clone.folder / ".envs").resolve()
    (clone.folder / ".envs").unlink()
    (clone.folder / ".envs" / "grade" / "bin").mkdir(parents=True)
    for name in ("train", "stats", "provenance"):
        (clone.folder / ".envs" / name).symlink_to(shared / name)
    python = clone.folder / ".envs" / "grade" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nenv -0 > job.env\nexec "{shared}/grade/bin/python" "$@"\n')
    python.chmod(0o755)
    done = clone.snakemake("--cores", "1", "--until", "check_data", **SHELL)
    assert done.returncode == 0, done.stdout
    seen = dict(pair.split("=", 1) for pair in (clone.folder / "job.env").read_text().split("\0") if pair)
    assert SET.items() <= seen.items()
    assert not (SHELL.keys() - SET.keys()) & seen.keys()


def test_the_environment_is_cleaned_first(clone):
    snakefile = (clone.folder / "Snakefile").read_text()
    assert snakefile.index("engine = Engine(") < min(map(snakefile.index, ("pathvars:", "rule all:", "include:")))


def test_every_rule_names_one_environment(clone):
    """Its program runs in it; a rule that uses another one runs where that one does. TRAIN is that of the stack."""
    text = "\n".join(path.read_text() for path in sorted((clone.folder / "rules").glob("*.smk")))
    parts = re.split(r"^ *(?=rule |use rule )", text, flags=re.MULTILINE)[1:]
    rules = {re.match(r"(?:use rule \w+ as |rule )(\w+)", part)[1]: part for part in parts}
    assert len(rules) > 20
    del rules["crate"]  # a name for a file, it runs nothing
    found = {}
    for name, part in rules.items():
        here = part
        while not (conda := re.findall(r'conda:\s+f?"\.\./envs/\{?(\w+)\}?\.yaml"', here)):
            here = rules[re.match(r"use rule (\w+) as", here)[1]]
        ((program, environment),) = re.findall(r'program\(\s*"(\w+)",\s*"?(\w+)"?', part)
        assert program == name or (program, name) == ("check_node", "check_gpu_node")
        found[name] = [environment], conda
    assert all(environment == conda for environment, conda in found.values()), found


@pytest.mark.parametrize(
    ("edited", "old", "new"),
    [
        (None, "", ""),
        ("envs/train.yaml", "trl==0.9.6", "trl==0.9.5"),
        ("envs/stats.yaml", "--hash=sha256:", "--hash=sha256:0"),
        ("envs/grade.yaml", "  - nodefaults\n", ""),
    ],
)
def test_yaml_and_lock_agree(clone, edited, old, new):
    if edited:
        clone.edit(edited, old, new)
    command = [sys.executable, "tools/pin_envs.py", "--check"]
    uv = {**os.environ, "PATH": f"{clone.folder / '.envs' / 'uv' / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=clone.folder, env=uv, text=True, stderr=subprocess.PIPE)
    assert done.returncode == (1 if edited else 0), done.stderr
    assert not edited or f"{edited} is out of step with uv.lock" in done.stderr


def test_nothing_replaces_an_environment_file_unseen(clone):
    # Snakemake takes X.linux-64.pin.txt instead of X.yaml, without its pip section, and runs X.post-deploy.sh
    assert {path.suffix for path in (clone.folder / "envs").iterdir()} == {".yaml"}
