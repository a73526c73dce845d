"""Make every job independent of what the user's shell carries. Included first; see the reasons at each line."""

import contextlib
import fcntl
import glob
import os
import re

ENVIRONMENT = os.environ

for name in list(ENVIRONMENT):
    # An active conda environment makes `conda activate` swap PATH in place, behind a venv's bin: with `uv run snakemake`
    # in a conda-init shell every rule would silently run in the driver's venv instead of its own environment.
    if re.fullmatch(r"CONDA_(SHLVL|PREFIX(_\d+)?|DEFAULT_ENV|PROMPT_MODIFIER)", name):
        del ENVIRONMENT[name]
ENVIRONMENT.pop("PYTHONPATH", None)  # pip would see it when an environment is made, but the jobs do not
ENVIRONMENT.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # with it each job would compile its imports again: 15 s for torch and TRL
ENVIRONMENT.update(
    PYTHONNOUSERSITE="1",  # ~/.local would shadow the pinned packages
    PIP_USER="0",
    PIP_REQUIRE_VIRTUALENV="0",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_DISABLE_TELEMETRY="1",
    TRANSFORMERS_VERBOSITY="error",  # notices about token counts and fingerprints say nothing about a study
    DATASETS_VERBOSITY="error",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)

# A killed Snakemake leaves its locks behind, and the next one would refuse to start. This lock is the kernel's and goes
# with its process, so whoever has it alone may clear what a dead one left. Others share it: several studies may run side
# by side in one folder, and Snakemake's own locks keep their files apart.
ALONE = False
if workflow.is_main_process:
    os.makedirs(".snakemake", exist_ok=True)
    ALIVE = open(".snakemake/alive.lock", "w")
    with contextlib.suppress(OSError):  # somebody else has it, or the file system knows no such locks
        fcntl.flock(ALIVE, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ALONE = True
        for stale in glob.glob(".snakemake/locks/*"):
            os.remove(stale)
    with contextlib.suppress(OSError):
        fcntl.flock(ALIVE, fcntl.LOCK_SH)
