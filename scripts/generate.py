"""Rule generate: answers of one policy to the held-out prompts.

    python scripts/generate.py --job '{"rule": "generate", "wildcards": {"run": "sft-seed1"}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/heldout_prompts.parquet \
        --output results/demo/sft-seed1/generations.parquet --manifest ...
"""

from __future__ import annotations

import argparse
import time

from arms.job.files import atomic_path, canonical_json, exit_with_message, read_json, sha256_bytes, sha256_file
from arms.job.manifest import Job, add_job_arguments
from arms.job.out_of_memory import naming_the_cure
from arms.job.progress import add_checkpoint_arguments, beside, read_state

ROUND = 32  # new tokens before answers that have ended leave their batch


def main() -> None:
    """Generate in batches of similar length, in rounds, and write one row a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--adapter", help="arm.json of the policy; without it the base answers")
    parser.add_argument("--tokens", required=True, help="token ids of the prompts")
    parser.add_argument("--output", required=True, help="the answers, parquet")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    add_checkpoint_arguments(parser)
    args = parser.parse_args()
    job = Job(args)

    import pandas
    import torch
    from transformers import GenerationConfig

    from arms.data.tokens import load_tokenizer, read_tokens
    from arms.model import models
    from arms.model.cpu import set_cpu

    set_cpu(args.threads, job.settings["cpu_instructions"])
    settings = job.settings["generation"]
    tokenizer = load_tokenizer(args.model)
    dtype = models.compute_dtype(job.settings["precision"])
    card = read_json(args.model)
    policy = models.load_base(args.model, job.settings["precision"])
    if args.adapter:
        identity = models.read_arm(args.adapter, card)
        policy = models.load_adapter(policy, args.adapter)
    made_from = {
        "model_sha256": card["sha256"],
        "adapter_sha256": identity["adapter_sha256"] if args.adapter else None,
    }
    policy.eval()
    device = next(policy.parameters()).device
    # The chat template's end of turn is what SFT trains; a base model may end with its tokenizer's own EOS instead, and
    # in no arm would an answer be better for running on after either.
    own_eos = tokenizer.convert_tokens_to_ids(card["tokenizer"]["own_eos_token"])
    ends = {tokenizer.eos_token_id, own_eos} - {None}
    sampled = settings["temperature"] > 0
    config = GenerationConfig(
        do_sample=sampled,
        temperature=settings["temperature"] if sampled else None,
        top_p=settings["top_p"] if sampled else None,
        top_k=0 if sampled else None,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )

    def extend(answers: list[dict], tokens: int) -> None:
        """Add up to `tokens` new tokens to each answer of one left-padded batch."""
        known = [answer["prompt_ids"] + answer["ids"] for answer in answers]
        longest = max(map(len, known))
        ids = [[tokenizer.pad_token_id] * (longest - len(row)) + row for row in known]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in known]
        config.max_new_tokens = tokens
        # A seed of its own makes a batch's draws independent of the batches before it, so a run may go on at any batch.
        first = [settings["seed"], answers[0]["prompt_id"], answers[0]["sample_idx"], len(answers[0]["ids"])]
        torch.manual_seed(int(sha256_bytes(canonical_json(first).encode())[:15], 16))
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        with torch.inference_mode(), autocast, naming_the_cure("generation.batch_size", settings["batch_size"]):
            extended = policy.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
            )
        for answer, new in zip(answers, extended[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(new, start=1) if token in ends), len(new))
            answer["ids"] += new[:end]

    answers = [
        {"prompt_id": row["id"], "sample_idx": sample, "prompt_ids": row["prompt_ids"], "ids": []}
        for row in read_tokens(args.tokens)
        for sample in range(settings["samples"])
    ]
    limit = settings["max_new_tokens"]
    progress = beside(args, job, {**made_from, "tokens_sha256": sha256_file(args.tokens)})
    saved, said = progress.latest(), time.monotonic()
    if saved:
        for answer, ids in zip(answers, read_state(saved)["ids"], strict=True):
            answer["ids"] = ids

    def is_open(answer: dict) -> bool:
        return not answer["ids"] or (answer["ids"][-1] not in ends and len(answer["ids"]) < limit)

    while open_answers := list(filter(is_open, answers)):
        # In rounds, so that a batch does not go on computing for answers that have long ended. All open answers of a
        # round are equally long, so the shortest are those that an interrupted round has left, in whole batches.
        known = min(len(answer["ids"]) for answer in open_answers)
        waiting = [answer for answer in open_answers if len(answer["ids"]) == known]
        waiting.sort(key=lambda answer: (len(answer["prompt_ids"]), answer["prompt_id"], answer["sample_idx"]))
        for start in range(0, len(waiting), settings["batch_size"]):
            extend(waiting[start : start + settings["batch_size"]], min(ROUND, limit - known))
            ids = [answer["ids"] for answer in answers]
            done = f"{sum(not is_open(answer) for answer in answers)}/{len(answers)} answers have ended"
            progress.reached(sum(map(len, ids)), {"ids": ids}, done)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                job.say(done)
    rows = [
        {
            "prompt_id": answer["prompt_id"],
            "sample_idx": answer["sample_idx"],
            **describe(answer["ids"], tokenizer, ends),
        }
        for answer in answers
    ]
    frame = pandas.DataFrame(rows).sort_values(["prompt_id", "sample_idx"], ignore_index=True)
    frame = frame.astype({"sample_idx": "int16", "n_tokens": "int32"})
    with atomic_path(args.output) as temporary:
        frame.to_parquet(temporary, index=False)
    status = frame["status"].value_counts().to_dict()
    job.say(f"done: {len(frame)} answers, {', '.join(f'{count} {name}' for name, count in status.items())}")
    job.finish(
        inputs={"model": args.model, "tokens": args.tokens, "adapter": args.adapter},
        outputs={"generations": args.output},
        answers=len(frame),
        status=status,
        **made_from,
    )


def describe(answer: list[int], tokenizer, ends: set[int]) -> dict:
    """Text, length in tokens (its end included) and status of one answer: ok, empty, or truncated (it did not end)."""
    text = tokenizer.decode(answer, skip_special_tokens=True).strip()
    status = "truncated" if answer[-1] not in ends else "ok" if text else "empty"
    return {"text": text, "n_tokens": len(answer), "status": status}


if __name__ == "__main__":
    exit_with_message(main)
