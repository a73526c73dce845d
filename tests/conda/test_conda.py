"""The workflow through `--sdm conda`, with a stand-in for conda (standin/bin/conda says what it can show and what not).

The environments, 7 GB, are made by pip from envs/*.yaml once and kept in .cache/conda-standin until a file changes.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from conftest import ROOT, Clone, results

PREFIX = ROOT / ".cache" / "conda-standin"
STANDIN = Path(__file__).parent / "standin" / "bin"
SHELL = {
    "PATH": f"{STANDIN}:{os.environ['PATH']}",
    "CONDA_STANDIN_PYTHON": f"{sys.base_prefix}/bin/python3.11",
    "PIP_NO_CACHE_DIR": "1",  # the environments are kept, so a cache of their wheels would be disk for nothing
    "PIP_USER": "1",  # would stop pip in a venv, and in conda would install to ~/.local
    "CONDA_SHLVL": "1",
    "CONDA_PREFIX": "/nowhere",
}


def run(clone, *arguments, **environment):
    """Snakemake in a clone that has no .envs/."""
    (clone.folder / ".envs").unlink(missing_ok=True)
    conda = ("--sdm", "conda", "--conda-prefix", str(PREFIX), "--cores", "2")
    done = clone.snakemake(*conda, *arguments, **SHELL, **environment)
    assert done.returncode == 0, done.stdout[-6000:]


def test_every_environment_installs_imports_and_is_its_own(clone, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('from PYTHONPATH')\n")
    run(clone, "--snakefile", "tests/conda/probe.smk", PYTHONPATH=str(tmp_path))
    found = {path.stem: json.loads(path.read_text()) for path in (clone.folder / "probe").glob("*.json")}
    assert {name: probe["not as pinned"] for name, probe in found.items()} == {"train": {}, "grade": {}, "stats": {}}
    assert {name: probe["visible"] for name, probe in found.items()} == {
        "train": ["torch"],
        "grade": ["lm_eval"],
        "stats": ["matplotlib"],
    }
    assert len({probe["prefix"] for probe in found.values()}) == 3
    for probe in found.values():
        assert Path(probe["prefix"]).parent == PREFIX
        assert probe["python"].startswith("3.11.")
        assert probe["variables"]["PIP_USER"] == "0"
        assert not {"PYTHONPATH", "CONDA_SHLVL"} & set(probe["variables"])


def test_conda_and_uv_give_the_same_bytes_in_different_folders(finished, tmp_path):
    folder = tmp_path / "through 'conda'"
    folder.mkdir()
    other = Clone(folder)
    run(other, "--quiet", "rules")
    assert results(other.folder) == results(finished.folder)
    assert other.planned() == {}  # without --sdm conda, and without .envs/
    shutil.rmtree(folder)
