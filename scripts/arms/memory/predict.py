"""How much memory a stage will need, predicted before anything is loaded.

The study's own loss and backward pass, or forward pass, run on fake tensors: they have shapes, dtypes and lifetimes but
no data, so a 32B step is followed in half a minute on a laptop. What is counted is every storage that is alive at the
worst moment. Nothing is fitted to a measurement. What cannot be followed is written down instead:

    weights       every parameter and buffer as it will be stored, in int8 and nf4 as bitsandbytes 0.43.3 stores it
    optimiser     AdamW's two moments, each as large as what is trained, and the temporary of its update
    int8, nf4     `Int8Product` and `Nf4Product` allocate and keep what bitsandbytes' matrix products do (its kernels
                  need a GPU). Outlier columns are left out: few, and only the data tell how many
    fixed         CUDA_FIXED on a GPU, an assumption; on a CPU what a process holds after the same imports
                  (a CPU program that trains was measured to hold 50 to 100 MB more: PEFT's layers, rows, fragments)
    inside ops    the temporary of `logsumexp`, as large as its input; workspaces of other kernels are left to SLACK
    attention     fused, as PyTorch's is on CPUs and GPUs: no (length, length) matrix is kept
    autocast      as on a CPU; a GPU casts the same matrix products

The batch is the worst that tokens.max_length lets through: every row has that many tokens, prompts are one token, and
the two completions of a pair share none. A forked pair is then a row of 2 max_length - 1 tokens, all but one of them
scored; a pair with a real prompt needs less. Generation goes on from a longest prompt and a longest answer.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from arms.model import models
from arms.scoring.logps import FORKING, pair_batch, pair_logps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer

GB = 10**9
CUDA_FIXED = 6 * 10**8  # bytes: CUDA context, kernels, workspaces of cuBLAS. Assumed: it depends on card and driver
SLACK = 0.08  # share that the allocator loses between blocks: what must stay free on top of the prediction
TRAINED = ("sft", "dpo")
PARTS = ("weights", "adapter", "gradients", "optimiser", "activations", "logits", "cache", "fixed")
ABSMAX_BLOCK = 64  # weights that share one fp32 scale in nf4


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


def quantised(base: PreTrainedModel, precision: str) -> None:
    """Replace the linear layers of a fake model by what bitsandbytes would store; embeddings, norms and head stay.

    They are of bitsandbytes' own classes, so that PEFT puts its own layers for them on top.
    """
    import bitsandbytes
    from transformers.pytorch_utils import Conv1D

    class Int8(bitsandbytes.nn.Linear8bitLt):
        def forward(self, x):
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


def fake_policy(config: PretrainedConfig, ask: dict) -> PeftModel:
    """The model of `config` with the adapters of the stage, made as the training and scoring programs make them."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(
        config,
        torch_dtype=models.compute_dtype(ask["precision"]),
        attn_implementation="sdpa" if config.model_type != "gpt2" else "eager",
    )
    base.requires_grad_(False)
    if ask["precision"] in ("int8", "nf4"):
        quantised(base, ask["precision"])
    stacked = ask["start"] == "fresh"
    if ask["stage"] not in TRAINED:  # the joined adapter of a stack has the sum of both ranks
        policy = models.new_adapter(base, {**ask["lora"], "rank": ask["lora"]["rank"] * (1 + stacked)}, seed=0)
        return policy.requires_grad_(False).eval()
    if ask["stage"] == "dpo" and stacked:
        from peft import get_peft_model

        frozen = get_peft_model(base, models.lora_config(ask["lora"]), adapter_name=models.FROZEN)
        policy = models.add_to_stack(frozen, ask["lora"], seed=0)
    else:
        policy = models.new_adapter(base, ask["lora"], seed=0)
    models.prepare_training(policy, ask["lora"]["dropout"], ask["gradient_checkpointing"])
    return policy


