"""How much memory a stage will need, predicted before anything is loaded.

The study's own loss and backward pass, or forward pass, run on fake tensors: they have shapes, dtypes and lifetimes but
no data, so a 32B step is followed in half a minute on a laptop. What is counted is every storage that is alive at the
worst moment. Nothing is fitted to a measurement. What cannot be followed is written down instead:

    weights       every parameter and buffer as it will be stored, in int8 and nf4 as bitsandbytes 0.43.3 stores it
    optimiser     AdamW's two moments, each as large as what is trained, and the temporary of its update
    int8, nf4     `Int8Product` and `Nf4Product` allocate and keep what bitsandbytes' matrix products do on a GPU, those
                  of 0.43.3 on either stack; `HeldInt8Product` and `Nf4Product` what 0.50's do on a CPU. Outlier
                  columns are left out: few, and only the data tell how many
    fixed         CUDA_FIXED on a GPU, an assumption; on a CPU what a process holds after the same imports
                  (a CPU program that trains was measured to hold 50 to 100 MB more: PEFT's layers, rows, fragments)
    inside ops    the temporary of `logsumexp`, as large as its input; workspaces of other kernels are left to SLACK
    attention     fused, as PyTorch's is on CPUs and GPUs: no (length, length) matrix is kept
    autocast      as on a CPU; a GPU casts the same matrix products

The batch is the worst that tokens.max_length lets through: every row has that many tokens, prompts are one token, and
the two completions of a pair share none. A forked pair is then a row of 2 max_length - 1 tokens, all but one of them
scored; a pair with a real prompt needs less. Generation goes on from a longest prompt and a longest answer. The rows of
a task are known: all are taken as long as its longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from arms.memory.fake import Tracker, autocast_seen, converted_in_place, quantised, storages
from arms.model import models, quantization
from arms.scoring.decoding import Running, runs
from arms.scoring.logps import causal_lm, pair_batch, pair_logps, takes_forks
from arms.stacks import stack
from arms.training.recipe import Recipe
from arms.training.trainer import build_trainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, Trainer

CUDA_FIXED = 6 * 10**8  # bytes: CUDA context, kernels, workspaces of cuBLAS. Assumed: it depends on card and driver
SLACK = 0.08  # share that the allocator loses between blocks: what must stay free on top of the prediction
PARTS = ("weights", "adapter", "gradients", "optimiser", "activations", "logits", "cache", "fixed")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One pass of a stage, with what decides its memory.

    stage: "sft", "dpo", "score_pairs", "generate", or "choose" (the continuations of a task). start: sft_dpo.start of
    the config. device: "cpu" or "cuda". rows: in the pass. accumulates: several passes make one optimiser step.
    new_tokens: of a generated answer, or those of a task's row that are scored.
    """

    stage: str
    precision: str
    lora: dict
    start: str
    device: str
    max_length: int
    rows: int
    accumulates: bool = False
    gradient_checkpointing: bool = False
    new_tokens: int = 0

    @property
    def trains(self) -> bool:
        """Whether there are gradients."""
        return self.stage in ("sft", "dpo")


def fake_policy(config: PretrainedConfig, ask: Ask) -> PeftModel:
    """The model of `config` with the adapters of the stage, made as the training and scoring programs make them."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(config, **{stack.DTYPE: models.compute_dtype(ask.precision)})
    base.requires_grad_(False)
    if ask.precision in quantization.QUANTIZED:
        quantised(base, ask.precision, ask.device)
    stacked = ask.start == "fresh"
    if not ask.trains:  # the joined adapter of a stack has the sum of both ranks
        policy = models.new_adapter(base, {**ask.lora, "rank": ask.lora["rank"] * (1 + stacked)}, seed=0)
        return policy.requires_grad_(False).eval()
    if ask.stage == "dpo" and stacked:
        from peft import get_peft_model

        frozen = get_peft_model(base, models.lora_config(ask.lora), adapter_name=models.FROZEN)
        policy = models.add_to_stack(frozen, ask.lora, seed=0)
    else:
        policy = models.new_adapter(base, ask.lora, seed=0)
    models.prepare_training(policy, ask.lora["dropout"], ask.gradient_checkpointing)
    return policy


def trainer_of(policy: PeftModel, rows: list[dict], ask: Ask, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """The project's own trainer of a stage. Nothing in the recipe but what `ask` holds decides memory."""
    recipe = Recipe.for_memory(ask.stage, len(rows), len(rows), ask.max_length, ask.gradient_checkpointing)
    dtype = models.compute_dtype(ask.precision)
    trainer = build_trainer(recipe, policy, tokenizer, rows[:1], dtype, use_cpu=True)
    if ask.gradient_checkpointing:
        checkpointing = trainer.args.gradient_checkpointing_kwargs
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    return trainer


def worst_rows(ask: Ask) -> list[dict]:
    """As many rows as a micro-batch has, each as large as tokens.max_length lets any row be."""
    room = ask.max_length - 1
    row: dict[str, object] = {"id": "longest", "prompt_ids": [5]}
    if ask.stage == "sft":
        row["completion_ids"] = [6] * room
    else:
        row |= {"chosen_ids": [6] * room, "rejected_ids": [7] * room}
        row |= {"reference_chosen_logps": -1.0, "reference_rejected_logps": -1.0}
    return [row] * ask.rows


