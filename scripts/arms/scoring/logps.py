"""Log-probabilities of completions: the one forward pass that training, reference tables and evaluation share.

Two things make it faster than TRL's, which runs [prompt, chosen] and [prompt, rejected] as two rows and keeps their
full (batch, length, vocabulary) logits:

    the output head runs only where a completion token is predicted;
    a pair is one row, [shared | chosen's own | rejected's own], where `shared` is the prompt and what the two
    completions have in common; rejected's own tokens take their positions after `shared` and do not see chosen's.

Training and scoring use the same function, so a policy that has not moved agrees with its reference table.
"""

from __future__ import annotations

from os.path import commonprefix
from typing import TYPE_CHECKING

from arms.job.files import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARED, CHOSEN, REJECTED = 1, 2, 3  # segments of a forked row; 0 is what is not scored: the prompt and padding
FORKING = ("llama", "mistral", "qwen2")  # model types that take a 4-D attention mask as it is (transformers 4.43)

Batch = dict  # input_ids, position_ids, source, target, segment: int64 (rows, length); attention_mask: see below


def causal_lm(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a PeftModel (its LoRA layers stay in place), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_forks(model: torch.nn.Module) -> bool:
    """Whether a pair can be one row for this model."""
    return causal_lm(model).config.model_type in FORKING


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

    inner, segment, mask = causal_lm(model), batch["segment"], batch["attention_mask"]
    if mask.dtype == torch.bool:  # transformers takes a 4-D mask only in its additive form
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    scored = segment > 0
    row = torch.arange(len(segment), device=segment.device).unsqueeze(1).expand_as(segment)[scored]
    with torch.autocast(segment.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = inner.base_model(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=batch["position_ids"],
            use_cache=False,
        )[0]
        logits = inner.get_output_embeddings()(hidden[row, batch["source"][scored]]).float()
    token_logps = logits.gather(1, batch["target"][scored].unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
    spread = torch.zeros(segment.shape, device=segment.device).masked_scatter(scored, token_logps)
    masks = [segment == number for number in range(1, segments + 1)]
    sums = torch.stack([torch.where(mask, spread, 0.0).sum(-1) for mask in masks], dim=1)
    return sums, torch.stack([mask.sum(-1) for mask in masks], dim=1)


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


def check_forward(model: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Compare `pair_logps` with the model's own forward pass on a tiny pair; return whether the model takes forks.

    Some architectures change the logits after the output head (soft capping, scaling). For them `segment_logps` would
    be silently wrong, so it is checked each time a model is loaded. Raises UserError naming the difference.
    """
    import torch

    inner = causal_lm(model)
    device, forking = next(inner.parameters()).device, takes_forks(model)
    prompt, shared, chosen, rejected = [11, 12, 13], [14], [15, 16, 17], [18, 19]
    pair = {"prompt_ids": prompt, "chosen_ids": shared + chosen, "rejected_ids": shared + rejected}
    batch = {name: tensor.to(device) for name, tensor in pair_batch([pair], 0, forking).items()}
    theirs, training = [], model.training
    model.eval()
    with torch.no_grad():
        ours = [sums.item() for sums in pair_logps(model, batch, forking, dtype)[:2]]
        for side in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([prompt + pair[side]], device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = inner(input_ids=ids, use_cache=False).logits.float()
            logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
            theirs.append(logps[:, len(prompt) - 1 :].sum().item())
    model.train(training)
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if not difference < (1e-3 if dtype == torch.float32 else 0.5):
        raise UserError(
            f"{type(inner).__name__}: log-probabilities differ by {difference:.4f} nats from the model's own forward "
            "pass; this architecture is not supported. Llama, Mistral, Qwen2 and GPT-2 are."
        )
    return forking
