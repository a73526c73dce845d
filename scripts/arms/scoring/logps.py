"""Log-probabilities of completions: the one forward pass that training, reference tables and evaluation share.

Two things make it faster than TRL's, which runs [prompt, chosen] and [prompt, rejected] as two rows and keeps their
full (batch, length, vocabulary) logits:

    the output head runs only where a completion token is predicted, and there on a part of the tokens at a time;
    a pair is one row, [shared | chosen's own | rejected's own], where `shared` is the prompt and what the two
    completions have in common; rejected's own tokens take their positions after `shared` and do not see chosen's.

Training and scoring use the same function, so a policy that has not moved agrees with its reference table.
"""

from __future__ import annotations

import inspect
from os.path import commonprefix
from typing import TYPE_CHECKING

from arms.stacks import stack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARED, CHOSEN, REJECTED = 1, 2, 3  # segments of a forked row; 0 is what is not scored: the prompt and padding
LOGITS = 2**26  # tokens x vocabulary: 256 MiB as fp32

Batch = dict  # input_ids, position_ids, source, target, segment: int64 (rows, length); attention_mask: see below


def causal_lm(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a PeftModel (its LoRA layers stay in place), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_forks(model: torch.nn.Module) -> bool:
    """Whether a pair can be one row for this model."""
    return causal_lm(model).config.model_type in stack.FORKING


def completion_batch(rows: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """A right-padded batch of (prompt ids, completion ids), one row each; completion tokens are segment SHARED."""
    sequences = [(prompt + completion, len(prompt)) for prompt, completion in rows]
    batch = _padded([ids for ids, _ in sequences], pad_id)
    for i, (ids, start) in enumerate(sequences):
        batch["segment"][i, start : len(ids)] = SHARED
    return batch


def fork_batch(pairs: list[dict], pad_id: int) -> Batch:
    """A batch of pairs (prompt_ids, chosen_ids, rejected_ids), one row [shared | chosen's own | rejected's own] each.

    attention_mask is bool (rows, 1, length, length), true where a token may look: causal, and rejected's own tokens do
    not see chosen's. Each completion keeps at least one token of its own (identical pairs are refused long before).
    """
    import torch

    rows = []
    for pair in pairs:
        common = len(commonprefix([pair["chosen_ids"], pair["rejected_ids"]]))
        common = min(common, len(pair["chosen_ids"]) - 1, len(pair["rejected_ids"]) - 1)
        shared = pair["prompt_ids"] + pair["chosen_ids"][:common]
        rows.append((len(pair["prompt_ids"]), shared, pair["chosen_ids"][common:], pair["rejected_ids"][common:]))
    batch = _padded([shared + chosen + rejected for _, shared, chosen, rejected in rows], pad_id)
    length = batch["input_ids"].shape[1]
    visible = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for i, (prompt, shared, chosen, rejected) in enumerate(rows):
        fork, turn, end = len(shared), len(shared) + len(chosen), len(shared) + len(chosen) + len(rejected)
        batch["segment"][i, prompt:fork] = SHARED
        batch["segment"][i, fork:turn] = CHOSEN
        batch["segment"][i, turn:end] = REJECTED
        batch["position_ids"][i, turn:end] = torch.arange(fork, fork + len(rejected))
        batch["source"][i, turn] = fork - 1  # rejected's first own token follows the last shared one
        visible[i, turn:, fork:turn] = False
    batch["attention_mask"] = visible.unsqueeze(1)
    return batch


def _padded(sequences: list[list[int]], pad_id: int) -> Batch:
    import torch

    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    positions = torch.arange(longest).repeat(len(sequences), 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "source": (positions - 1).clamp(min=0),
        "target": ids,
        "segment": torch.zeros_like(ids),
    }


def segment_logps(
    model: torch.nn.Module, batch: Batch, segments: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of log pi(token | tokens before it) over each row's segments 1..segments, and how many tokens these are.

    dtype: the dtype of matrix products (bfloat16 runs under autocast; logits are fp32 in any case). Returns (sums fp32
    (rows, segments), counts int64 (rows, segments)); log pi = logit - logsumexp(logits), in nats.
    """
    import torch

    inner, segment, mask, given = causal_lm(model), batch["segment"], batch["attention_mask"], {}
    if mask.dtype == torch.bool:
        by_kind = {
            kind: _additive(mask, batch["position_ids"], window, dtype)
            for kind, window in stack.windows(inner.config).items()
        }
        mask = by_kind if len(by_kind) > 1 else next(iter(by_kind.values()))
    if "position_ids" in inspect.signature(inner.base_model.forward).parameters:
        given["position_ids"] = batch["position_ids"]  # OPT, Bloom and MPT count them from the mask: the same numbers
    scored = segment > 0
    row = torch.arange(len(segment), device=segment.device).unsqueeze(1).expand_as(segment)[scored]
    with torch.autocast(segment.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = inner.base_model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False, **given)[0]
        found = token_logps(inner, hidden[row, batch["source"][scored]], batch["target"][scored])
    spread = torch.zeros(segment.shape, device=segment.device).masked_scatter(scored, found)
    masks = [segment == number for number in range(1, segments + 1)]
    sums = torch.stack([torch.where(mask, spread, 0.0).sum(-1) for mask in masks], dim=1)
    return sums, torch.stack([mask.sum(-1) for mask in masks], dim=1)


def token_logps(model: PreTrainedModel, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """log pi (tokens,) of the ids `target` where the body's output is `hidden` (tokens, size); fp32, in nats.

    Of more than LOGITS logits a part at a time is there; in training the backward pass computes each part again.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def part(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = _logits(model, hidden)
        return logits.gather(1, target.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)

    size = max(1, LOGITS // model.config.vocab_size)
    if len(target) <= size:
        return part(hidden, target)
    parts = zip(hidden.split(size), target.split(size), strict=True)
    return torch.cat([checkpoint(part, *of, use_reentrant=False) for of in parts])


def _additive(visible: torch.Tensor, positions: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """A 4-D mask in the form that transformers takes. It replaces the model's own, so the window has to be in it."""
    import torch

    if window is not None:
        visible = visible & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits fp32 (tokens, vocabulary), scaled or capped after the output head where the model does that.

    Cohere multiplies them, Granite divides them, Gemma 2 bends them below a cap.
    """
    logits, scale = model.get_output_embeddings()(hidden).float(), getattr(model, "logit_scale", None)
    divisor, cap = (getattr(model.config, name, None) for name in ("logits_scaling", "final_logit_softcapping"))
    logits = logits if scale is None else logits * scale
    logits = logits if divisor is None else logits / divisor
    return logits if cap is None else cap * (logits / cap).tanh()


def pair_batch(pairs: list[dict], pad_id: int, forking: bool) -> Batch:
    """Pairs as one row each (`forking`), or as chosen rows followed by rejected rows for other architectures."""
    if forking:
        return fork_batch(pairs, pad_id)
    sides = ("chosen_ids", "rejected_ids")
    return completion_batch([(pair["prompt_ids"], pair[side]) for side in sides for pair in pairs], pad_id)


def pair_logps(
    model: torch.nn.Module, batch: Batch, forking: bool, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(chosen sums, rejected sums, chosen counts, rejected counts), each (pairs,), of a `pair_batch`."""
    if forking:
        sums, counts = segment_logps(model, batch, REJECTED, dtype)
        return (
            sums[:, 0] + sums[:, 1],
            sums[:, 0] + sums[:, 2],
            counts[:, 0] + counts[:, 1],
            counts[:, 0] + counts[:, 2],
        )
    sums, counts = segment_logps(model, batch, SHARED, dtype)
    return (*sums[:, 0].chunk(2), *counts[:, 0].chunk(2))
