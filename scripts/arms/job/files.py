"""Files: canonical JSON, checksums, atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from study.checksums import sha256_file as sha256_file

TELL = "SFT_VS_DPO_TELL"  # file descriptor through which one of several processes tells its error (arms.job.processes)


class UserError(Exception):
    """Something the user can mend. The message names the file, key or row, and the cure; no traceback is shown."""


def exit_with_message(main: Callable[[], None]) -> None:
    """Run a program's `main` and end the process; a UserError becomes one clear line and exit code 1.

    The exit code stands even if nobody reads the output any more.
    Ends without Python's teardown: Arrow's threads sometimes abort the process there (pyarrow 16 on a busy machine,
    once in a dozen runs), and a job that has written everything would count as failed.
    """
    code = 0
    try:
        main()
    except UserError as error:
        _tell(f"error: {error}")
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise  # a text, which Python prints, or nothing
        code = end.code
    except Exception:
        _tell(traceback.format_exc().strip())
        raise
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


def _tell(message: str) -> None:
    """Whoever started this process beside others says the first one's message, once, and ends them all.

    Told before this process's connections close, so what the others then complain of comes second.
    """
    if TELL in os.environ:
        os.write(int(os.environ[TELL]), message.encode()[-4000:] + b"\0")  # at most PIPE_BUF: written as one piece
        time.sleep(60)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    The temporary name keeps the target's suffix, since writers choose their format by it.
    """
    target = Path(target)
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


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: object) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Read one JSON object; UserError if the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
