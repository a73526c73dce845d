"""DPO in one file, to be read from top to bottom: plain PyTorch, without TRL and without transformers' Trainer.

`dpo.engine: minimal` trains with it; TRL's trainer (dpo.py, trainer.py, loop.py) must come to the same losses, step by
step, and on one CPU thread it comes to the same bytes. So this is also what the pipeline does, in PyTorch's own words:

    a policy           a frozen base with a trainable LoRA adapter (arms/model/models.py made it)
    a reference        no model: two numbers that came with each pair, from the table of rule score_pairs
    a loss             of how much more likely the policy makes each answer than the reference does
    a step             micro-batches forward and backward, clipping, AdamW, the next learning rate
    the gate           before the first step, policy and reference agree, and the loss is its closed form
    a checkpoint       from which an interrupted run goes on to the same bytes

In several processes (arms/job/processes.py), each takes every n-th micro-batch of a step.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

from arms.data.token_rows import TokenRows
from arms.job import processes
from arms.job.files import UserError, canonical_json, read_json, sha256_bytes, write_json
from arms.job.progress import SAY_SECONDS
from arms.model import models
from arms.scoring.logps import pair_logps, takes_forks
from arms.stacks import stack
from arms.training.checkpoints import TRAINER, Checkpoints, Resumable
from arms.training.curves import Curves
from arms.training.data_parallel import average_gradients
from arms.training.gates import reference_free_start, require_finite, require_step0
from arms.training.pairs import collate
from arms.training.recipe import REFERENCE_FREE, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from arms.job.manifest import Job

# --- The losses -----------------------------------------------------------------------------------
# Each takes (chosen, rejected) log-probabilities (pairs,) under policy and reference, sums in nats (for ipo per token),
# beta and the label smoothing, and gives the loss of each pair. Beside it, what it is where policy equals reference.

Sides = tuple[torch.Tensor, torch.Tensor]


def difference(policy: Sides, reference: Sides) -> torch.Tensor:
    """How much more the policy prefers the chosen answer than the reference does: the margin of rewards / beta."""
    return (policy[0] - policy[1]) - (reference[0] - reference[1])


def ratios(policy: Sides, reference: Sides) -> Sides:
    """log(pi / pi_ref) of each answer."""
    return policy[0] - reference[0], policy[1] - reference[1]


def smoothed(x: torch.Tensor, smoothing: float) -> torch.Tensor:
    """-log sigmoid(x) if the pair is right, -log sigmoid(-x) if it is swapped, as a share `smoothing` of pairs is."""
    return -logsigmoid(x) * (1 - smoothing) - logsigmoid(-x) * smoothing


def sigmoid(policy: Sides, reference: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """DPO: Rafailov et al. 2023, equation 7; with label smoothing Mitchell 2023, equation 3."""
    return smoothed(beta * difference(policy, reference), smoothing)


def robust(policy: Sides, reference: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """Chowdhury et al. 2024, equation 12: unbiased where `smoothing` of the pairs are swapped."""
    x = beta * difference(policy, reference)
    return (-logsigmoid(x) * (1 - smoothing) + logsigmoid(-x) * smoothing) / (1 - 2 * smoothing)


def hinge(policy: Sides, reference: Sides, beta: float, _: float) -> torch.Tensor:
    """Zhao et al. 2023 (SLiC), normalised as in Liu et al. 2024."""
    return torch.relu(1 - beta * difference(policy, reference))


def ipo(policy: Sides, reference: Sides, beta: float, _: float) -> torch.Tensor:
    """Azar et al. 2023, equation 17, on log-probabilities per token."""
    return (difference(policy, reference) - 1 / (2 * beta)) ** 2


def exo_pair(policy: Sides, reference: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """Ji et al. 2024, equation 16: the reverse KL divergence from smoothed labels."""
    x = beta * difference(policy, reference)
    right = x.sigmoid() * (logsigmoid(x) - math.log(1 - smoothing))
    return right + (-x).sigmoid() * (logsigmoid(-x) - math.log(smoothing))


def nca_pair(policy: Sides, reference: Sides, beta: float, _: float) -> torch.Tensor:
    """Chen et al. 2024 (noise contrastive alignment), with two answers."""
    chosen, rejected = (ratio * beta for ratio in ratios(policy, reference))
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def sppo_hard(policy: Sides, reference: Sides, beta: float, _: float) -> torch.Tensor:
    """Wu et al. 2024, equation 4.7, with the chosen answer the certain winner."""
    chosen, rejected = ratios(policy, reference)
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def aot_pair(policy: Sides, reference: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """Melnyk et al. 2024: chosen and rejected answers of a batch are compared by rank, not by pair."""
    chosen, rejected = (ratio.sort(dim=0)[0] for ratio in ratios(policy, reference))
    return smoothed(beta * (chosen - rejected), smoothing)


def aot(policy: Sides, reference: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """The same of the preferences of policy and reference."""
    mine, theirs = ((chosen - rejected).sort(dim=0)[0] for chosen, rejected in (policy, reference))
    return smoothed(beta * (mine - theirs), smoothing)


def reference_free(policy: Sides, _: Sides, beta: float, smoothing: float) -> torch.Tensor:
    """The sigmoid loss of the policy's own preference: no reference, so its value at the start is the start's."""
    return smoothed(beta * (policy[0] - policy[1]), smoothing)


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., float] | None]] = {
    "sigmoid": (sigmoid, lambda beta, smoothing: math.log(2)),
    "robust": (robust, lambda beta, smoothing: math.log(2)),
    "hinge": (hinge, lambda beta, smoothing: 1.0),
    "ipo": (ipo, lambda beta, smoothing: (1 / (2 * beta)) ** 2),
    "exo_pair": (exo_pair, lambda beta, smoothing: -math.log(2) - math.log(smoothing * (1 - smoothing)) / 2),
    "nca_pair": (nca_pair, lambda beta, smoothing: 2 * math.log(2)),
    "sppo_hard": (sppo_hard, lambda beta, smoothing: 2 * (1 / (2 * beta)) ** 2),
    "aot_pair": (aot_pair, lambda beta, smoothing: math.log(2)),
    "aot": (aot, lambda beta, smoothing: math.log(2)),
    REFERENCE_FREE: (reference_free, None),
}


# --- What trains ----------------------------------------------------------------------------------


@dataclasses.dataclass
class State:
    """How many optimiser steps are done, and of each the norm of its gradients and the learning rate that it left."""

    global_step: int = 0
    log_history: list[dict] = dataclasses.field(default_factory=list)

    def save_to_json(self, path: str | Path) -> None:
        """Write it, where `Checkpoints.save` says."""
        write_json(path, dataclasses.asdict(self))


class Loop(Resumable):
    """A policy, its pairs, and all that changes from step to step."""

    def __init__(self, recipe: Recipe, model: PeftModel, pad_id: int, rows: TokenRows, dtype: torch.dtype, seed: int):
        if recipe.loss_type not in LOSSES:
            raise UserError(
                f"engine minimal does not know loss {recipe.loss_type!r}, only {', '.join(LOSSES)}; "
                "set dpo.engine to trl"
            )
        self.recipe, self.model, self.pad_id, self.rows = recipe, model, pad_id, rows
        self.dtype, self.seed, self.forking = dtype, seed, takes_forks(model)  # forking: a pair is one row
        self.formula, self.closed_form = LOSSES[recipe.loss_type]
        self.beta: Any = recipe.beta
        self.smoothing: Any = recipe.label_smoothing
        if recipe.loss_type == "exo_pair" and not self.smoothing:
            self.smoothing = 1e-3  # its loss has no value at 0
        self.steps = math.ceil(recipe.epochs * (len(rows) // recipe.batch_size))
        self.warmup = math.ceil(recipe.warmup_ratio * self.steps)
        self.parameters = list(models.trainable(model).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=recipe.weight_decay
        )
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: self.rate(step))
        self.curves, self.state = Curves(), State()
        torch.manual_seed(seed)  # of LoRA's dropout
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def rate(self, step: int) -> float:
        """The learning rate of a step (0 is the first), as a share of the recipe's."""
        if self.recipe.scheduler != "constant" and step < self.warmup:
            return step / self.warmup
        if self.recipe.scheduler in ("constant", "constant_with_warmup"):
            return 1.0
        left = max(1, self.steps - self.warmup)
        if self.recipe.scheduler == "linear":
            return max(0.0, (self.steps - step) / left)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - self.warmup) / left))))  # cosine

    def order(self) -> Iterator[list[int]]:
        """The rows of each step, without end: every epoch all of them, in an order of its number and the seed."""
        for epoch in itertools.count():
            generator = torch.Generator().manual_seed(self.seed + epoch)
            places = torch.randperm(len(self.rows), generator=generator).tolist()
            for start in range(0, len(places), self.recipe.batch_size):
                yield places[start : start + self.recipe.batch_size]

    def batch(self, rows: list[dict]) -> dict[str, Any]:
        """Some pairs as one micro-batch, where the model is."""
        batch, device = collate(rows, self.pad_id, self.forking), next(self.model.parameters()).device
        pairs = {name: tensor.to(device) for name, tensor in batch["pairs"].items()}
        reference = tuple(batch[f"reference_{side}_logps"].to(device) for side in ("chosen", "rejected"))
        return {"ids": batch["id"], "tokens": batch["tokens"], "pairs": pairs, "reference": reference}

    def policy(self, batch: dict) -> Sides:
        """Log-probabilities (pairs,) of chosen and rejected under the policy: sums, and for ipo per token."""
        chosen, rejected, n_chosen, n_rejected = pair_logps(self.model, batch["pairs"], self.forking, self.dtype)
        return (chosen / n_chosen, rejected / n_rejected) if self.recipe.loss_type == "ipo" else (chosen, rejected)

    def losses(self, policy: Sides, reference: Sides) -> torch.Tensor:
        """The loss (pairs,) of each pair."""
        return self.formula(policy, reference, self.beta, self.smoothing)

    def micro_step(self, rows: list[dict], share: float) -> None:
        """Forward and backward on one micro-batch, one of `share` in a step of this process; what it reports."""
        batch = self.batch(rows)
        policy, reference = self.policy(batch), batch["reference"]
        loss = self.losses(policy, reference).mean()
        (loss / share).backward()
        gained = policy if self.recipe.loss_type == REFERENCE_FREE else ratios(policy, reference)
        chosen, rejected = (self.beta * gain.detach() for gain in gained)
        metrics = {
            "loss": loss,
            "reward_chosen": chosen.mean(),
            "reward_rejected": rejected.mean(),
            "margin": (chosen - rejected).mean(),
            "reward_accuracy": (chosen > rejected).float().mean(),
            "logp_chosen": policy[0].detach().mean(),
            "logp_rejected": policy[1].detach().mean(),
            "chosen_drift": policy[0].detach().mean() - reference[0].mean(),
        }
        values = {name: value.item() for name, value in metrics.items()}
        self.curves.add(self.state.global_step, batch["ids"], batch["tokens"], **values)

    def step(self, places: list[int]) -> None:
        """One optimiser step on the rows at these places, a micro-batch at a time."""
        size = self.recipe.micro_batch_size
        starts = range(0, len(places), size)[processes.rank() :: processes.size()]
        for start in starts:
            self.micro_step([self.rows[place] for place in places[start : start + size]], len(starts))
        average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        rates = self.lr_scheduler.get_last_lr()
        self.optimizer.step()
        self.lr_scheduler.step()
        rates += self.lr_scheduler.get_last_lr()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.state.log_history.append({"grad_norm": norm.item(), "learning_rate": rates[stack.LOGGED_RATE]})