def shape(config: PretrainedConfig, ask: Ask) -> tuple[int, int]:
    """(rows, tokens in each) of one pass. A pair is one row [prompt, chosen, rejected] where the model takes forks."""
    rows, length = ask.rows, ask.max_length
    if ask.stage in ("sft", "choose"):
        return rows, length
    if ask.stage == "generate":
        return rows, length + ask.new_tokens
    return (rows, 2 * length - 1) if config.model_type in stack.FORKING else (2 * rows, length)


def fixed_bytes(device: str) -> int:
    """Bytes that a program holds without any model: assumed on a GPU, read from this process on a CPU.

    On a CPU that is Python, the imports (above, those of a program that trains), and the libraries that a first tiny
    training step loads. To be called before anything else has grown this process.
    """
    if device == "cuda":
        return CUDA_FIXED
    layer = nn.Linear(64, 64)
    layer(torch.ones(64, 64)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


@converted_in_place()
def predict(config: PretrainedConfig, ask: Ask, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Bytes by part (PARTS but "fixed") at the worst moment of a stage.

    config: the model's configuration. tokenizer: only its pad token is used.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        policy = fake_policy(config, ask)
        lora = {name: tensor for name, tensor in policy.named_parameters() if "lora_" in name}
        trained = [parameter for parameter in lora.values() if parameter.requires_grad]
        held = [*policy.parameters(), *policy.buffers()]
        parts = dict.fromkeys(PARTS[:-1], 0)
        parts["adapter"] = storages(lora.values())
        parts["weights"] = storages(held) - parts["adapter"]
        parts["optimiser"] = 2 * storages(trained)
        if ask.accumulates:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            held += [parameter.grad for parameter in trained]
        parts["gradients"] = storages(parameter.grad for parameter in trained if ask.accumulates)
    tracker = Tracker(config.vocab_size, held)
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(tracker.gradient)
    parts["cache"] = run_pass(policy, ask, tokenizer, fake, tracker)
    found = tracker.worst
    found["activations"] -= parts["cache"]
    worst = {**parts, **{name: parts[name] + found[name] for name in found}}
    every_gradient = storages(trained)  # as large as what they belong to
    largest = max((parameter.nbytes for parameter in trained), default=0)
    step = every_gradient if ask.device == "cuda" else largest  # on GPUs AdamW updates all parameters at once
    update = {**parts, "gradients": every_gradient, "optimiser": parts["optimiser"] + step}
    return max(worst, update, key=lambda moment: sum(moment.values()))


def run_pass(
    policy: PeftModel, ask: Ask, tokenizer: PreTrainedTokenizerBase, fake: FakeTensorMode, tracker: Tracker
) -> int:
    """One pass of the stage on the worst rows, forward and (in training) backward; returns the bytes of its cache."""
    if ask.trains:
        rows = worst_rows(ask)
        trainer = trainer_of(policy, rows, ask, tokenizer)
        batch = trainer.data_collator(rows)
        with autocast_seen(ask.device), fake, tracker:
            trainer.compute_loss(policy, batch).backward()
        return 0
    dtype = models.compute_dtype(ask.precision)
    if ask.stage == "score_pairs":
        forking = takes_forks(policy)
        batch = pair_batch(worst_rows(ask), tokenizer.pad_token_id, forking)
        with autocast_seen(ask.device), torch.no_grad(), fake, tracker:
            pair_logps(policy, batch, forking, dtype)
        return 0
    with autocast_seen(ask.device), torch.no_grad(), fake, tracker:
        if ask.stage == "choose":
            return choose(policy, *shape(policy.config, ask), ask.new_tokens, dtype)
        return answer(policy, *shape(policy.config, ask), dtype)


def choose(policy: PeftModel, rows: int, length: int, scored: int, dtype: torch.dtype) -> int:
    """Read rows, and the whole vocabulary's log-probabilities where `scored` tokens of each are predicted; no cache."""
    inner = causal_lm(policy)
    with unset_fake_temporarily():
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[0, -1] = 0
        given = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = inner.base_model(input_ids=torch.zeros_like(mask), use_cache=False, **given)[0]
        logits = inner.get_output_embeddings()(hidden[:, -scored:].flatten(0, 1))
        logits.float().log_softmax(-1)
    return 0


def answer(policy: PeftModel, rows: int, length: int, dtype: torch.dtype) -> int:
    """Read prompts and answers so far, as the last round does, then one more token; returns the bytes of the cache."""
    with unset_fake_temporarily():
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[0, 0] = 0  # one row is padded, so that no kernel can do without the mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        read = {"attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
        last = {"attention_mask": mask, "position_ids": positions[:, -1:]}
    ids, cache = torch.zeros(rows, length, dtype=torch.long), Running(length) if runs(policy) else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        if cache is None:
            given = {"attention_mask": mask, "position_ids": positions}
            found = policy(input_ids=ids, **given, use_cache=True).past_key_values
        else:
            kept = {stack.CACHE: cache, "use_cache": True}
            causal_lm(policy).base_model(input_ids=ids[:, :-1], **read, **kept)
            policy(input_ids=ids[:, -1:], **last, **kept)
            found = cache.held
    return storages(tensor for layer in found for tensor in layer)


def needed(parts: dict[str, int]) -> int:
    """Bytes that must be there for `parts`: their sum, and SLACK on all that torch allocates."""
    return round(parts["fixed"] + (1 + SLACK) * (sum(parts.values()) - parts["fixed"]))
