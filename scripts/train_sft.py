"""Rule train_sft: supervised fine-tuning of a fresh LoRA adapter on the base, for one seed.

    python scripts/train_sft.py --job '{"rule": "train_sft", "wildcards": {"seed": "1"}, "settings": {...}}' \
        --model results/demo/model/model.json --tokens results/demo/tokens/sft.parquet \
        --adapter results/demo/sft-seed1/adapter/arm.json --curves results/demo/sft-seed1/curves.parquet ...
"""

from __future__ import annotations

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job import processes
from arms.job.files import UserError, exit_with_message, read_json, sha256_file
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.memory.ladder import Rung, add_rung_argument
from arms.model import models
from arms.model.cpu import set_cpu
from arms.scoring.policy import load_checked_base
from arms.training.checkpoints import Checkpoints
from arms.training.outputs import add_training_arguments, check_outputs, write_outputs
from arms.training.recipe import Recipe, few_steps, whole_batches


def main() -> None:
    """Train, check that the adapter moved, and write adapter, curves and what was observed."""
    parser = JobParser(__doc__)
    add_training_arguments(parser)
    add_rung_argument(parser)
    parser.input("tokens", help="token ids of the SFT rows")
    args = parser.parse_args()
    check_outputs(args)
    processes.spread(args)
    job = Job(args)

    from arms.training.loop import train
    from arms.training.observation import observe
    from arms.training.trainer import build_trainer

    settings, seed, rung = job.settings, int(job.wildcards["seed"]), Rung(job, "sft", args.rung)
    recipe = Recipe.of(settings, "sft", **rung.used())
    set_cpu(max(1, args.threads // args.processes), settings["cpu_instructions"])
    processes.join()

    rows = whole_batches(read_tokens(args.tokens), recipe.batch_size, recipe.micro_batch_size)
    inputs = {"model_sha256": read_json(args.model)["sha256"], "tokens_sha256": sha256_file(args.tokens)}
    checkpoints = Checkpoints(args.checkpoints, args.checkpoint_minutes, job, {**inputs, **rung.digests()})

    job.say("loading the base model")
    base, dtype = load_checked_base(args.model, settings["precision"])
    model = models.new_adapter(base, settings["lora"], seed)
    models.prepare_training(model, settings["lora"]["dropout"], recipe.gradient_checkpointing)
    trainer = build_trainer(recipe, model, load_tokenizer(args.model), rows, dtype, seed)

    before = models.trainable_digest(model)
    with rung.recording(trainer.curves):
        train(trainer, job, checkpoints, ["loss"])
    if models.trainable_digest(model) == before:
        raise UserError(f"training left the adapter unchanged; {few_steps('sft', trainer.state.global_step)}")
    if processes.rank() > 0:
        return

    identity = {"arm": "sft", "seed": seed, "parent_sha256": None, **inputs}
    write_outputs(args, trainer, identity, **observe(trainer), **rung.observed())
    job.finish(seed=seed, model_sha256=inputs["model_sha256"])
    losses = [row["loss"] for row in trainer.curves.rows]
    job.say(f"done: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
