"""ORPO, KTO and SimPO on the pairs, tokens and forward pass that DPO has: each a loss on log-probabilities.

What they are made of is in docs/objectives.md, with what is unlike TRL 0.9.6's ORPOTrainer, KTOTrainer and CPOTrainer.
KTO's reference is a table, as DPO's; ORPO and SimPO have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid
from transformers import PrinterCallback, Trainer, TrainingArguments

from arms.data.token_rows import TokenRows
from arms.job.files import UserError
from arms.scoring.logps import pair_batch, pair_logps, takes_forks
from arms.training.checkpoints import Resumable
from arms.training.curves import Curves
from arms.training.data_parallel import DataParallel
from arms.training.gates import REFERENCE_TOLERANCE, STEP0_TOLERANCE
from arms.training.recipe import Recipe
from arms.training.trainer import trainer_arguments
from arms.training.trainers import named

TABLES = ("reference", "mismatched_reference")  # columns: <table>_chosen_logps, <table>_rejected_logps


class Logps(NamedTuple):
    """Of a micro-batch's pairs, each (pairs,): sums of log pi over completions, in nats, and their tokens."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    def per_token(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(chosen, rejected), the mean over each completion's tokens."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens


@dataclass(frozen=True)
class Orpo:
    """ORPO (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7); beta is the paper's lambda, and TRL's beta."""

    beta: float
    reference = False

    def loss(self, policy: Logps, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(NLL of chosen tokens - beta log sigmoid(log odds ratio), metrics), means over the micro-batch."""
        chosen, rejected = policy.per_token()
        log_odds = chosen - rejected - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
        nll = -policy.chosen.sum() / policy.chosen_tokens.sum()
        loss = nll - self.beta * logsigmoid(log_odds).mean()
        return loss, {**rewards(self.beta * chosen, self.beta * rejected), "nll": nll, "log_odds": log_odds.mean()}

    def closed_form(self, pairs: list[tuple[float, float, int, int]]) -> float:
        """The loss of pairs from the start's log-probabilities (Logps, as numbers): the odds written out."""

        def odds(logp: float, tokens: int) -> float:
            p = math.exp(logp / tokens)
            return p / (1 - p)

        nll = -sum(chosen for chosen, *_ in pairs) / sum(tokens for _, _, tokens, _ in pairs)
        ratios = [odds(chosen, n) / odds(rejected, m) for chosen, rejected, n, m in pairs]
        return nll + self.beta * sum(math.log1p(1 / ratio) for ratio in ratios) / len(ratios)


@dataclass(frozen=True)
class Simpo:
    """SimPO (Meng et al. 2024, arXiv:2405.14734, equation 6): log-probabilities per token, a margin, no reference."""

    beta: float
    gamma: float
    reference = False

    def loss(self, policy: Logps, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(-log sigmoid(beta (chosen - rejected) - gamma), metrics), means over the micro-batch."""
        chosen, rejected = policy.per_token()
        loss = -logsigmoid(self.beta * (chosen - rejected) - self.gamma).mean()
        return loss, rewards(self.beta * chosen, self.beta * rejected)

    def closed_form(self, pairs: list[tuple[float, float, int, int]]) -> float:
        """The loss of pairs from the start's log-probabilities (Logps, as numbers)."""
        margins = [self.beta * (chosen / n - rejected / m) - self.gamma for chosen, rejected, n, m in pairs]
        return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)


@dataclass(frozen=True)
class Kto:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, equation 8): each answer of a pair alone, good or bad."""

    beta: float
    desirable_weight: float
    undesirable_weight: float
    reference = True

    def loss(self, policy: Logps, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(Weighted 1 - value, metrics), means over the micro-batch's desirable and undesirable rows.

        given: the reference's sums for the pairs, and kl, what the policy gained on prompts with the answers of others.
        """
        kl = given["kl"]
        chosen = policy.chosen - given["reference_chosen_logps"]
        rejected = policy.rejected - given["reference_rejected_logps"]
        good = self.desirable_weight * (1 - torch.sigmoid(self.beta * (chosen - kl)))
        bad = self.undesirable_weight * (1 - torch.sigmoid(self.beta * (kl - rejected)))
        metrics = {**rewards(self.beta * chosen, self.beta * rejected), "kl": kl, "chosen_drift": chosen.mean()}
        return torch.cat([good, bad]).mean(), metrics

    def closed_form(self, pairs: list[tuple[float, float, int, int]]) -> float:
        """The loss of a policy that equals its reference, whatever its log-probabilities: 1/2 with both weights 1."""
        return (self.desirable_weight + self.undesirable_weight) / 4


