"""Run a Python program in a process that has its libraries already: importing torch and TRL takes four to six seconds a
time, importing Snakemake one.

Each process is forked from one that has imported the libraries and done nothing else; its module path is that of the
program alone. Tests that kill, that limit memory, and that take a command from a document start Python anew, and so do
those on SLURM and through conda.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


class Forked:
    """Where programs of one environment, that of this interpreter, are forked from."""

    def __init__(self, *libraries: str) -> None:
        self.context, self.libraries = multiprocessing.get_context("forkserver"), list(libraries)

    def run(self, command: list[str], folder: Path, environment: dict[str, str], together: bool = False):
        """Like subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True).

        together: stderr goes to stdout, as with stderr=subprocess.STDOUT.
        """
        self.context.set_forkserver_preload(self.libraries)  # of the one server that a process has
        with tempfile.TemporaryDirectory() as written:
            names = ("both", "both") if together else ("stdout", "stderr")
            files = [str(Path(written, name)) for name in names]
            process = self.context.Process(target=write_into, args=(files, command, str(folder), environment))
            process.start()
            process.join()
            output = [Path(file).read_text() for file in files]
        return subprocess.CompletedProcess(command, process.exitcode, output[0], None if together else output[1])


def write_into(files: list[str], *of_become: object) -> None:
    """`become`, with output into files."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    become(*of_become)


def become(command: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the program `command`, in the process that was forked."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    interpreter = (sys.prefix, sys.base_prefix)
    sys.path[:] = [str(Path(command[0]).parent), *(path for path in sys.path if path.startswith(interpreter))]
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
