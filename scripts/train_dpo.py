"""Rule train_dpo: direct preference optimisation of one arm and seed against a reference table.

The arm sft_dpo starts from the SFT adapter of its seed (reference: that adapter's table); dpo_only trains a fresh
adapter on the base (reference: the base's table). Nothing else differs between the two. With sft_dpo.start: merged the
model of sft_dpo is the merged SFT weights (rule merge_sft), on which it trains a fresh adapter, too.

    python scripts/train_dpo.py --job '{"rule": "train_dpo", "wildcards": {"arm": "sft_dpo", "seed": "1"}, ...}' \
        --model results/demo/model/model.json --start results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/train_pairs.parquet --reference results/demo/sft-seed1/train_logps.parquet \
        --adapter results/demo/sft_dpo-seed1/adapter/arm.json ...
"""

from __future__ import annotations

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job import processes
from arms.job.files import exit_with_message, read_json, sha256_file
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
from arms.training.recipe import Recipe, whole_batches


def main() -> None:
    """Check the reference, pass the step-0 gate, train, check that the policy moved, write."""
    parser = JobParser(__doc__)
    add_training_arguments(parser)
    add_rung_argument(parser)
    parser.input("start", default=None, help="arm.json of the adapter to start from; without it a fresh one")
    parser.input("tokens", help="token ids of the training pairs")
    parser.input("reference", help="reference table of these pairs (rule score_pairs)")
    args = parser.parse_args()
    check_outputs(args)
    processes.spread(args)
    job = Job(args)

    from arms.training.gates import check_moved
    from arms.training.pairs import with_reference

    settings, seed, rung = job.settings, int(job.wildcards["seed"]), Rung(job, "dpo", args.rung)
    recipe = Recipe.of(settings, "dpo", **rung.used())
    if recipe.engine == "minimal":
        from arms.training.minimal import build_trainer, check_step0, observe, train
    else:
        from arms.training.dpo import check_step0
        from arms.training.loop import train
        from arms.training.observation import observe
        from arms.training.trainer import build_trainer
    set_cpu(max(1, args.threads // args.processes), settings["cpu_instructions"])
    processes.join()

    card, pairs = read_json(args.model), read_tokens(args.tokens)
    start_sha256 = models.read_arm(args.start, card)["adapter_sha256"] if args.start else None
    origin = origin_of(card, start_sha256, args.tokens, settings["precision"])
    reference = read_table(args.reference, origin, pairs.ids())
    rows = with_reference(pairs, reference, recipe.loss_type)
    rows = whole_batches(rows, recipe.batch_size, recipe.micro_batch_size)
    inputs = {**origin, "reference_sha256": sha256_file(args.reference), **rung.digests()}
    checkpoints = Checkpoints(args.checkpoints, args.checkpoint_minutes, job, inputs)

    job.say("loading the base model")
    base, dtype = load_checked_base(args.model, settings["precision"])
    model = models.start_of_dpo(base, args.start, settings, seed)
    models.prepare_training(model, settings["lora"]["dropout"], recipe.gradient_checkpointing)
    trainer = build_trainer(recipe, model, load_tokenizer(args.model), rows, dtype, seed)

    before = models.trainable_digest(model)
    with rung.recording(trainer.curves):
        step0 = check_step0(trainer)
        job.say(f"step-0 gate passed: loss {step0['loss']:.6f}, closed form {step0['closed_form']:.6f}")
        train(trainer, job, checkpoints, ["loss", "margin"])
    moved = check_moved(before, models.trainable_digest(model), trainer.curves)
    if processes.rank() > 0:
        return

    identity = {"arm": job.wildcards["arm"], "seed": seed, "parent_sha256": start_sha256}
    identity |= {"model_sha256": card["sha256"], "tokens_sha256": origin["tokens_sha256"], **merged_from(card)}
    found = {**observe(trainer), "reference": origin, "step0": step0, **moved, **rung.observed()}
    write_outputs(args, trainer, identity, **found)
    job.finish(seed=seed, model_sha256=card["sha256"], step0=step0)
    job.say(f"done: margin {moved['margin_first']:.3f} -> {moved['margin_last']:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
