"""Fake tensors: the bytes of all that operations make, and layers that allocate what bitsandbytes' kernels would.

Fake tensors have shapes, dtypes and lifetimes but no data. arms/memory/predict.py says what is predicted with them.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel

ABSMAX_BLOCK = 64  # weights that share one fp32 scale in nf4


def storages(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of `tensors`, each counted once (a tied head is the embedding)."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


class Tracker(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed, and keeps the worst moment.

    Operations without fake tensors run for real (the indices of a batch, whose values decide shapes). A tensor whose
    last dimension is `vocab_size` counts as logits, all others as activations. ignored: storages counted elsewhere.
    """

    def __init__(self, vocab_size: int, ignored: list[torch.Tensor]) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.kind: dict[int, str] = {tensor.untyped_storage()._cdata: "" for tensor in ignored}
        self.now = dict.fromkeys(("activations", "logits", "gradients"), 0)
        self.total, self.most, self.worst = 0, 0, dict(self.now)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.prim.device.default:
            return op(*args)
        inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        if op is torch.ops.aten._local_scalar_dense.default and isinstance(inputs[0], FakeTensor):
            return 0  # a metric's .item(): any number will do
        if op is torch.ops.aten.index.Tensor:
            args = (args[0], [part for index in args[1] for part in self._as_numbers(index)])
        real = inputs and not any(isinstance(tensor, FakeTensor) for tensor in inputs)
        with unset_fake_temporarily() if real else contextlib.nullcontext():
            result = op(*args, **(kwargs or {}))
        temporary = inputs[0].nbytes if op is torch.ops.aten.logsumexp.default else 0
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor):
                self._add(value)
        if self.total + temporary > self.most:
            self.most = self.total + temporary
            self.worst = {**self.now, "logits": self.now["logits"] + temporary}
        return result

    @staticmethod
    def _as_numbers(index):
        """A boolean index as row numbers: the values of a mask are real, so the shape of what it selects is known."""
        if index is None or index.dtype != torch.bool:
            return [index]
        with unset_fake_temporarily():
            return list(index.nonzero(as_tuple=True))

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.kind:
            return
        self.kind[key] = "logits" if tensor.shape[-1:] == (self.vocab_size,) else "activations"
        self.now[self.kind[key]] += size
        self.total += size

        def freed() -> None:
            self.now[self.kind.pop(key)] -= size
            self.total -= size

        weakref.finalize(storage, freed)

    def gradient(self, parameter: nn.Parameter) -> None:
        """From now on, what `parameter.grad` holds counts as gradients."""
        storage = parameter.grad.untyped_storage()
        kind = self.kind[storage._cdata]
        if kind in ("activations", "logits"):
            self.now[kind] -= storage.nbytes()
            self.now["gradients"] += storage.nbytes()
            self.kind[storage._cdata] = "gradients"


class Int8Product(torch.autograd.Function):
    """What bitsandbytes 0.43.3 allocates and keeps for one product with an int8 weight (MatMul8bitLt).

    It keeps the input and its transposed int8 copy as attributes of the node, out of reach of the hooks with which
    checkpointing without re-entry frees what is saved.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        """x times the transposed weight, with all that is made on the way."""
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        quantised, transposed = torch.empty_like(half, dtype=torch.int8), torch.empty_like(half, dtype=torch.int8)
        del half
        tiled = torch.empty_like(quantised)
        product = rows.new_empty(len(rows), len(weight), dtype=torch.int32)
        result = torch.empty_like(product, dtype=torch.float16).to(x.dtype)
        if bias is not None:
            result.add_(bias)
        ctx.weight = weight
        ctx.tensors = (transposed, rows)
        del tiled, product
        return result.view(*x.shape[:-1], -1).clone()

    @staticmethod
    def backward(ctx, gradient):
        """The input's gradient, from the weight in the input's dtype."""
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        half = rows.to(torch.float16)
        kept = torch.empty_like(half, dtype=torch.int8), torch.empty_like(half, dtype=torch.int8)
        del half
        untiled = torch.empty_like(ctx.weight)
        result = rows @ untiled.to(rows.dtype)
        del kept
        return result.view(*gradient.shape[:-1], -1), None, None


class Nf4Product(torch.autograd.Function):
    """What bitsandbytes 0.43.3 allocates for one product with an nf4 weight (MatMul4Bit): the weight in bfloat16."""

    @staticmethod
    def forward(ctx, x, shape, bias):
        """x times the transposed weight, which is kept only as nf4."""
        ctx.shape = shape
        return nn.functional.linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx, gradient):
        """The input's gradient, from the weight in bfloat16 once more."""
        return gradient @ gradient.new_empty(ctx.shape), None, None


