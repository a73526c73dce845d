"""Every job independent of what the user's shell carries, and one driver alone with the locks of dead ones."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import TextIO

from study.errors import ConfigError
from study.stacks import STACKS

FIXED = {
    "PYTHONNOUSERSITE": "1",  # ~/.local would shadow the pinned packages
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",  # notices about token counts and fingerprints say nothing about a study
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def clean(environ: MutableMapping[str, str]) -> None:
    """Take from `environ` what would reach into the jobs, and fix what decides their packages and their noise."""
    for name in list(environ):
        # An active conda environment makes `conda activate` swap PATH in place, behind a venv's bin: with `uv run
        # snakemake` in a conda-init shell every rule would silently run in the driver's venv instead of its own.
        if re.fullmatch(r"CONDA_(SHLVL|PREFIX(_\d+)?|DEFAULT_ENV|PROMPT_MODIFIER)", name):
            del environ[name]
    environ.pop("PYTHONPATH", None)  # pip would see it when an environment is made, but the jobs do not
    # with it each job would compile its imports again: 15 s for torch and TRL
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ.update(FIXED)


def of_study(config: dict, instructions: dict[str, dict[str, str]]) -> dict[str, str]:
    """Variables that a study's configuration asks for. None is a setting of a job, so none makes anything run again.

    instructions: variables of each choice of cpu_instructions.
    """
    chosen = {
        **instructions[config["cpu_instructions"]],
        "SFT_VS_DPO_ALLOW_OFF_LOCK": str(int(config["allow_off_lock"])),
    }
    if not config["gpus"]:
        chosen["CUDA_VISIBLE_DEVICES"] = ""  # a study on CPUs uses no GPU, also where there is one
    return chosen


def refuse_other_stack(results: str, stack: str) -> None:
    """ConfigError if what lies in `results` was made on another stack."""
    try:
        manifest = json.loads(Path(results, "model", "manifest.json").read_text(encoding="utf-8"))
        made_on = {f"{name}.yaml": stack for stack, name in STACKS.items()}.get(manifest["lock"]["file"], stack)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if made_on != stack:
        raise ConfigError(
            f"{results} was made with stack: {made_on}, and the configuration says {stack}. A study never mixes "
            f"stacks: change `study`, its name, or move {results} away"
        )


def require_installed(folder: Path, stack: str) -> None:
    """ConfigError unless `make setup` has put every environment that a study on `stack` uses into `folder`."""
    missing = [name for name in (STACKS[stack], "grade", "stats", "provenance") if not (folder / name).is_dir()]
    if missing:
        raise ConfigError(
            f"the rules' environments are not installed ({', '.join(missing)} missing in .envs/): "
            f"run `make setup{'' if stack == 'pinned' else f' STACK={stack}'}`, or add --sdm conda if you have "
            "conda >= 24.7.1"
        )


class Alive:
    """The sign that a driver lives in this folder; `alone` if it is the only one.

    A killed Snakemake leaves its locks behind, and the next one would refuse to start. This lock is the kernel's and
    goes with its process, so whoever has it alone may clear what a dead one left. Others share it: several studies may
    run side by side in one folder, and Snakemake's own locks keep their files apart.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.file: TextIO = (folder / "alive.lock").open("w")
        self.alone = False
        with contextlib.suppress(OSError):  # somebody else has it, or the file system knows no such locks
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.alone = True
            for stale in folder.glob("locks/*"):
                stale.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(self.file, fcntl.LOCK_SH)
