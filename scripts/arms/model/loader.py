"""A base model that a function of the user's loads, in place of transformers' AutoModelForCausalLM (`model.loader`).

The function gets (folder, precision, device): the model's folder, "fp32" or "bf16", and where its weights are to be.
What it returns is used only if nobody could tell it from what transformers loads: a PreTrainedModel with the same
parameters, to the byte, whose forward pass gives the same log-probabilities. So a loader may read faster, from
elsewhere, or in another order; one that merges an adapter, converts weights or patches the forward pass is an error
before anything trains. Its file is one of the model's own from then on: another byte in it is another model.
"""

from __future__ import annotations

import gc
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, canonical_json, sha256_bytes
from arms.model.architecture import read_config
from arms.stacks import stack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LOADER = "loader.py"  # the user's file, in the model's folder
TOLERANCE = 1e-4  # nats per token in fp32, where kernels that round otherwise come 1e-5 apart
CURE = "return what AutoModelForCausalLM.from_pretrained(folder) makes, or leave model.loader out"


def load_with(folder: Path, function: str, precision: str, device: str) -> PreTrainedModel:
    """What the loader of a model's folder returns. UserError if it raises, or returns no PreTrainedModel."""
    from transformers import PreTrainedModel

    try:
        load: Callable | None = runpy.run_path(str(folder / LOADER)).get(function)
        if load is None:
            raise UserError(f"model.loader: its file has no function {function}; name one that is there")
        model = load(str(folder), precision, device)
    except UserError:
        raise
    except Exception as error:
        where = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"model.loader: {function} raised {where}; correct it, or leave model.loader out") from None
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"model.loader: {function} returned a {type(model).__name__}, not a PreTrainedModel; {CURE}")
    return model


def load_known(folder: Path, loader: dict, precision: str, device: str) -> PreTrainedModel:
    """The same, once `check_loader` has looked at it. loader: the card's entry. UserError if its weights are others."""
    model = load_with(folder, loader["function"], precision, device)
    if _digest(parameters(model)) != loader["parameters_sha256"]:
        raise UserError(f"model.loader: {loader['function']} loads other weights than when it was checked; {CURE}")
    return model


def check_loader(folder: Path, function: str, precision: str) -> dict[str, str]:
    """Compare what the loader makes with what transformers makes, one after the other, on the CPU.

    Returns the card's entry: function, and the digest of the parameters. Raises UserError naming what differs. Our own
    loading comes first, since a loader may patch a class of transformers.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    stock = AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=read_config(folder),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        **{stack.DTYPE: dtype},
    )
    expected, wanted = parameters(stock), logps(stock)
    del stock
    gc.collect()
    model = load_with(folder, function, precision, "cpu")
    found = parameters(model)
    for problem, names in (
        ("lacks", expected.keys() - found),
        ("has, unlike transformers' own,", found.keys() - expected),
    ):
        if names:
            raise UserError(f"model.loader: what {function} returns {problem} {_named(names)}; {CURE}")
    moved = {name for name, digest in expected.items() if found[name] != digest}
    if moved:
        raise UserError(
            f"model.loader: {function} changes weights: {_named(moved)}. Has it merged an adapter, or converted them? "
            + CURE
        )
    difference = (logps(model) - wanted).abs().max().item()
    if not difference <= TOLERANCE:
        raise UserError(
            f"model.loader: with {function} log-probabilities differ by {difference:.4f} nats per token from those of "
            f"transformers, with the same weights: its forward pass is another; {CURE}"
        )
    return {"function": function, "parameters_sha256": _digest(found)}


def parameters(model: PreTrainedModel) -> dict[str, str]:
    """Name -> digest of dtype, shape and bytes of each parameter."""
    import torch

    def digest(tensor: torch.Tensor) -> str:
        values = tensor.detach().cpu().contiguous()
        facts = f"{values.dtype} {tuple(values.shape)}\n".encode()
        return sha256_bytes(facts + values.flatten().view(torch.uint8).numpy().tobytes())

    return {name: digest(parameter) for name, parameter in model.named_parameters()}


def logps(model: PreTrainedModel) -> torch.Tensor:
    """Log-probabilities, in fp32, (rows, tokens, vocabulary) of some rows of random ids; `model` is fp32 afterwards."""
    import torch

    size = model.config.vocab_size
    ids = torch.randint(size // 10, size, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.float().eval()(input_ids=ids, use_cache=False).logits.log_softmax(-1)


def _digest(found: dict[str, str]) -> str:
    return sha256_bytes(canonical_json(found).encode())


def _named(names: set[str]) -> str:
    first, *others = sorted(names)
    return first + f" and {len(others)} more parameters" * bool(others)
