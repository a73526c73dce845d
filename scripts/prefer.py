"""Rule prefer: which of two runs' answers a reward model prefers, as rule judge writes it.

    python scripts/prefer.py --job '{"rule": "prefer", "wildcards": {"reward": "armo", "run": "sft-seed1", ...}}' \
        --met M.json --prompts P.parquet --first A/generations.parquet --second B/generations.parquet \
        --first-rewards A/armo.rewards.parquet --second-rewards B/armo.rewards.parquet \
        --scores "scores/metric=judge.armo/part-A-vs-B.parquet" --answers judge/armo/A-vs-B.parquet --manifest ...

The higher reward wins. Each answer is scored by itself, so both orders say the same.
"""

from __future__ import annotations

from collections import Counter

from arms.job.files import UserError, exit_with_message, read_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.judging.comparisons import ANSWERS, comparisons, write_judgements, write_table
from study.runs import Run


def main() -> None:
    """Compare and write."""
    parser = JobParser(__doc__)
    parser.input("met", help="the reward model (rule fetch_reward)")
    parser.input("prompts", help="checked table of the held-out prompts")
    parser.input("first", help="answers of the first run")
    parser.input("second", help="answers of the second run")
    parser.input("first_rewards", help="rewards of the first run's answers")
    parser.input("second_rewards", help="rewards of the second run's answers")
    parser.output("scores", help="metric=judge.<reward>/part-<run>-vs-<run>.parquet (output)")
    parser.output("answers", help="the same with both rewards (output)")
    args = parser.parse_args()
    job = Job(args)

    judge, rewards = read_json(args.met), (read_rewards(args.first_rewards), read_rewards(args.second_rewards))
    judged, written = [], []
    for one in comparisons(args.prompts, args.first, args.second):
        a, b = (side[one.prompt_id, one.sample_idx] for side in (reversed(rewards) if one.reversed else rewards))
        value, why = one.unasked or (1.0 if a > b else 0.0 if b > a else 0.5, None)
        judged.append((one, value, "ok"))
        row = dict.fromkeys(ANSWERS) | {
            "prompt_id": one.prompt_id, "sample_idx": one.sample_idx, "value": value, "status": "ok", "unasked": why,
            "first": job.wildcards["other" if one.reversed else "run"], "text": f"{a!r} against {b!r}",
            "model": judge["served"],
        }  # fmt: skip
        written.append(tuple(row.values()))
    run, other = (Run.parse(job.wildcards[name]) for name in ("run", "other"))
    write_judgements(args.scores, run, other, judged)
    write_table(args.answers, ANSWERS, written)
    values = Counter({1.0: "first", 0.0: "second", 0.5: "tie"}[value] for _, value, _ in judged)
    job.say(f"{len(judged)} comparisons: {dict(sorted(values.items()))}")
    job.finish(comparisons=len(judged), values=dict(sorted(values.items())), served=judge["served"])


def read_rewards(path: str) -> dict[tuple[str, int], float]:
    """(prompt, sample) -> reward."""
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=["prompt_id", "sample_idx", "reward"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a table of rewards ({error}); delete it and run Snakemake again") from None
    return {(row["prompt_id"], row["sample_idx"]): row["reward"] for row in rows}


if __name__ == "__main__":
    exit_with_message(main)
