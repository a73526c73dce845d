"""What the package reads and writes: one error for all faulty input, canonical JSON, files that are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class ContractError(Exception):
    """Input that breaks the data contract. The message, one line, names the file, the column and the key."""

    def __init__(self, message: str) -> None:
        # names are the user's own text, and may hold line breaks
        shown = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in message)
        super().__init__("".join(shown))


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """What is read in this block has the expected parts; else ContractError: `what`, and the part that is amiss."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        part = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ContractError(f"{what} ({part})") from None


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: object) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def read_json(path: str | Path) -> dict:
    """Read one JSON object; ContractError if the file is missing or holds anything else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ContractError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ContractError(f"{path}: expected a JSON object")
    return found


def read_parquet(path: str | Path) -> pa.Table:
    """Read a whole table; ContractError if the file is missing or is not parquet."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path}: not a readable parquet file ({error})") from None


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: object) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
