"""A user's grading functions, run apart: in a process of their own, each call with a time limit.

What they print goes to the log, an endless loop or an exit ends that process and not the job. They are the user's own
code, with all that the user may do: apart does not mean locked in.

    python -m arms.data.functions FILE.py      reads one JSON object a line, writes one a line
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from arms.job.files import UserError

SCRIPTS = Path(__file__).resolve().parents[2]
LOADING = 60.0  # seconds that a file may take to load


class FunctionFailed(Exception):
    """What a function did instead of saying True or False."""


class Silent(Exception):
    """The process says nothing more."""


class Functions:
    """The functions of one file. names: those that it defines. UserError if the file cannot be loaded."""

    def __init__(self, path: str, seconds: float) -> None:
        """seconds: that one call may take."""
        self.path, self.seconds = path, seconds
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arms.data.functions", self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            told = self._answer(LOADING)
        except Silent as error:
            told = {"failed": f"it {error}"}
        if "names" not in told:
            self.close()
            raise UserError(f"{self.path} (data.graders in the config): cannot be loaded: {told['failed']}; correct it")
        self.names: list[str] = told["names"]

    def call(self, name: str, prompt: str, answer: str, arguments: dict[str, Any]) -> bool:
        """name(prompt, answer, **arguments). FunctionFailed if it raises, ends, takes too long, or says neither."""
        assert self.process.stdin is not None
        request = json.dumps({"name": name, "prompt": prompt, "answer": answer, "arguments": arguments})
        self.process.stdin.write(request.encode() + b"\n")
        self.process.stdin.flush()
        try:
            told = self._answer(self.seconds)
        except Silent as error:
            self.close()
            self._start()  # the next answer may be an easier one
            raise FunctionFailed(f"{name} {error}") from None
        if "failed" in told:
            raise FunctionFailed(f"{name} raised {told['failed']}")
        if not isinstance(told["value"], bool):
            raise FunctionFailed(f"{name} gave {told['shown']}, not True or False")
        return told["value"]

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line from the process. Raises Silent."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise Silent(f"took more than {seconds:g} s")
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise Silent("ended Python")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Load the file, say what functions it has, then call them as asked. What they print is sent to the log."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as told:
        os.dup2(2, 1)  # prints, also those of C code
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        try:
            functions = load(sys.argv[1])
        except BaseException as error:  # a file may raise anything, SystemExit too
            return say(told, failed=words(error))
        say(told, names=sorted(functions))
        for line in sys.stdin:
            request = json.loads(line)
            try:
                value = functions[request["name"]](request["prompt"], request["answer"], **request["arguments"])
            except Exception as error:
                traceback.print_exc()
                say(told, failed=words(error))
            else:
                shown = f"{type(value).__name__} {value!r:.60}"
                say(told, value=value if isinstance(value, bool) else None, shown=shown)
    return None


def load(path: str) -> dict[str, Any]:
    """The functions that a file defines; those whose name begins with _ are its own."""
    spec = importlib.util.spec_from_file_location("graders", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    found = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    return {name: value for name, value in found.items() if getattr(value, "__module__", None) == "graders"}


def words(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def say(told: IO[str], **what: Any) -> None:
    """One line of JSON."""
    told.write(json.dumps(what) + "\n")
    told.flush()


if __name__ == "__main__":
    main()
