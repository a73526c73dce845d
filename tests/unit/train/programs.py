"""Run a program of the training environment in a process that has its libraries already (tests/forked.py)."""

import os
import subprocess
from pathlib import Path

from forked import Forked

FORKED = Forked("datasets", "pandas", "peft", "trl.trainer.dpo_trainer", "trl.trainer.sft_trainer")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Like subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)."""
    return FORKED.run(command, folder, dict(os.environ))
