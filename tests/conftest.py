"""A clone of the repository in a folder of its own, and the public command run in it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from forked import Forked
from warm_environments import warm_environments

from arms.job.files import sha256_file

ROOT = Path(__file__).parents[1]
SNAKEMAKE = ROOT / ".envs" / "driver" / "bin" / "snakemake"
SMOKE = "config/smoke.yaml"
FORKED = Forked("snakemake.cli")  # in the environment of the driver, whose tests are the only ones to use it


def pytest_collection_modifyitems(items):
    """Skip what is marked for `make test-all`, except there."""
    for item in items:
        if (mark := item.get_closest_marker("test_all")) and os.environ.get("SFT_VS_DPO_ALL_TESTS") != "1":
            item.add_marker(pytest.mark.skip(reason=f"make test-all: {mark.args[0]}"))


class Clone:
    """A working copy of the repository; its environments are the ones that `make setup` made."""

    environments = ROOT / ".envs"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".envs").symlink_to(self.environments)

    @classmethod
    def at(cls, folder: Path) -> "Clone":
        """A folder that is there already."""
        there = object.__new__(cls)
        there.folder = folder
        return there

    def snakemake(self, *arguments: str, config: str = SMOKE, **environment: str) -> subprocess.CompletedProcess:
        """Run snakemake with a configuration and some variables; its output is in `stdout`."""
        command = [str(SNAKEMAKE), *arguments, *(["--configfile", config] if config else [])]
        return FORKED.run(command, self.folder, {**os.environ, **environment}, together=True)

    def copy(self, folder: Path) -> "Clone":
        """The same with its results, in another folder, to be edited freely."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone.at(folder)

    def cold(self) -> "Clone":
        """The same, with every program started anew: for what is killed, measured or limited."""
        (self.folder / ".envs").unlink()
        (self.folder / ".envs").symlink_to(ROOT / ".envs")
        return self

    def planned(self, *arguments: str, config: str = SMOKE, **environment: str) -> dict[str, int]:
        """Job counts that a dry run plans, without `all`; empty when nothing is to be done."""
        done = self.snakemake("--dry-run", *arguments, "--quiet", "host", config=config, **environment)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return {}
        table = done.stdout[done.stdout.rindex("Job stats:") :]
        counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
        return {name: count for name, count in counts.items() if name not in ("all", "total")}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace `old`, which must be there, in a file."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1))


def results(folder: Path) -> dict[str, str]:
    """sha256 of everything that the smoke study made in a clone, but what holds times (logs, benchmarks, manifests).

    Nor checkpoints: those of a job that outlived its driver stay until the next success.
    """
    study = folder / "results" / "smoke"
    kept = (path for path in study.rglob("*") if path.is_file() and not path.name.endswith("manifest.json"))
    kept = (path for path in kept if not re.search(r"/checkpoints/|\.progress/", str(path)))
    names = {str(path.relative_to(study)): path for path in kept}
    return {name: sha256_file(path) for name, path in names.items() if not name.startswith(("logs/", "benchmarks/"))}


@pytest.fixture(scope="session", autouse=True)
def environments(request, tmp_path_factory):
    """Clones of the workflow tests start programs by tests/warm.py, unless `cold`; those of others start them anew."""
    if not any(item.path.is_relative_to(ROOT / "tests" / "workflow") for item in request.session.items):
        yield
        return
    with warm_environments(tmp_path_factory.mktemp("environments")) as folder:
        Clone.environments = folder
        yield


@pytest.fixture
def clone(tmp_path) -> Clone:
    """A fresh clone, in a folder whose name has a space and a quote."""
    folder = tmp_path / "a clone's folder"
    folder.mkdir()
    return Clone(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Clone:
    """A clone in which the smoke study has run to its report. Tests undo what they edit."""
    folder = tmp_path_factory.mktemp("finished")
    made = Clone(folder)
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    assert not [*folder.glob("results/smoke/*/*.progress"), *folder.glob("results/smoke/*/checkpoints")]
    return made