def build_trainer(
    recipe: Recipe,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenRows,
    dtype: torch.dtype,
    seed: int = 0,
) -> Loop:
    """What `arms.training.trainer.build_trainer` makes of the same arguments. UserError for a loss that is not here."""
    return Loop(recipe, model, tokenizer.pad_token_id, rows, dtype, seed)


# --- The gate, the run, and what was observed of it -----------------------------------------------


def check_step0(loop: Loop, pairs: int = 16) -> dict:
    """Before the first update, on the first pairs: the policy is its reference, and the loss has its closed form.

    UserError if not. Returns the numbers for the manifest (`arms.training.gates.require_step0`).
    """
    rows, size = list(loop.rows[:pairs]), loop.recipe.micro_batch_size
    losses, differences, start = [], [], list[tuple[float, float]]()
    loop.model.eval()
    with torch.no_grad():
        for first in range(0, len(rows), size):
            batch = loop.batch(rows[first : first + size])
            policy, reference = loop.policy(batch), batch["reference"]
            losses.append(loop.losses(policy, reference))
            differences += [(mine - theirs).abs().max().item() for mine, theirs in zip(policy, reference, strict=True)]
            start += zip(*(side.tolist() for side in reference), strict=True)
    loop.model.train()
    if loop.closed_form:
        expected = loop.closed_form(loop.beta, loop.smoothing)
    else:
        expected = reference_free_start(start, loop.beta, loop.smoothing)
    return require_step0(str(loop.recipe.loss_type), torch.cat(losses), expected, differences, loop.dtype)


