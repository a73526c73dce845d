"""The CPU: how many threads, and which instructions the libraries may use.

Libraries choose their code by the processor, and sums in another order have other last bits, which training amplifies.
study/engine.py sets the variables below before a job's Python starts (the libraries read them when they are loaded).
"""

from __future__ import annotations

import os

from arms.job.files import UserError

AVX512 = "AVX512F AVX512CD AVX512_KNL AVX512_KNM AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": AVX512,
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
# Environment variables of each value of the configuration's cpu_instructions.
INSTRUCTIONS = {
    "native": {},
    # Bytes are equal on x86-64 processors of one vendor: MKL takes other code on Intel than on AMD.
    "avx2": AVX2,
    # Bytes are equal on all x86-64 processors with AVX2. MKL's matrix products take 2.5 times as long.
    "portable": {**AVX2, "MKL_CBWR": "COMPATIBLE"},
}


def set_cpu(threads: int, instructions: str) -> None:
    """Use `threads` CPU threads, and require that the libraries were started with `instructions`.

    instructions: a key of INSTRUCTIONS. Results do not depend on the number of threads. Raises UserError.
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
