"""Does the forward pass of this project compute what the model's own code computes? Asked each time a model is loaded.

The measure is the model's own forward pass in its simplest form: one row, no padding, attention written out ("eager").
The forms that training, scoring and generation use are compared with it, on rows longer than any sliding window.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from arms.job.files import UserError
from arms.scoring.logps import pair_batch, pair_logps, takes_forks
from arms.stacks import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

# Nats per token. Rounding makes 5e-6 and 0.07 of them in SmolLM2-135M, a fork that sees its sibling 0.5, a window that
# is a token too long 0.1 in its first layers. So bfloat16 does not show every fault; docs/models.md is of float32.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
WINDOW, LAYERS = 8, 2  # a model's sliding window (tokens) and least depth while short rows are longer than its window
NEW_TOKENS = 2  # of an answer: the first from its prompt, the second through the cache


def check_forward(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Compare our forward pass with the model's own; return whether the model takes forked rows.

    model: the base, without adapters. dtype: of matrix products. Raises UserError naming what differs, for it would be
    silently wrong: some architectures ignore a mask, cap their logits, or compute another thing in a padded batch.
    Takes 1.9 s (bfloat16: 1.0) for 135 M parameters on one core. Beyond a sliding window only first layers are tried.
    """
    training = model.training
    model.eval()
    differences = compare(model, dtype)
    if getattr(model.config, "sliding_window", None):
        with first_layers_with_short_window(model):
            found = compare(model, dtype)
        differences |= {f"{form}, beyond the sliding window": difference for form, difference in found.items()}
    model.train(training)
    for form, difference in differences.items():
        if not difference <= TOLERANCE[dtype]:
            raise UserError(
                f"{type(model).__name__}: log-probabilities of {form} differ by {difference:.4f} nats per token from "
                "the model's own forward pass of one row; this model is not supported (docs/models.md says which are)"
            )
    return takes_forks(model)


@torch.no_grad()
def compare(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, float]:
    """The largest difference (nats per token) from the model's own forward pass, of each form of row that we use."""
    pairs, twin = probe_pairs(model.config.vocab_size), eager_twin(model)
    own = own_logps(twin, pairs, dtype)
    forms = {"rows padded to the right": False} | ({"pairs that share a row": True} if takes_forks(model) else {})
    found = {form: (our_logps(model, pairs, fork, dtype) - own).abs().max().item() for form, fork in forms.items()}
    return {**found, "answers to prompts padded to the left": answers_differ(model, twin, pairs, dtype)}


def probe_pairs(vocab_size: int) -> list[dict]:
    """Two pairs of random ids, of unequal lengths: rows, prompts and answers with some that are longer than WINDOW."""
    draw = torch.Generator().manual_seed(0)
    pairs = []
    for prompt, shared, chosen, rejected in ((5, 3, 9, 4), (13, 0, 6, 10)):
        parts = [
            torch.randint(vocab_size // 10, vocab_size, (length,), generator=draw).tolist()
            for length in (prompt, shared, chosen, rejected)
        ]
        chosen_ids, rejected_ids = parts[1] + parts[2], parts[1] + parts[3]
        pairs.append({"prompt_ids": parts[0], "chosen_ids": chosen_ids, "rejected_ids": rejected_ids})
    return pairs


def our_logps(model: PreTrainedModel, pairs: list[dict], forking: bool, dtype: torch.dtype) -> torch.Tensor:
    """Mean log-probabilities per token (2 * pairs,), as scoring and training compute them: chosen, then rejected."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in pair_batch(pairs, 0, forking).items()}
    chosen, rejected, chosen_tokens, rejected_tokens = pair_logps(model, batch, forking, dtype)
    return torch.cat([chosen / chosen_tokens, rejected / rejected_tokens])


def own_logps(twin: PreTrainedModel, pairs: list[dict], dtype: torch.dtype) -> torch.Tensor:
    """The same as the model's own forward pass computes it, row by row."""
    means = []
    for side in ("chosen_ids", "rejected_ids"):
        for pair in pairs:
            ids = torch.tensor([pair["prompt_ids"] + pair[side]])
            logps = row_logps(twin, ids, dtype)[:-1].gather(1, ids[0, 1:, None].to(twin.device))
            means.append(logps[len(pair["prompt_ids"]) - 1 :].mean())
    return torch.stack(means)


def row_logps(twin: PreTrainedModel, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """log pi of every next token, (length, vocabulary), of one row of ids (1, length)."""
    with autocast(twin, dtype):
        logits = twin(input_ids=ids.to(twin.device), use_cache=False).logits
    return logits[0].float().log_softmax(-1)


def answers_differ(model: PreTrainedModel, twin: PreTrainedModel, pairs: list[dict], dtype: torch.dtype) -> float:
    """How far the next-token distributions of generation (left padding, cache) are from those of whole rows."""
    prompts = [pair["prompt_ids"] for pair in pairs]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    greedy = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True, pad_token_id=0)
    with autocast(model, dtype):
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=greedy,
            output_logits=True,
            return_dict_in_generate=True,
        )
    worst = 0.0
    for i, row in enumerate(prompts):
        whole = torch.tensor([row + found.sequences[i, longest:].tolist()])
        expected = row_logps(twin, whole, dtype)[len(row) - 1 : -1]
        got = torch.stack([step[i] for step in found.logits]).float().log_softmax(-1)
        worst = max(worst, ((got - expected).abs() * expected.exp()).sum(-1).max().item())
    return worst


def autocast(model: PreTrainedModel, dtype: torch.dtype) -> torch.autocast:
    """bfloat16 products, if these are the dtype."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def eager_twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with attention written out; it shares all weights and buffers, and takes no memory."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        twin = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), attn_implementation="eager", **{stack.DTYPE: model.dtype}
        )
    for name, module in model.named_modules():
        parent, _, place = name.rpartition(".")
        if module._parameters and not list(module.children()):
            twin.get_submodule(parent)._modules[place] = module  # with what a quantized layer knows beside its weight
        else:
            own = twin.get_submodule(name)
            own._parameters, own._buffers = module._parameters, module._buffers
    return twin.eval()


@contextlib.contextmanager
def first_layers_with_short_window(model: PreTrainedModel) -> Iterator[None]:
    """Cut the model down to its first layers, and its sliding window to WINDOW tokens, in configuration and layers.

    These are LAYERS layers, or so many that each kind of `layer_types` is among them. All layers, without the first
    tokens of their row in sight, would make ten times as much of rounding in bfloat16.
    """
    config, depth, kinds = model.config, model.config.num_hidden_layers, getattr(model.config, "layer_types", None)
    lists = {id(module): module for module in model.modules() if isinstance(module, torch.nn.ModuleList)}
    kept = next(found for found in lists.values() if len(found) == depth)
    layers, windows = list(kept), [(x, getattr(x, "sliding_window", None)) for x in (config, *model.modules())]
    few = max(LAYERS, *(kinds.index(kind) + 1 for kind in kinds)) if kinds else LAYERS
    del kept[few:]
    config.num_hidden_layers = len(kept)
    if kinds:
        config.layer_types = kinds[:few]
    for holder, window in windows:
        if isinstance(window, int):
            holder.sliding_window = min(window, WINDOW)
    try:
        yield
    finally:
        kept.extend(layers[few:])
        config.num_hidden_layers = depth
        if kinds:
            config.layer_types = kinds
        for holder, window in windows:
            if isinstance(window, int):
                holder.sliding_window = window
