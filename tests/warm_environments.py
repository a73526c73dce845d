"""Environments whose programs run in processes that have their libraries already (tests/warm.py)."""

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from study.instructions import INSTRUCTIONS

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    "train": ["datasets", "pandas", "peft", "trl.trainer.dpo_trainer", "trl.trainer.sft_trainer"],
    "train-current": ["datasets", "pandas", "peft", "transformers.trainer"],
    "stats": ["pandas", "scipy.stats", "matplotlib.pyplot", "jinja2", "pyarrow.parquet"],
    "grade": ["pandas", "pyarrow.parquet"],
}
WARM = str(ROOT / "tests" / "warm.py")


@contextlib.contextmanager
def warm_environments(folder: Path) -> Iterator[Path]:
    """Fill a folder that is like .envs/, but for the python of LIBRARIES.

    It is that of the instructions of the smoke study; a program that asks for others starts Python anew.
    """
    variables = ["OMP_NUM_THREADS", *INSTRUCTIONS["portable"]]
    serving = []
    try:
        for real in (ROOT / ".envs").iterdir():
            if real.name not in LIBRARIES:
                (folder / real.name).symlink_to(real)
                continue
            python, at = str(real / "bin" / "python"), str(folder / f"{real.name}.socket")
            link_all(real, folder / real.name, but="bin")
            link_all(real / "bin", folder / real.name / "bin", but="python")
            words = [str(ROOT / ".envs" / "driver" / "bin" / "python"), "-IS", WARM, "ask", at, python]
            shim = folder / real.name / "bin" / "python"
            shim.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            shim.chmod(0o755)
            command = [python, WARM, "serve", at, ",".join(variables), *LIBRARIES[real.name]]
            serving.append(subprocess.Popen(command, env={**os.environ, **INSTRUCTIONS["portable"]}))
            wait_for(Path(at), serving[-1])
        yield folder
    finally:
        for process in serving:
            process.kill()
            process.wait()


def link_all(folder: Path, to: Path, but: str) -> None:
    """A folder like another one, but for one name."""
    to.mkdir()
    for path in folder.iterdir():
        if path.name != but:
            (to / path.name).symlink_to(path)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until `process` has made its socket."""
    while not path.exists():
        assert process.poll() is None, "a process that programs are forked from has ended"
        time.sleep(0.05)
