"""Rule train_sft: supervised fine-tuning of a fresh LoRA adapter on the base, for one seed.

    python scripts/train_sft.py --job '{"rule": "train_sft", "wildcards": {"seed": "1"}, "settings": {...}}' \
        --model results/demo/model/model.json --tokens results/demo/tokens/sft.parquet \
        --adapter results/demo/sft-seed1/adapter/arm.json --curves results/demo/sft-seed1/curves.parquet \
        --observed results/demo/sft-seed1/observed.json --manifest results/demo/sft-seed1/train.manifest.json
"""

from __future__ import annotations

import argparse

from arms.files import UserError, exit_with_message, sha256_file, write_json
from arms.manifest import Job, add_job_arguments


def main() -> None:
    """Train, check that the adapter moved, and write adapter, curves and what was observed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--tokens", required=True, help="token ids of the SFT rows")
    parser.add_argument("--adapter", required=True, help="output: arm.json; the adapter goes beside it")
    parser.add_argument("--curves", required=True, help="output: one row an optimiser step")
    parser.add_argument("--observed", required=True, help="output: what training really used")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    job = Job(args)

    from datasets import Dataset
    from trl import SFTConfig

    from arms import models
    from arms.logps import check_forward
    from arms.sft import CompletionSFTTrainer, collate
    from arms.tokens import load_tokenizer, read_tokens
    from arms.training import Curves, require_finite, show_progress, trainer_arguments, whole_batches

    models.set_threads(args.threads)
    recipe, seed = job.settings["sft"], int(job.wildcards["seed"])
    tokenizer = load_tokenizer(args.model)
    dtype = models.compute_dtype(job.settings["precision"])
    job.say("loading the base model")
    base, card = models.load_base(args.model, job.settings["precision"])
    check_forward(base, dtype)
    model = models.new_adapter(base, job.settings["lora"], seed)
    models.prepare_training(model, recipe["gradient_checkpointing"])
    rows = whole_batches(read_tokens(args.tokens), recipe)
    curves = Curves()
    trainer = CompletionSFTTrainer(
        model=model,
        args=SFTConfig(max_seq_length=job.settings["max_length"], **trainer_arguments(recipe, seed)),
        train_dataset=Dataset.from_list(rows),
        data_collator=collate(tokenizer.pad_token_id),
        tokenizer=tokenizer,
        curves=curves,
        dtype=dtype,
    )
    show_progress(trainer, job, curves, ["loss"])
    before = models.trainable_digest(model)
    facts = models.trainable_facts(model)
    result = trainer.train()
    require_finite(curves, "train_sft")
    if models.trainable_digest(model) == before:
        raise UserError("training left the adapter unchanged; raise sft.learning_rate or sft.epochs")

    tokens_sha256 = sha256_file(args.tokens)
    identity = {"arm": "sft", "seed": seed, "model_sha256": card["sha256"], "tokens_sha256": tokens_sha256}
    identity = models.save_adapter(model, args.adapter, identity)
    curves.write(args.curves, trainer.state.log_history)
    observed = {
        **identity,
        **facts,
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "tokens_seen": curves.tokens,
        "batch_order_sha256": curves.order.hexdigest(),
    }
    write_json(args.observed, observed)
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens},
        outputs={**models.adapter_files(args.adapter), "curves": args.curves, "observed": args.observed},
        seed=seed,
        model_sha256=card["sha256"],
        tokens_per_second=round(curves.tokens / result.metrics["train_runtime"], 1),
    )
    job.say(f"done: loss {curves.rows[0]['loss']:.3f} -> {curves.rows[-1]['loss']:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
