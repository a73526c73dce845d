"""Rule train_objective: one added arm and seed, trained on the pairs of DPO with another objective (ORPO, KTO, SimPO).

Tokens, batches, forward pass, checkpoints and gates are train_dpo's; arms/training/objectives.py has the losses. KTO
has the reference table of what it starts from, for the pairs and for mismatched ones; ORPO and SimPO have none.

    python scripts/train_objective.py --job '{"rule": "train_objective", "wildcards": {"arm": "orpo_only", ...}, ...}' \
        --model results/demo/model/model.json --tokens results/demo/tokens/train_pairs.parquet \
        --adapter results/demo/orpo_only-seed1/adapter/arm.json ...
"""

from __future__ import annotations

import argparse

from arms.data.token_rows import TokenRows, read_tokens
from arms.data.tokens import load_tokenizer
from arms.job import processes
from arms.job.files import UserError, exit_with_message, read_json, sha256_file
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.memory.ladder import Rung, add_rung_argument
from arms.model import models
from arms.model.cpu import set_cpu
from arms.model.merged_card import merged_from
from arms.scoring.policy import load_checked_base
from arms.scoring.tables import origin_of, read_table
from arms.training.checkpoints import Checkpoints
from arms.training.outputs import add_training_arguments, check_outputs, write_outputs
from arms.training.recipe import whole_batches

WITH_REFERENCE = ("reference", "mismatched", "mismatched_reference")  # flags of an objective that has one


def main() -> None:
    """Check what it starts from, pass the step-0 gate, train, check that the policy moved, write."""
    parser = JobParser(__doc__)
    add_training_arguments(parser)
    add_rung_argument(parser)
    parser.input("start", default=None, help="arm.json of the adapter to start from; without it a fresh one")
    parser.input("tokens", help="token ids of the training pairs")
    parser.input("reference", default=None, help="KTO: reference table of these pairs (rule score_pairs)")
    parser.input("mismatched", default=None, help="KTO: the prompts with answers of other pairs (rule mismatch_pairs)")
    parser.input("mismatched_reference", default=None, help="KTO: reference table of those")
    args = parser.parse_args()
    check_outputs(args)
    processes.spread(args)
    job = Job(args)

    from arms.training.gates import check_moved
    from arms.training.loop import train
    from arms.training.objectives import build_objective, check_start, read_recipe
    from arms.training.observation import observe

    settings, seed = job.settings, int(job.wildcards["seed"])
    rung = Rung(job, settings["objective"], args.rung)
    objective, recipe = read_recipe(settings, **rung.used())
    require_reference(args, settings["objective"], objective.reference)
    set_cpu(max(1, args.threads // args.processes), settings["cpu_instructions"])
    processes.join()

    card = read_json(args.model)
    start_sha256 = models.read_arm(args.start, card)["adapter_sha256"] if args.start else None
    origin = origin_of(card, start_sha256, args.tokens, settings["precision"])
    rows = referenced(args, origin) if objective.reference else read_tokens(args.tokens)
    rows = whole_batches(rows, recipe.batch_size, recipe.micro_batch_size)
    given = {f"{name}_sha256": sha256_file(getattr(args, name)) for name in WITH_REFERENCE if getattr(args, name)}
    checkpoints = Checkpoints(args.checkpoints, args.checkpoint_minutes, job, {**origin, **given, **rung.digests()})

    job.say("loading the base model")
    base, dtype = load_checked_base(args.model, settings["precision"])
    model = models.start_of_dpo(base, args.start, settings, seed)
    models.prepare_training(model, settings["lora"]["dropout"], recipe.gradient_checkpointing)
    trainer = build_objective(
        objective, recipe, rows, seed, model=model, tokenizer=load_tokenizer(args.model), dtype=dtype
    )

    before = models.trainable_digest(model)
    with rung.recording(trainer.curves):
        step0 = check_start(trainer)
        job.say(f"step-0 gate passed: loss {step0['loss']:.6f}, closed form {step0['closed_form']:.6f}")
        train(trainer, job, checkpoints, ["loss", "margin"])
    moved = check_moved(before, models.trainable_digest(model), trainer.curves)
    if processes.rank() > 0:
        return

    identity = {"arm": job.wildcards["arm"], "seed": seed, "parent_sha256": start_sha256}
    identity |= {"model_sha256": card["sha256"], "tokens_sha256": origin["tokens_sha256"], **merged_from(card)}
    loss = {"objective": settings["objective"], **trainer.objective.__dict__}
    found = {**observe(trainer), "reference": origin, "step0": step0, **loss, **moved, **rung.observed()}
    write_outputs(args, trainer, identity, **found)
    job.finish(seed=seed, model_sha256=card["sha256"], step0=step0)
    job.say(f"done: margin {moved['margin_first']:.3f} -> {moved['margin_last']:.3f}")


def require_reference(args: argparse.Namespace, name: str, wanted: bool) -> None:
    """UserError unless an objective with a reference has its tables, and one without has none."""
    for flag in WITH_REFERENCE:
        words = f"--{flag.replace('_', '-')}"
        if wanted and not getattr(args, flag):
            raise UserError(
                f"{words} is missing: {name} is measured against a reference; rule score_pairs makes its table"
            )
        if not wanted and getattr(args, flag):
            raise UserError(f"{words} {getattr(args, flag)}: {name} has no reference, and would not read it; remove it")


def referenced(args: argparse.Namespace, origin: dict) -> TokenRows:
    """The training pairs with their own and their mismatched reference log-probabilities, both tables checked."""
    from arms.training.objectives import with_mismatched
    from arms.training.pairs import with_reference

    pairs, mismatched = read_tokens(args.tokens), read_tokens(args.mismatched)
    rows = with_reference(pairs, read_table(args.reference, origin, pairs.ids()), "kto")
    other = {**origin, "tokens_sha256": sha256_file(args.mismatched)}
    return with_mismatched(rows, mismatched, read_table(args.mismatched_reference, other, mismatched.ids()))


if __name__ == "__main__":
    exit_with_message(main)
