"""A clone of the repository in a folder of its own, and the public command run in it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEMAKE = ROOT / ".envs" / "driver" / "bin" / "snakemake"
SMOKE = "config/smoke.yaml"


class Clone:
    """A working copy of the repository; its environments are the ones that `make setup` made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".envs").symlink_to(ROOT / ".envs")

    def snakemake(self, *arguments: str, config: str = SMOKE, path: str | None = None) -> subprocess.CompletedProcess:
        """Run snakemake with a configuration; its output is in `stdout`."""
        environment = {**os.environ, "PATH": path or os.environ["PATH"]}
        command = [str(SNAKEMAKE), *arguments, *(["--configfile", config] if config else [])]
        return subprocess.run(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def copy(self, folder: Path) -> "Clone":
        """The same with its results, in another folder, to be edited freely."""
        shutil.copytree(self.folder, folder, symlinks=True)
        copied = object.__new__(Clone)
        copied.folder = folder
        return copied

    def planned(self, config: str = SMOKE) -> dict[str, int]:
        """Job counts that a dry run plans, without `all`; empty when nothing is to be done."""
        done = self.snakemake("--dry-run", "--quiet", "host", config=config)
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
    return made
