"""Run a program and watch how much memory it takes, as Linux counts it in /proc/PID/status.

VmData is the data segment of the moment, the one that `prlimit --data` limits. How much a program takes depends on the
processor: libraries allocate otherwise for other instructions or more cores. So a test that needs one program to fit
and another not to watches both without a limit, and sets one between the two.
VmHWM is the most resident memory so far. Not ru_maxrss: Linux hands a child the peak of the process that started it, in
tests one with torch and models.
"""

import contextlib
import re
import subprocess
import threading
import time
from pathlib import Path


def watched(command: list[str], count: str = "VmData", limit: int | None = None, **options: object):
    """(subprocess.run(command, capture_output=True, text=True, **options), the largest `count` seen in bytes).

    limit: of the data segment, in bytes.
    """
    prefix = ["prlimit", f"--data={limit}"] if limit else []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process, most = subprocess.Popen([*prefix, *command], **pipes, **options), 0

    def watch() -> None:
        nonlocal most
        while process.returncode is None:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max([most, *map(int, re.findall(rf"{count}:\s+(\d+)", status))])
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    written = process.communicate()
    watching.join()
    return subprocess.CompletedProcess(command, process.returncode, *written), 1024 * most
