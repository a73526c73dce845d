"""sha256 of the files that a study reads from outside, without reading 60 GB of weights at each start."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from study.checksums import sha256_file, written

LARGE = 2**30  # bytes from which on hashing is announced
COARSE = 3.0  # seconds: a file system may keep times in steps of two


class Hashes:
    """sha256 of files, read once and remembered for as long as nobody can have written to them.

    An entry holds for one path, inode, size, mtime and ctime. No program can set a ctime, so `cp -p`, `mv`, `rsync -a`
    and `touch -d` are seen. A file that was written in the last seconds (COARSE), or in the future of a clock that was
    set back, may be written again within the same tick: it is hashed, and not remembered.
    """

    def __init__(self, store: Path, say: Callable[[str], object] = print) -> None:
        self.store, self.say = store, say
        self.known: dict[str, list] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self.known = dict(json.loads(store.read_text(encoding="utf-8")))
        self.changed = False

    def __call__(self, path: str | Path) -> str:
        """Hexadecimal sha256 of a file or folder as it is now. Raises OSError."""
        path = Path(path)
        if path.is_dir():
            return sha256_file(path, self)
        key, stat, facts = os.path.abspath(path), path.stat(), written(path)
        known = self.known.get(key)
        if isinstance(known, list) and known[0] == facts:
            return known[1]
        if stat.st_size >= LARGE:
            self.say(f"Hashing {path} ({stat.st_size / LARGE:.0f} GiB); as long as it stays as it is, only once.")
        started, digest = time.time(), sha256_file(path)
        if max(stat.st_mtime, stat.st_ctime) + COARSE < started:
            self.known[key] = [facts, digest]
            self.changed = True
        return digest

    def save(self) -> None:
        """Keep what is known for the next start."""
        if self.changed:
            handle, name = tempfile.mkstemp(dir=self.store.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(self.known, stream)
            os.replace(name, self.store)
            self.changed = False