def trainer_of(policy: PeftModel, rows: list[dict], ask: dict, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """The project's own trainer of a stage. Nothing in the recipe but what `ask` holds decides memory."""
    from arms.training.recipe import Recipe
    from arms.training.trainer import build_trainer

    recipe = Recipe.for_memory(ask["stage"], len(rows), len(rows), ask["max_length"], ask["gradient_checkpointing"])
    dtype = models.compute_dtype(ask["precision"])
    trainer = build_trainer(recipe, policy, tokenizer, rows[:1], dtype, use_cpu=True)
    if ask["gradient_checkpointing"]:
        checkpointing = trainer.args.gradient_checkpointing_kwargs
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    return trainer


def worst_rows(ask: dict) -> list[dict]:
    """As many rows as a micro-batch has, each as large as tokens.max_length lets any row be."""
    room = ask["max_length"] - 1
    row: dict[str, object] = {"id": "longest", "prompt_ids": [5]}
    if ask["stage"] == "sft":
        row["completion_ids"] = [6] * room
    else:
        row |= {"chosen_ids": [6] * room, "rejected_ids": [7] * room}
        row |= {"reference_chosen_logps": -1.0, "reference_rejected_logps": -1.0}
    return [row] * ask["rows"]


def shape(config: PretrainedConfig, ask: dict) -> tuple[int, int]:
    """(rows, tokens in each) of one pass. A pair is one row [prompt, chosen, rejected] where the model takes forks."""
    rows, length = ask["rows"], ask["max_length"]
    if ask["stage"] == "sft":
        return rows, length
    if ask["stage"] == "generate":
        return rows, length + ask["new_tokens"]
    return (rows, 2 * length - 1) if config.model_type in FORKING else (2 * rows, length)


def storages(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of `tensors`, each counted once (a tied head is the embedding)."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def fixed_bytes(device: str) -> int:
    """Bytes that a program holds without any model: assumed on a GPU, read from this process on a CPU.

    On a CPU that is Python, the imports, and the libraries that a first tiny training step loads. To be called before
    anything else has grown this process.
    """
    if device == "cuda":
        return CUDA_FIXED
    import datasets  # noqa: F401
    from peft import PeftModel  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    layer = nn.Linear(64, 64)
    layer(torch.ones(64, 64)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def predict(config: PretrainedConfig, ask: dict, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Bytes by part (PARTS but "fixed") at the worst moment of a stage.

    ask: stage ("sft", "dpo", "score_pairs" or "generate"), precision, lora, start (sft_dpo.start), max_length,
    rows (in one pass), accumulates (several passes make one step), gradient_checkpointing, new_tokens, device ("cpu"
    or "cuda"). config: the model's configuration. tokenizer: only its pad token is used.
    """
    stage, dtype = ask["stage"], models.compute_dtype(ask["precision"])
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        policy = fake_policy(config, ask)
        lora = {name: tensor for name, tensor in policy.named_parameters() if "lora_" in name}
        trained = [parameter for parameter in lora.values() if parameter.requires_grad]
        held = [*policy.parameters(), *policy.buffers()]
        parts = dict.fromkeys(PARTS[:-1], 0)
        parts["adapter"] = storages(lora.values())
        parts["weights"] = storages(held) - parts["adapter"]
        parts["optimiser"] = 2 * storages(trained)
        if ask["accumulates"]:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            held += [parameter.grad for parameter in trained]
        parts["gradients"] = storages(parameter.grad for parameter in trained if ask["accumulates"])
    tracker = Tracker(config.vocab_size, held)
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(tracker.gradient)
    if stage in TRAINED:
        rows = worst_rows(ask)
        trainer = trainer_of(policy, rows, ask, tokenizer)
        batch = trainer.data_collator(rows)
        with autocast_seen(), fake, tracker:
            trainer.compute_loss(policy, batch).backward()
    elif stage == "score_pairs":
        forking = config.model_type in FORKING
        batch = pair_batch(worst_rows(ask), tokenizer.pad_token_id, forking)
        with autocast_seen(), torch.no_grad(), fake, tracker:
            pair_logps(policy, batch, forking, dtype)
    else:
        with autocast_seen(), torch.no_grad(), fake, tracker:
            parts["cache"] = answer(policy, *shape(config, ask), dtype)
    found = tracker.worst
    found["activations"] -= parts["cache"]
    worst = {**parts, **{name: parts[name] + found[name] for name in found}}
    every_gradient = storages(trained)  # as large as what they belong to
    largest = max((parameter.nbytes for parameter in trained), default=0)
    step = every_gradient if ask["device"] == "cuda" else largest  # on GPUs AdamW updates all parameters at once
    update = {**parts, "gradients": every_gradient, "optimiser": parts["optimiser"] + step}
    return max(worst, update, key=lambda moment: sum(moment.values()))


class _TorchUnderAutocast:
    """torch, for one module that asks whether CUDA's autocast is on."""

    is_autocast_enabled = staticmethod(lambda: True)

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextlib.contextmanager
def autocast_seen() -> Iterator[None]:
    """Let PEFT's layers on quantized weights see that autocast is on, as they do on a GPU: they only ask CUDA's."""
    import peft.tuners.lora.bnb

    peft.tuners.lora.bnb.torch = _TorchUnderAutocast()
    try:
        yield
    finally:
        peft.tuners.lora.bnb.torch = torch


def needed(parts: dict[str, int]) -> int:
    """Bytes that must be there for `parts`: their sum, and SLACK on all that torch allocates."""
    return round(parts["fixed"] + (1 + SLACK) * (sum(parts.values()) - parts["fixed"]))


def answer(policy: PeftModel, rows: int, length: int, dtype: torch.dtype) -> int:
    """Read prompts and answers so far in one pass, as the last round does; returns the bytes of the key-value cache."""
    with unset_fake_temporarily():
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[0, 0] = 0  # one row is padded, so that no kernel can do without the mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ids = torch.zeros(rows, length, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = policy(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    return storages(tensor for layer in found.past_key_values for tensor in layer)
