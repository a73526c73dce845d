"""The CPU: how many threads, and that the libraries were started with the instructions that the config names."""

from __future__ import annotations

import os

from arms.job.files import UserError
from study.instructions import INSTRUCTIONS


def set_cpu(threads: int, instructions: str) -> None:
    """Use `threads` CPU threads, and require that the libraries were started with `instructions`.

    instructions: a key of study.instructions.INSTRUCTIONS. Results do not depend on the number of threads. Raises
    UserError.
    """
    import torch

    torch.set_num_threads(threads)
    missing = {name: value for name, value in INSTRUCTIONS[instructions].items() if os.environ.get(name) != value}
    if missing:
        settings = " ".join(f"{name}={value!r}" for name, value in missing.items())
        raise UserError(
            f"cpu_instructions is {instructions!r}, but the program was not started with {settings}; set these "
            "environment variables (the workflow does)"
        )
    capability = torch.backends.cpu.get_cpu_capability()
    if instructions != "native" and capability != "AVX2":
        raise UserError(
            f"cpu_instructions is {instructions!r}, but this processor offers PyTorch only {capability}; "
            "run on one with AVX2, or set cpu_instructions to 'native'"
        )
