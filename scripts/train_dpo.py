"""Rule train_dpo: direct preference optimisation of one arm and seed against a reference table.

The arm sft_dpo starts from the SFT adapter of its seed (reference: that adapter's table); dpo_only trains a fresh
adapter on the base (reference: the base's table). Nothing else differs between the two.

    python scripts/train_dpo.py --job '{"rule": "train_dpo", "wildcards": {"arm": "sft_dpo", "seed": "1"}, ...}' \
        --model results/demo/model/model.json --start results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/train_pairs.parquet --reference results/demo/sft-seed1/train_logps.parquet \
        --adapter results/demo/sft_dpo-seed1/adapter/arm.json ...
"""

from __future__ import annotations

import argparse

from arms.job import processes
from arms.job.files import exit_with_message, read_json, sha256_file, write_json
from arms.job.manifest import Job, add_job_arguments
from arms.memory.ladder import Rung, add_rung_argument
from arms.training.loop import add_training_arguments, train
from arms.training.recipe import Recipe, whole_batches


def main() -> None:
    """Check the reference, pass the step-0 gate, train, check that the policy moved, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    add_training_arguments(parser)
    add_rung_argument(parser)
    parser.add_argument("--start", help="arm.json of the adapter to start from; without it a fresh one")
    parser.add_argument("--tokens", required=True, help="token ids of the training pairs")
    parser.add_argument("--reference", required=True, help="reference table of these pairs (rule score_pairs)")
    args = parser.parse_args()
    processes.spread(args)
    job = Job(args)

    from arms.data.tokens import load_tokenizer, read_tokens
    from arms.model import models
    from arms.model.cpu import set_cpu
    from arms.scoring.logps import check_forward
    from arms.scoring.tables import read_table
    from arms.training.checkpoints import Checkpoints
    from arms.training.dpo import check_moved, check_step0, with_reference
    from arms.training.trainer import build_trainer

    rung = Rung(job, "dpo", args.rung)
    settings, seed = job.settings, int(job.wildcards["seed"])
    recipe = Recipe.of(settings, "dpo", **rung.used())
    set_cpu(max(1, args.threads // args.processes), settings["cpu_instructions"])
    processes.join()
    card, pairs = read_json(args.model), read_tokens(args.tokens)
    start = models.read_arm(args.start, card) if args.start else None
    origin = {
        "model_sha256": card["sha256"],
        "adapter_sha256": start["adapter_sha256"] if start else None,
        "tokens_sha256": sha256_file(args.tokens),
        "precision": settings["precision"],
    }
    reference = read_table(args.reference, origin, [pair["id"] for pair in pairs])
    rows = with_reference(pairs, reference, recipe.loss_type)
    rows = whole_batches(rows, recipe.batch_size, recipe.micro_batch_size)
    inputs = {**origin, "reference_sha256": sha256_file(args.reference)}
    checkpoints = Checkpoints(args.checkpoints, args.checkpoint_minutes, job, {**inputs, **rung.digests()})

    job.say("loading the base model")
    dtype = models.compute_dtype(settings["precision"])
    base = models.load_base(args.model, settings["precision"])
    check_forward(base, dtype)
    if start is None:
        model = models.new_adapter(base, settings["lora"], seed)
    elif settings["start"] == "fresh":
        model = models.stack_adapter(base, args.start, settings["lora"], seed)
    else:
        model = models.load_adapter(base, args.start, trainable=True)
    models.prepare_training(model, settings["lora"]["dropout"], recipe.gradient_checkpointing)
    trainer = build_trainer(recipe, model, load_tokenizer(args.model), rows, dtype, seed)
    before, curves = models.trainable_digest(model), trainer.curves
    with rung.recording(curves):
        step0 = check_step0(trainer)
        job.say(f"step-0 gate passed: loss {step0['loss']:.6f}, closed form {step0['closed_form']:.6f}")
        train(trainer, job, checkpoints, ["loss", "margin"])
    moved = check_moved(before, models.trainable_digest(model), curves)
    if processes.rank() > 0:
        return

    identity = {
        "arm": job.wildcards["arm"],
        "seed": seed,
        "parent_sha256": origin["adapter_sha256"],
        "model_sha256": card["sha256"],
        "tokens_sha256": origin["tokens_sha256"],
    }
    identity = models.save_adapter(model, args.adapter, identity)
    curves.write(args.curves, args.speed, trainer.state.log_history)
    observed = {
        **identity,
        **models.trainable_facts(model),
        **processes.observed(),
        "rows": len(rows),
        "steps": trainer.state.global_step,
        **rung.observed(),
        "tokens_seen": curves.tokens,
        "batch_order_sha256": curves.order,
        "reference": origin,
        "step0": step0,
        **moved,
    }
    write_json(args.observed, observed)
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens, "reference": args.reference, "start": args.start}
        | rung.inputs(),
        outputs={
            **models.adapter_files(args.adapter),
            "curves": args.curves,
            "speed": args.speed,
            "observed": args.observed,
        },
        seed=seed,
        model_sha256=card["sha256"],
        step0=step0,
    )
    job.say(f"done: margin {moved['margin_first']:.3f} -> {moved['margin_last']:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
