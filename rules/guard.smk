"""Make every job independent of what the user's shell carries. Included first; see the reasons at each line."""

import os
import re

for name in list(os.environ):
    # An active conda environment makes `conda activate` swap PATH in place, behind a venv's bin: with `uv run snakemake`
    # in a conda-init shell every rule would silently run in the driver's venv instead of its own environment.
    if re.fullmatch(r"CONDA_(SHLVL|PREFIX(_\d+)?|DEFAULT_ENV|PROMPT_MODIFIER)", name):
        del os.environ[name]
os.environ.pop("PYTHONPATH", None)  # pip would see it when an environment is made, but the jobs do not
os.environ["PYTHONNOUSERSITE"] = "1"  # ~/.local would shadow the pinned packages
os.environ["PIP_USER"] = "0"
os.environ["PIP_REQUIRE_VIRTUALENV"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
