"""Rule train_dpo: direct preference optimisation of one arm and seed against a reference table.

The arm sft_dpo goes on training the SFT adapter of its seed (reference: that adapter's table); dpo_only trains a fresh
adapter on the base (reference: the base's table). Nothing else differs between the two.

    python scripts/train_dpo.py --job '{"rule": "train_dpo", "wildcards": {"arm": "sft_dpo", "seed": "1"}, ...}' \
        --model results/demo/model/model.json --start results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/train_pairs.parquet --reference results/demo/sft-seed1/train_logps.parquet \
        --adapter results/demo/sft_dpo-seed1/adapter/arm.json --curves ... --observed ... --manifest ...
"""

from __future__ import annotations

import argparse

from arms.files import exit_with_message, read_json, sha256_file, write_json
from arms.manifest import Job, add_job_arguments


def main() -> None:
    """Check the reference, pass the step-0 gate, train, check that the policy moved, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--start", help="arm.json of the adapter to start from; without it a fresh one")
    parser.add_argument("--tokens", required=True, help="token ids of the training pairs")
    parser.add_argument("--reference", required=True, help="reference table of these pairs (rule score_pairs)")
    parser.add_argument("--adapter", required=True, help="output: arm.json; the adapter goes beside it")
    parser.add_argument("--curves", required=True, help="output: one row an optimiser step")
    parser.add_argument("--observed", required=True, help="output: what training really used")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    job = Job(args)

    from datasets import Dataset
    from trl import DPOConfig

    from arms import models
    from arms.dpo import TableDPOTrainer, check_moved, check_step0
    from arms.logps import check_forward
    from arms.tables import read_table
    from arms.tokens import load_tokenizer, read_tokens
    from arms.training import Curves, require_finite, show_progress, trainer_arguments, whole_batches

    models.set_threads(args.threads)
    settings, recipe = job.settings, job.settings["dpo"]
    arm, seed = job.wildcards["arm"], int(job.wildcards["seed"])
    tokenizer = load_tokenizer(args.model)
    card = read_json(args.model)
    start = models.read_arm(args.start, card) if args.start else None
    tokens_sha256 = sha256_file(args.tokens)
    pairs = read_tokens(args.tokens)
    origin = {
        "model_sha256": card["sha256"],
        "adapter_sha256": start["adapter_sha256"] if start else None,
        "tokens_sha256": tokens_sha256,
        "precision": settings["precision"],
    }
    reference = read_table(args.reference, origin, [pair["id"] for pair in pairs])
    for pair in pairs:
        for side in ("chosen", "rejected"):
            row = reference[pair["id"]]
            length = row[f"{side}_tokens"] if recipe["loss_type"] == "ipo" else 1
            pair[f"reference_{side}_logps"] = row[f"{side}_logp"] / length

    job.say("loading the base model")
    dtype = models.compute_dtype(settings["precision"])
    base, _ = models.load_base(args.model, settings["precision"])
    forking = check_forward(base, dtype)
    if args.start:
        from transformers import set_seed

        set_seed(seed)
        model = models.load_adapter(base, args.start, trainable=True)
    else:
        model = models.new_adapter(base, settings["lora"], seed)
    models.prepare_training(model, recipe["gradient_checkpointing"])
    rows, curves = whole_batches(pairs, recipe), Curves()
    trainer = TableDPOTrainer(
        model=model,
        ref_model=None,
        args=DPOConfig(
            beta=recipe["beta"],
            loss_type=recipe["loss_type"],
            label_smoothing=recipe["label_smoothing"],
            max_length=settings["max_length"],
            max_prompt_length=settings["max_length"],
            **trainer_arguments(recipe, seed),
        ),
        train_dataset=Dataset.from_list(rows),
        tokenizer=tokenizer,
        curves=curves,
        dtype=dtype,
        forking=forking,
    )
    show_progress(trainer, job, curves, ["loss", "margin"])
    facts = models.trainable_facts(model)
    step0 = check_step0(trainer)
    job.say(f"step-0 gate passed: loss {step0['loss']:.6f}, closed form {step0['closed_form']:.6f}")
    before = models.trainable_digest(model)
    result = trainer.train()
    require_finite(curves, "train_dpo")
    moved = check_moved(before, models.trainable_digest(model), curves)

    identity = {"arm": arm, "seed": seed, "model_sha256": card["sha256"], "tokens_sha256": tokens_sha256}
    identity = models.save_adapter(model, args.adapter, identity)
    curves.write(args.curves, trainer.state.log_history)
    observed = {
        **identity,
        **facts,
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "tokens_seen": curves.tokens,
        "batch_order_sha256": curves.order.hexdigest(),
        "reference": origin,
        "step0": step0,
        **moved,
    }
    write_json(args.observed, observed)
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens, "reference": args.reference, "start": args.start},
        outputs={**models.adapter_files(args.adapter), "curves": args.curves, "observed": args.observed},
        seed=seed,
        model_sha256=card["sha256"],
        step0=step0,
        tokens_per_second=round(curves.tokens / result.metrics["train_runtime"], 1),
    )
    job.say(f"done: margin {moved['margin_first']:.3f} -> {moved['margin_last']:.3f}")


if __name__ == "__main__":
    exit_with_message(main)
