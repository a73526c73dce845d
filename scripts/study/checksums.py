"""Files: one spelling of a path, what every writing to a file changes, sha256 of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path


def sha256_file(path: str | Path, one: Callable[[Path], str] | None = None) -> str:
    """Hexadecimal sha256 of a file, or of a folder: the hash over its sorted (relative name, sha256) pairs.

    one: hashes a single file of a folder, if not by reading it. Raises OSError.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".snakemake_timestamp")
        listing = {str(p.relative_to(path)): (one or sha256_file)(p) for p in files}
        text = json.dumps(listing, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def written(path: str | Path) -> list[int]:
    """What every writing to a file changes: inode, size, mtime, ctime (in ns; no program can set the last)."""
    stat = os.stat(path)
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def portable(path: str | Path) -> str:
    """A path relative to the working directory if it lies inside, so that a study may be moved; else absolute."""
    absolute = os.path.abspath(path)
    inside = absolute.startswith(os.path.join(os.getcwd(), ""))
    return os.path.relpath(absolute) if inside else absolute
