"""Greedy answers: ours against `transformers.generate`, side by side in one process, with the same batches.

    .envs/train/bin/python benchmarks/generation.py --model results/demo/model/model.json \
        --tokens results/demo/tokens/heldout_prompts.parquet [--shared 512] [--adapter .../arm.json]

transformers answers each batch of 32 prompts of like length until its last answer has ended. --shared puts that many
drawn tokens before every prompt, as a few-shot example would. Prints the median ratio of CPU seconds over the runs, and
how many answers are the same token for token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

if TYPE_CHECKING:
    from arms.scoring.generation import Generator

SIZE = 32


def main() -> None:
    """Let both answer the prompts several times, in turns, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--adapter", help="arm.json of an adapter")
    parser.add_argument("--tokens", required=True, help="token ids of the prompts, parquet")
    parser.add_argument("--prompts", type=int, default=120, help="how many of them")
    parser.add_argument("--shared", type=int, default=0, help="tokens that stand before every prompt")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    import numpy

    from arms.data.token_rows import read_tokens
    from arms.model.cpu import set_cpu
    from arms.scoring.generation import Generator
    from arms.scoring.policy import load_policy

    set_cpu(args.threads, "native")
    policy = load_policy(args.model, args.adapter, "fp32")
    before = numpy.random.default_rng(0).integers(1000, policy.card["vocab_size"] - 1000, args.shared).tolist()
    rows = [{**row, "prompt_ids": before + row["prompt_ids"]} for row in read_tokens(args.tokens)[: args.prompts]]
    rows.sort(key=lambda row: len(row["prompt_ids"]))
    given = {"max_new_tokens": args.max_new_tokens, "samples": 1, "temperature": 0.0, "top_p": 1.0, "seed": 1}
    generator = Generator(policy, {**given, "batch_size": SIZE})
    ways: dict[str, Callable] = {"transformers": theirs, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[list[int]]] = {}
    for run in range(args.runs):
        for name, answers in ways.items():
            started = time.process_time()
            found[name] = answers(generator, rows)
            seconds[name].append(time.process_time() - started)
            print(f"run {run + 1}: {name} {seconds[name][-1]:.1f} CPU s", file=sys.stderr, flush=True)
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    same = sum(one == other for one, other in zip(*found.values(), strict=True))
    tokens = sum(map(len, found["ours"]))
    print(f"{tokens} tokens of {len(rows)} answers; {same} answers the same")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def ours(generator: Generator, rows: list[dict]) -> list[list[int]]:
    """The ids of each answer, by the study's own program."""
    samples = generator.samples(rows)
    for _ in generator.rounds(samples):
        pass
    return [sample.ids for sample in samples]


def theirs(generator: Generator, rows: list[dict]) -> list[list[int]]:
    """The same by `transformers.generate` alone."""
    import torch

    from arms.scoring.generation import padded

    policy, found = generator.policy, []
    generator.config.max_new_tokens = generator.limit
    for start in range(0, len(rows), SIZE):
        batch = [row["prompt_ids"] for row in rows[start : start + SIZE]]
        ids, mask = padded(batch, 0, policy.tokenizer.pad_token_id, policy.device)
        with torch.inference_mode():
            whole = policy.model.generate(input_ids=ids, attention_mask=mask, generation_config=generator.config)
        for new in whole[:, ids.shape[1] :].tolist():
            found.append(new[: next((n for n, token in enumerate(new, 1) if token in generator.ends), len(new))])
    return found


if __name__ == "__main__":
    main()