def train(loop: Loop, job: Job, checkpoints: Checkpoints, shown: list[str]) -> None:
    """Train to the end, from the last checkpoint if there is one, saying about every ten seconds where it is.

    SIGTERM ends the step under way, saves, then ends the process with exit code 143. shown: the curves' columns in the
    line of progress. UserError if any loss was not a finite number.
    """
    state, curves = loop.state, loop.curves
    checkpoint = checkpoints.latest()
    processes.require_alike(models.trainable_digest(loop.model), "the adapter before training")
    if processes.rank() > 0:  # draws of its own for dropout
        torch.manual_seed(int(sha256_bytes(f"{loop.seed} {processes.rank()}".encode())[:8], 16))
    if checkpoint:
        loop.restore(checkpoint)
        loop.state = state = State(**read_json(checkpoint / TRAINER))
    first = state.global_step
    job.say(f"training: {loop.steps - first} steps")
    began = said = curves.clock = time.monotonic()
    for places in itertools.islice(loop.order(), first, loop.steps):
        loop.step(places)
        curves.end_step(state.global_step - 1)
        last, now = state.global_step == loop.steps, time.monotonic()
        # Any process may have got the signal, and they must agree. After the last step the job writes its results.
        asked = processes.gather((checkpoints.stopping, checkpoints.due()))
        stopping, due = (any(column) for column in zip(*asked, strict=True))
        if last or now - said >= SAY_SECONDS:
            said, left = now, (now - began) / (state.global_step - first) * (loop.steps - state.global_step)
            metrics = " ".join(f"{name} {curves.rows[-1][name]:.3f}" for name in shown)
            speed = curves.speed[-1]["tokens_per_second"]
            job.say(f"step {state.global_step}/{loop.steps} {metrics} | {speed:.0f} tokens/s, {left:.0f} s left")
        if due and not last:
            checkpoints.save(loop, curves)
        if stopping and not last:
            checkpoints.stop(f"step {state.global_step} of {loop.steps}")
    processes.require_alike(models.trainable_digest(loop.model), "the trained adapter")
    require_finite(curves, job.label)


