"""Memory that ran out: how to tell, and how to say what to do about it. Nothing here imports torch at its top."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from arms.job.files import UserError

MESSAGES = (
    "CUDA out of memory",  # torch's caching allocator, also as torch.cuda.OutOfMemoryError
    "CUDA error: out of memory",  # the driver, for what torch does not allocate itself
    "CUBLAS_STATUS_ALLOC_FAILED",  # the workspace of cuBLAS
    "DefaultCPUAllocator: can't allocate memory",  # torch on a CPU, and next its words on other systems
    "DefaultCPUAllocator: not enough memory",
)


class OutOfMemory(Exception):
    """Memory ran out, on a GPU or under a limit of the process; the text is that of the exception that said so."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or under a limit of the process.

    bitsandbytes allocates through torch. Its own kernels print "Error out of memory at line ..." and end the process,
    and its "cublasLt ran into an error!" has other causes too (cards without int8 matrix products): neither counts.
    """
    return isinstance(error, MemoryError) or any(message in str(error) for message in MESSAGES)


@contextlib.contextmanager
def out_of_memory(explain: Callable[[str], Exception] = OutOfMemory) -> Iterator[None]:
    """If memory runs out inside the block, raise explain(message) instead; other exceptions pass.

    message: the exception's type and the beginning of its text.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = f"{type(error).__name__}: {error}"[:500]
    else:
        return
    raise explain(message) from None


def naming_the_cure(key: str, size: int) -> contextlib.AbstractContextManager[None]:
    """`out_of_memory` with a UserError: lower `key` of the config, which is `size`."""
    cure = "lower it" if size > 1 else "lower tokens.max_length, or set model.precision to nf4,"
    return out_of_memory(
        lambda _: UserError(
            f"out of memory on {device()} with {key} {size}; {cure} in the config (`snakemake plan_memory` says what "
            "each choice needs)"
        )
    )


def device() -> str:
    """The device that memory ran out on, with its memory, in words."""
    import torch

    if not torch.cuda.is_available():
        return "a CPU"
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