OBJECTIVES: dict[str, type[Orpo | Kto | Simpo]] = {"orpo": Orpo, "kto": Kto, "simpo": Simpo}


def rewards(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, torch.Tensor]:
    """The metrics of implicit rewards (pairs,), as TRL defines them for each objective."""
    return {
        "reward_chosen": chosen.mean(),
        "reward_rejected": rejected.mean(),
        "margin": (chosen - rejected).mean(),
        "reward_accuracy": (chosen > rejected).float().mean(),
    }


def read_recipe(settings: dict, **fits: int) -> tuple[Orpo | Kto | Simpo, Recipe]:
    """(The objective, the rest of its recipe) from a job's settings. fits: as in `Recipe.of`."""
    name = settings["objective"]
    own = {field.name: settings[name][field.name] for field in fields(OBJECTIVES[name])}
    rest = {key: value for key, value in settings[name].items() if key not in own}
    return OBJECTIVES[name](**own), Recipe.of({**settings, name: rest}, name, **fits)


class ObjectiveTrainer(Resumable, DataParallel, Trainer):
    """transformers' Trainer for pre-tokenised pairs and one of OBJECTIVES.

    Rows: id, prompt_ids, chosen_ids, rejected_ids; for KTO also mismatched_chosen_ids and mismatched_rejected_ids, the
    answers of another pair, and the columns of both TABLES.
    """

    def __init__(self, objective: Orpo | Kto | Simpo, *, tokenizer, dtype: torch.dtype, **kwargs) -> None:
        self.objective, self.dtype, self.forking = objective, dtype, takes_forks(kwargs["model"])
        pad_id, forking = tokenizer.pad_token_id, self.forking
        kwargs |= named(tokenizer=tokenizer)
        super().__init__(data_collator=lambda rows: collate(rows, pad_id, forking), **kwargs)

    def logps(self, model, batch: dict) -> Logps:
        """Of the pairs in `batch`, under `model`."""
        return Logps(*pair_logps(model, batch, self.forking, self.dtype))

    def objective_loss(self, model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor], Logps]:
        """(loss, metrics, the policy's log-probabilities) of one micro-batch.

        The estimate of KL is of this micro-batch alone, without a gradient, and at least 0: how many processes share a
        step changes nothing.
        """
        given = dict(batch)
        if "mismatched" in batch:
            with torch.no_grad():  # before the pass that keeps activations
                other = self.logps(model, batch["mismatched"])
            gains = [
                getattr(other, side) - batch[f"mismatched_reference_{side}_logps"] for side in ("chosen", "rejected")
            ]
            given["kl"] = torch.cat(gains).mean().clamp(min=0)
        policy = self.logps(model, batch["pairs"])
        loss, metrics = self.objective.loss(policy, given)
        return loss, metrics, policy

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The objective's loss of one micro-batch, its metrics kept in the curves."""
        loss, metrics, policy = self.objective_loss(model, inputs)
        metrics |= {"logp_chosen": policy.chosen.mean(), "logp_rejected": policy.rejected.mean()}
        found = {name: value.item() for name, value in metrics.items()}
        self.curves.add(self.state.global_step, inputs["id"], inputs["tokens"], loss=loss.item(), **found)
        return (loss, {}) if return_outputs else loss


def build_objective(objective: Orpo | Kto | Simpo, recipe: Recipe, rows: TokenRows, seed: int, **shared) -> Trainer:
    """The trainer of an objective. shared: model (made ready by `models.prepare_training`), tokenizer, dtype."""
    arguments = TrainingArguments(**trainer_arguments(recipe, seed))
    trainer = ObjectiveTrainer(objective, args=arguments, train_dataset=rows, **shared)
    trainer.curves = Curves()
    trainer.remove_callback(PrinterCallback)
    return trainer


