"""Rule score_pairs: log-probabilities of chosen and rejected completions under one policy.

On the training pairs the result is a reference table; on the held-out pairs it is what an arm is judged by.

    python scripts/score_pairs.py --job '{"rule": "score_pairs", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/train_pairs.parquet \
        --output results/demo/sft-seed1/train_logps.parquet --manifest ...
"""

from __future__ import annotations

import argparse
import time

from arms.job.files import exit_with_message, read_json, sha256_file
from arms.job.manifest import Job, add_job_arguments
from arms.job.out_of_memory import naming_the_cure
from arms.job.progress import add_checkpoint_arguments, beside, read_state


def main() -> None:
    """Score all pairs in file order, in batches of one size, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--adapter", help="arm.json of the policy; without it the base is scored")
    parser.add_argument("--tokens", required=True, help="token ids of the pairs")
    parser.add_argument("--output", required=True, help="the table, parquet")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    add_checkpoint_arguments(parser)
    args = parser.parse_args()
    job = Job(args)

    import torch

    from arms.data.tokens import load_tokenizer, read_tokens
    from arms.model import models
    from arms.model.cpu import set_cpu
    from arms.scoring.logps import check_forward, pair_batch, pair_logps
    from arms.scoring.tables import write_table

    set_cpu(args.threads, job.settings["cpu_instructions"])
    tokenizer = load_tokenizer(args.model)
    dtype = models.compute_dtype(job.settings["precision"])
    card = read_json(args.model)
    policy = models.load_base(args.model, job.settings["precision"])
    forking = check_forward(policy, dtype)
    if args.adapter:
        identity = models.read_arm(args.adapter, card)
        policy = models.load_adapter(policy, args.adapter)
    policy.eval()
    made_from = {
        "model_sha256": card["sha256"],
        "adapter_sha256": identity["adapter_sha256"] if args.adapter else None,
        "tokens_sha256": sha256_file(args.tokens),
        "precision": job.settings["precision"],
    }
    device = next(policy.parameters()).device

    pairs, size = read_tokens(args.tokens), job.settings["batch_size"]
    progress = beside(args, job, made_from)
    saved, said = progress.latest(), time.monotonic()
    rows = read_state(saved)["rows"] if saved else []
    for start in range(len(rows), len(pairs), size):
        batch = pairs[start : start + size]
        tensors = pair_batch(batch, tokenizer.pad_token_id, forking)
        with torch.no_grad(), naming_the_cure("scoring.batch_size", size):
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
            scores = [values.tolist() for values in pair_logps(policy, tensors, forking, dtype)]
        for pair, chosen, rejected, chosen_tokens, rejected_tokens in zip(batch, *scores, strict=True):
            rows.append(
                {
                    "pair_id": pair["id"],
                    "chosen_logp": chosen,
                    "chosen_tokens": chosen_tokens,
                    "rejected_logp": rejected,
                    "rejected_tokens": rejected_tokens,
                }
            )
        done = f"{len(rows)}/{len(pairs)} pairs"
        progress.reached(len(rows), {"rows": rows}, done)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            job.say(done)
    accuracy = sum(row["chosen_logp"] > row["rejected_logp"] for row in rows) / len(rows)
    write_table(args.output, rows, made_from)
    job.say(f"done: {len(rows)} pairs, chosen more likely than rejected in {accuracy:.1%}")
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens, "adapter": args.adapter},
        outputs={"table": args.output},
        pairs=len(rows),
        preference_accuracy=accuracy,
        **made_from,
    )


if __name__ == "__main__":
    exit_with_message(main)