class HeldInt8Product(Nf4Product):
    """What bitsandbytes 0.50 allocates and keeps on a CPU, in training: the weight in the input's dtype; the input."""

    @staticmethod
    def forward(ctx, x, shape, bias):
        """x times the transposed weight, which is kept only as int8."""
        ctx.tensors = (x,)
        return Nf4Product.forward(ctx, x, shape, bias)


def quantised(base: PreTrainedModel, precision: str, device: str) -> None:
    """Replace the linear layers of a fake model by what bitsandbytes would store; embeddings, norms and head stay.

    They are of bitsandbytes' own classes, so that PEFT puts its own layers for them on top. device: "cpu" or "cuda".
    """
    import bitsandbytes
    from transformers.pytorch_utils import Conv1D

    class Int8(bitsandbytes.nn.Linear8bitLt):
        def forward(self, x):
            if device == "cpu":
                return HeldInt8Product.apply(x, self.weight.shape, self.bias)
            return Int8Product.apply(x, self.weight, self.bias)

    class Nf4(bitsandbytes.nn.Linear4bit):
        def forward(self, x):
            half = x.to(torch.bfloat16)
            return Nf4Product.apply(half, (self.out_features, self.in_features), self.bias).to(x.dtype)

    def replaced(layer: nn.Module) -> nn.Module:
        shape = layer.weight.shape[::-1] if isinstance(layer, Conv1D) else layer.weight.shape
        kind = Int8 if precision == "int8" else Nf4
        new: Any = kind.__new__(kind)
        nn.Module.__init__(new)  # bitsandbytes' own would turn the fake weight into a real one
        (new.out_features, new.in_features), new.bias = shape, layer.bias
        if precision == "int8":
            weight, scales = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0])
            new.state, new.index = bitsandbytes.MatmulLtState(), None
            new.state.has_fp16_weights, new.state.threshold = False, 6.0
        else:
            weight = torch.empty(shape.numel() // 2, 1, dtype=torch.uint8)
            scales = torch.empty(shape.numel() // ABSMAX_BLOCK)
            new.compute_dtype = torch.bfloat16
        new.weight = nn.Parameter(weight, requires_grad=False)
        new.weight.compress_statistics, new.weight.quant_type = False, precision
        new.register_buffer("scales", scales)
        return new

    head = base.get_output_embeddings()
    for parent in list(base.modules()):
        for name, layer in list(parent.named_children()):
            if layer is not head and isinstance(layer, nn.Linear | Conv1D):
                setattr(parent, name, replaced(layer))
    setattr(base, "is_loaded_in_8bit" if precision == "int8" else "is_loaded_in_4bit", True)


@contextlib.contextmanager
def converted_in_place() -> Iterator[None]:
    """Let modules of fake tensors change their dtype: torch 2.15 would swap them, and may not swap what it has cast."""

    def become(old: torch.Tensor, new: torch.Tensor) -> None:
        old.data = new.data

    swap, torch.utils.swap_tensors = torch.utils.swap_tensors, become
    try:
        yield
    finally:
        torch.utils.swap_tensors = swap


class _TorchUnderAutocast:
    """torch, for one module that asks whether CUDA's autocast is on."""

    is_autocast_enabled = staticmethod(lambda: True)

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextlib.contextmanager
def autocast_seen(device: str) -> Iterator[None]:
    """Let PEFT's layers on quantized weights see that autocast is on, as they do on a GPU: they only ask CUDA's."""
    if device == "cpu":
        yield
        return
    import peft.tuners.lora.bnb

    peft.tuners.lora.bnb.torch = _TorchUnderAutocast()
    try:
        yield
    finally:
        peft.tuners.lora.bnb.torch = torch
