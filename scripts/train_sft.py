"""Rule train_sft: supervised fine-tuning of a fresh LoRA adapter on the base, for one seed.

    python scripts/train_sft.py --job '{"rule": "train_sft", "wildcards": {"seed": "1"}, "settings": {...}}' \
        --model results/demo/model/model.json --tokens results/demo/tokens/sft.parquet \
        --adapter results/demo/sft-seed1/adapter/arm.json --curves results/demo/sft-seed1/curves.parquet ...
"""

from __future__ import annotations

import argparse

from arms.job import processes
from arms.job.files import UserError, exit_with_message, read_json, sha256_file, write_json
from arms.job.manifest import Job, add_job_arguments
from arms.memory.ladder import Rung, add_rung_argument
from arms.training.loop import add_training_arguments, train
from arms.training.recipe import Recipe, few_steps, whole_batches


def main() -> None:
    """Train, check that the adapter moved, and write adapter, curves and what was observed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    add_training_arguments(parser)
    add_rung_argument(parser)
    parser.add_argument("--tokens", required=True, help="token ids of the SFT rows")
    args = parser.parse_args()
    processes.spread(args)
    job = Job(args)

    from arms.data.tokens import load_tokenizer, read_tokens
    from arms.model import models
    from arms.model.cpu import set_cpu
    from arms.scoring.logps import check_forward
    from arms.training.checkpoints import Checkpoints
    from arms.training.trainer import build_trainer

    rung = Rung(job, "sft", args.rung)
    settings, seed = job.settings, int(job.wildcards["seed"])
    recipe = Recipe.of(settings, "sft", **rung.used())
    set_cpu(max(1, args.threads // args.processes), settings["cpu_instructions"])
    processes.join()
    card = read_json(args.model)
    rows = whole_batches(read_tokens(args.tokens), recipe.batch_size, recipe.micro_batch_size)
    data = {"model_sha256": card["sha256"], "tokens_sha256": sha256_file(args.tokens)}
    checkpoints = Checkpoints(args.checkpoints, args.checkpoint_minutes, job, {**data, **rung.digests()})

    job.say("loading the base model")
    dtype = models.compute_dtype(settings["precision"])
    base = models.load_base(args.model, settings["precision"])
    check_forward(base, dtype)
    model = models.new_adapter(base, settings["lora"], seed)
    models.prepare_training(model, settings["lora"]["dropout"], recipe.gradient_checkpointing)
    trainer = build_trainer(recipe, model, load_tokenizer(args.model), rows, dtype, seed)
    before, curves = models.trainable_digest(model), trainer.curves
    with rung.recording(curves):
        train(trainer, job, checkpoints, ["loss"])
    if models.trainable_digest(model) == before:
        raise UserError(f"training left the adapter unchanged; {few_steps('sft', trainer.state.global_step)}")
    if processes.rank() > 0:
        return

    identity = {"arm": "sft", "seed": seed, "parent_sha256": None, **data}
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
    }
    write_json(args.observed, observed)
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens, **rung.inputs()},
        outputs={
            **models.adapter_files(args.adapter),
            "curves": args.curves,
            "speed": args.speed,
            "observed": args.observed,
        },
        seed=seed,
        model_sha256=card["sha256"],
    )
    job.say(f"done: loss {curves.rows[0]['loss']:.3f} -> {curves.rows[-1]['loss']:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
