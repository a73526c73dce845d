"""Run a program in a process that has its libraries already: importing torch and TRL takes six seconds a time.

Each is forked from a process that has imported them and done nothing else. All other ways to start a program, with a
memory limit, in processes that are killed, in the workflow, start Python anew.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["datasets", "pandas", "peft", "trl.trainer.dpo_trainer", "trl.trainer.sft_trainer"])


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Like subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)."""
    with tempfile.TemporaryDirectory() as written:
        process = FORKED.Process(target=_become, args=(command, str(folder), written, dict(os.environ)))
        process.start()
        process.join()
        output = [Path(written, name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(command, process.exitcode, *output)


def _become(command: list[str], folder: str, written: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(os.path.join(written, name), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv = command
    sys.path[:] = [str(Path(command[0]).parent), *(path for path in sys.path if ".envs/pytest" not in path)]
    runpy.run_path(command[0], run_name="__main__")
