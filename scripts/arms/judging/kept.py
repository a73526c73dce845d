"""What judges answered, kept by content, so that nothing that was paid for is asked again: by no job of any study.

One file for each answer, which is there whole or not at all, so jobs may be killed at any time and run side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from arms.job.files import canonical_json, sha256_bytes, write_json

FIELDS = {"text", "model", "fingerprint", "finish_reason", "prompt_tokens", "completion_tokens"}


def key_of(judge: dict, question: str, answer_a: str, answer_b: str) -> str:
    """What an answer is kept by: sha256 of the judge (asked and served model, prompt, parameters) and both answers in
    their order.
    """
    asked = {name: judge[name] for name in ("model", "served", "prompt", "parameters")}
    return sha256_bytes(canonical_json([asked, question, answer_a, answer_b]).encode("utf-8", "surrogatepass"))


class Kept:
    """The answers of one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """The file of one answer."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict | None:
        """An answer (FIELDS), or None; a file that was damaged from outside counts as none."""
        try:
            found = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.keys() >= FIELDS else None

    def put(self, key: str, reply: dict) -> None:
        """Keep an answer."""
        write_json(self.path(key), reply)

    @contextlib.contextmanager
    def alone(self, model: str, say: Callable[[str], None]) -> Iterator[None]:
        """Be the only job that asks a model: its limits hold for all jobs together, and no two ask the same.

        The lock is the kernel's, so it goes with its process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{sha256_bytes(model.encode())[:16]}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another job that asks {model}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                say(f"warning: {self.folder} knows no locks ({error}), so two jobs may ask the same at once")
            yield


class Ledger:
    """What a study has spent on one judge: a line for each answered request."""

    def __init__(self, folder: str | Path, name: str) -> None:
        self.path, self.lock = Path(folder) / f"{name}.spent.jsonl", threading.Lock()
        self.requests = self.tokens = 0
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):  # cut short by a kill
                    self.tokens += int(json.loads(line)["tokens"])
                    self.requests += 1

    def add(self, tokens: int) -> None:
        """One more answer."""
        with self.lock:
            self.requests += 1
            self.tokens += tokens
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f'\n{{"tokens": {tokens}}}')  # a line break first: the line before may be cut short
