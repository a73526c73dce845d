"""Rule generate: answers of one policy to the held-out prompts.

    python scripts/generate.py --job '{"rule": "generate", "wildcards": {"run": "sft-seed1"}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/heldout_prompts.parquet \
        --generations results/demo/sft-seed1/generations.parquet --manifest ...
"""

from __future__ import annotations

from arms.data.token_rows import read_tokens
from arms.job.files import atomic_path, exit_with_message, sha256_file
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import beside, read_state
from arms.model.cpu import set_cpu
from arms.scoring.policy import add_policy_arguments, load_policy


def main() -> None:
    """Generate in batches of similar length, in rounds, and write one row a sample."""
    parser = JobParser(__doc__)
    add_policy_arguments(parser)
    parser.input("tokens", help="token ids of the prompts")
    parser.output("generations", help="the answers, parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    import pandas

    from arms.scoring.generation import Generator

    set_cpu(args.threads, job.settings["cpu_instructions"])
    policy = load_policy(args.model, args.adapter, job.settings["precision"])
    made_from = {**policy.origin, "tokens_sha256": sha256_file(args.tokens)}
    progress = beside(args.generations, args.checkpoint_minutes, job, made_from)
    saved = progress.latest()

    generator = Generator(policy, job.settings["generation"])
    samples = generator.samples(read_tokens(args.tokens), begun=read_state(saved)["ids"] if saved else None)
    for _ in generator.rounds(samples):
        ids = [sample.ids for sample in samples]
        ended = len(samples) - sum(map(generator.is_open, samples))
        progress.reached(sum(map(len, ids)), {"ids": ids}, f"{ended}/{len(samples)} answers have ended")

    keys = ["prompt_id", "sample_idx"]
    rows = [{**{key: getattr(sample, key) for key in keys}, **generator.outcome(sample)} for sample in samples]
    frame = pandas.DataFrame(rows).sort_values(keys, ignore_index=True)
    frame = frame.astype({"sample_idx": "int16", "n_tokens": "int32"})
    with atomic_path(args.generations) as temporary:
        frame.to_parquet(temporary, index=False)
    status = frame["status"].value_counts().to_dict()
    job.say(f"done: {len(frame)} answers, {', '.join(f'{count} {name}' for name, count in status.items())}")
    job.finish(answers=len(frame), status=status, **policy.origin)


if __name__ == "__main__":
    exit_with_message(main)
