"""int8 and nf4: how bitsandbytes is asked for them, whether it can work here, and what its layers compute on a CPU."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from arms.job.files import UserError
from arms.stacks import stack

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

QUANTIZED = ("int8", "nf4")
# It warns, when it is imported, that the package `kernels` is absent, which has a product that `hold` leaves out.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def require(precision: str) -> None:
    """UserError unless bitsandbytes can quantize here: on a GPU, or on a CPU where the stack's version does."""
    import torch

    if not (torch.cuda.is_available() or stack.QUANTIZES_ON_CPU):
        raise UserError(
            f"model.precision is {precision!r}, which needs a CUDA GPU (bitsandbytes 0.43.3), and none is visible; "
            "run this rule on a GPU node (--profile slurm), set stack: current, which quantizes on a CPU too, or "
            "set model.precision to 'fp32'"
        )
    try:
        import bitsandbytes

        version, native = bitsandbytes.__version__, bitsandbytes.cextension.lib
    except Exception as error:  # an import of native code fails in many ways
        version, native, why = "", None, f": {type(error).__name__}: {' '.join(str(error).split())}"
    else:
        why = ""
    if "_lib" not in getattr(native, "__dict__", {}):  # None, or a stand-in that fails when it is used
        raise UserError(
            f"model.precision is {precision!r}, and the native library of bitsandbytes {version}".rstrip()
            + f" does not load here{why}; `python -m bitsandbytes` explains; install its environment again, or set "
            "model.precision to 'bf16'"
        )


def settings(precision: str) -> BitsAndBytesConfig:
    """What transformers is to have bitsandbytes do: int8 with its outliers apart, or nf4 with products in bfloat16."""
    import torch
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def hold(base: PreTrainedModel) -> None:
    """Have bitsandbytes' layers of a base on a CPU compute in evaluation, too, what they compute in training.

    By themselves bitsandbytes 0.50's do not, so that a policy would not be what its reference table is of. int8 rounds
    its inputs as well, but only in evaluation. nf4, on processors with AVX-512 BF16, packs its weights at the first
    pass in evaluation and from then on multiplies by a kernel without a gradient: all training afterwards would get
    wrong gradients, with no more than a warning. On a GPU both modes compute the same.

    UserError for nf4 layers whose rows end within a block: 0.50.2 takes such weights apart wrongly on a CPU.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, layer in base.named_modules():
        if isinstance(layer, Linear4bit) and layer.in_features % layer.weight.blocksize:
            raise UserError(
                f"model.precision 'nf4' is not for this model on a CPU: {name} has {layer.in_features} inputs, no "
                f"multiple of {layer.weight.blocksize}, and bitsandbytes would compute with other weights than it "
                "stored; set model.precision to 'int8' or 'bf16'"
            )
        if isinstance(layer, Linear4bit | Linear8bitLt):
            layer.train()
            setattr(layer, "train", lambda mode=True: None)  # noqa: B010 (a method, which mypy would not let be set)
