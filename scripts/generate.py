"""Rule generate: answers of one policy to the held-out prompts.

    python scripts/generate.py --job '{"rule": "generate", "wildcards": {"run": "sft-seed1"}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/heldout_prompts.parquet \
        --output results/demo/sft-seed1/generations.parquet --manifest ...
"""

from __future__ import annotations

import argparse
import time

from arms.files import atomic_path, exit_with_message
from arms.manifest import Job, add_job_arguments


def main() -> None:
    """Generate in batches of prompts of similar length and write one row a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--adapter", help="arm.json of the policy; without it the base answers")
    parser.add_argument("--tokens", required=True, help="token ids of the prompts")
    parser.add_argument("--output", required=True, help="the answers, parquet")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    job = Job(args)

    import pandas
    import torch
    from transformers import GenerationConfig, set_seed

    from arms import models
    from arms.tokens import load_tokenizer, read_tokens

    models.set_threads(args.threads)
    settings = job.settings["generation"]
    tokenizer = load_tokenizer(args.model)
    dtype = models.compute_dtype(job.settings["precision"])
    policy, card = models.load_base(args.model, job.settings["precision"])
    if args.adapter:
        identity = models.read_arm(args.adapter, card)
        policy = models.load_adapter(policy, args.adapter)
    policy.eval()
    device = next(policy.parameters()).device
    sampled = settings["temperature"] > 0
    config = GenerationConfig(
        max_new_tokens=settings["max_new_tokens"],
        do_sample=sampled,
        temperature=settings["temperature"] if sampled else None,
        top_p=settings["top_p"] if sampled else None,
        top_k=0 if sampled else None,
        num_return_sequences=settings["samples"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    set_seed(settings["seed"])

    prompts = sorted(read_tokens(args.tokens), key=lambda row: (len(row["prompt_ids"]), row["id"]))
    rows, said = [], time.monotonic()
    for start in range(0, len(prompts), settings["batch_size"]):
        batch = prompts[start : start + settings["batch_size"]]
        longest = max(len(row["prompt_ids"]) for row in batch)
        pads = [longest - len(row["prompt_ids"]) for row in batch]
        filled = [[tokenizer.pad_token_id] * pad + row["prompt_ids"] for pad, row in zip(pads, batch, strict=True)]
        ids = torch.tensor(filled, device=device)
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads], device=device)
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        with torch.inference_mode(), autocast:
            answers = policy.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for i, answer in enumerate(answers[:, longest:].tolist()):
            row = batch[i // settings["samples"]]
            rows.append({"prompt_id": row["id"], "sample_idx": i % settings["samples"], **describe(answer, tokenizer)})
        if time.monotonic() - said > 10:
            said = time.monotonic()
            job.say(f"{start + len(batch)}/{len(prompts)} prompts")
    frame = pandas.DataFrame(rows).sort_values(["prompt_id", "sample_idx"], ignore_index=True)
    frame = frame.astype({"sample_idx": "int16", "n_tokens": "int32"})
    with atomic_path(args.output) as temporary:
        frame.to_parquet(temporary, index=False)
    status = frame["status"].value_counts().to_dict()
    job.say(f"done: {len(frame)} answers, {', '.join(f'{count} {name}' for name, count in status.items())}")
    job.finish(
        inputs={"tokens": args.tokens, "adapter": args.adapter},
        outputs={"generations": args.output},
        answers=len(frame),
        status=status,
        model_sha256=card["sha256"],
        adapter_sha256=identity["adapter_sha256"] if args.adapter else None,
    )


def describe(answer: list[int], tokenizer) -> dict:
    """Text, length in tokens (EOS included) and status of one answer: ok, empty, or truncated (no EOS was reached)."""
    ended = tokenizer.eos_token_id in answer
    if ended:
        answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
    text = tokenizer.decode(answer, skip_special_tokens=True).strip()
    status = "truncated" if not ended else "ok" if text else "empty"
    return {"text": text, "n_tokens": len(answer), "status": status}


if __name__ == "__main__":
    exit_with_message(main)