def with_mismatched(rows: TokenRows, mismatched: TokenRows, reference: dict[str, dict]) -> TokenRows:
    """The rows with the answers of another pair, and the reference's sums for these; UserError on others' rows."""
    if mismatched.ids() != rows.ids():
        raise UserError("the mismatched pairs are not those of the training pairs; delete both and run the same again")
    table = rows.table
    for side in ("chosen", "rejected"):
        table = table.append_column(f"mismatched_{side}_ids", mismatched.table[f"{side}_ids"])
    found = [reference[name] for name in rows.ids()]
    sums = {
        f"mismatched_reference_{side}_logps": [row[f"{side}_logp"] for row in found] for side in ("chosen", "rejected")
    }
    return TokenRows(table).with_columns(**sums)


def collate(rows: list[dict], pad_id: int, forking: bool) -> dict:
    """One batch of pairs: ids, tokens, padded rows, and what the rows bring of a reference."""
    batch = {
        "id": [row["id"] for row in rows],
        "pairs": pair_batch(rows, pad_id, forking),
        "tokens": sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows),
    }
    if "mismatched_chosen_ids" in rows[0]:
        sides = ("chosen_ids", "rejected_ids")
        other = [{**row, **{side: row[f"mismatched_{side}"] for side in sides}} for row in rows]
        batch["mismatched"] = pair_batch(other, pad_id, forking)
    columns = [f"{table}_{side}_logps" for table in TABLES for side in ("chosen", "rejected")]
    return batch | {name: torch.tensor([row[name] for row in rows]) for name in columns if name in rows[0]}


def start_logps(trainer: ObjectiveTrainer, batch: dict) -> list[tuple[Logps, Logps]]:
    """(the policy's, its start's) log-probabilities of each kind of pair in a batch.

    The start's: from the tables, and without a reference those of the model without the adapter, which is fresh.
    """
    found = []
    for name, table in zip(("pairs", "mismatched"), TABLES, strict=True):
        if name not in batch:
            continue
        own = trainer.logps(trainer.model, batch[name])
        if trainer.objective.reference:
            sides = [batch[f"{table}_{side}_logps"] for side in ("chosen", "rejected")]
            found.append((own, own._replace(chosen=sides[0], rejected=sides[1])))
        else:
            with trainer.model.disable_adapter():
                found.append((own, trainer.logps(trainer.model, batch[name])))
    return found


def check_start(trainer: ObjectiveTrainer, pairs: int = 16) -> dict:
    """Before the first update: is the policy the one that it starts from, and is the loss its closed form there?

    Looks at the first `pairs` training pairs, in micro-batches. Raises UserError, which stops the run before any
    training; returns the numbers for the manifest: loss, closed_form, loss_difference, reference_difference (largest,
    in nats), pairs.
    """
    size, rows = trainer.args.per_device_train_batch_size, list(trainer.train_dataset[:pairs])
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    losses, expected, differences = [], [], []
    trainer.model.eval()
    for some in batches:
        batch = trainer._prepare_inputs(trainer.data_collator(some))
        with torch.no_grad():
            losses.append(trainer.objective_loss(trainer.model, batch)[0].item())
            found = start_logps(trainer, batch)
        start = found[0][1]
        expected.append(trainer.objective.closed_form(list(zip(*(values.tolist() for values in start), strict=True))))
        differences += [
            (own - theirs).abs().max().item() for policy, of in found for own, theirs in zip(policy, of, strict=True)
        ]
    trainer.model.train()
    loss, closed_form = (sum(values) / len(values) for values in (losses, expected))
    off = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
    within = off <= STEP0_TOLERANCE[trainer.dtype] * max(1.0, closed_form)
    if not within or not max(differences) <= REFERENCE_TOLERANCE[trainer.dtype]:
        name = type(trainer.objective).__name__.upper()
        start_is = "reference table" if trainer.objective.reference else "base model, on which its adapter is fresh"
        raise UserError(
            f"step-0 gate: before the first update the policy must equal its {start_is}, but the loss is {loss:.6f} "
            f"({name} starts at {closed_form:.6f} with these pairs) and log-probabilities differ by up to "
            f"{max(differences):.4f} nats. What training starts from is not what it should be (another adapter, table, "
            "precision or data): delete it and run the same command again"
        )
    return {
        "loss": loss,
        "closed_form": closed_form,
        "loss_difference": off,
        "reference_difference": max(differences),
        "pairs": len(rows),
    }