def observe(loop: Loop) -> dict[str, object]:
    """What training really used, under the names that `arms.training.observation.observe` has for TRL's trainer."""
    (group,) = loop.optimizer.param_groups
    rates = [entry["learning_rate"] for entry in loop.state.log_history]
    return {
        **models.trainable_facts(loop.model),
        **({"processes": processes.size()} if processes.size() > 1 else {}),
        "engine": "minimal",
        "compute_dtype": str(loop.dtype),
        "rows": len(loop.rows),
        "steps": loop.state.global_step,
        "tokens_seen": loop.curves.tokens,
        "batch_order_sha256": loop.curves.order,
        "batch_size": loop.recipe.batch_size,
        "epochs": loop.recipe.epochs,
        "optimizer": type(loop.optimizer).__name__,
        "betas": group["betas"],
        "eps": group["eps"],
        "weight_decay": [group["weight_decay"]],
        "learning_rate": [group["initial_lr"]],
        "scheduler": loop.recipe.scheduler,
        "warmup_steps": loop.warmup,
        "learning_rates_sha256": sha256_bytes(canonical_json(rates).encode()),  # of all steps
        "max_grad_norm": loop.recipe.max_grad_norm,
        "beta": loop.beta,
        "loss_type": "sigmoid" if loop.recipe.loss_type == REFERENCE_FREE else loop.recipe.loss_type,
        "label_smoothing": loop.smoothing,
        "f_divergence": "reverse_kl",  # the only one that the losses above know
        "reference_free": loop.recipe.loss_type == REFERENCE_FREE,
    }
