"""Rule score_pairs: log-probabilities of chosen and rejected completions under one policy.

On the training pairs the result is a reference table; on the held-out pairs it is what an arm is judged by.

    python scripts/score_pairs.py --job '{"rule": "score_pairs", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tokens/train_pairs.parquet \
        --table results/demo/sft-seed1/train_logps.parquet --manifest ...
"""

from __future__ import annotations

from arms.data.token_rows import read_tokens
from arms.job.files import exit_with_message
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import beside, read_state
from arms.model.cpu import set_cpu
from arms.scoring.policy import add_policy_arguments, load_policy
from arms.scoring.tables import origin_of, score, write_table


def main() -> None:
    """Score all pairs in batches of like length, the longest first, and write the table in file order."""
    parser = JobParser(__doc__)
    add_policy_arguments(parser)
    parser.input("tokens", help="token ids of the pairs")
    parser.output("table", help="their log-probabilities, parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    settings = job.settings
    set_cpu(args.threads, settings["cpu_instructions"])
    policy = load_policy(args.model, args.adapter, settings["precision"])
    made_from = origin_of(policy.card, policy.adapter_sha256, args.tokens, settings["precision"])
    progress = beside(args.table, args.checkpoint_minutes, job, made_from)
    saved = progress.latest()

    pairs, size = read_tokens(args.tokens), settings["batch_size"]
    rows, order = read_state(saved)["rows"] if saved else [], pairs.longest_first()
    for start in range(len(rows), len(pairs), size):
        rows += score(policy, [pairs[place] for place in order[start : start + size]], size)
        progress.reached(len(rows), {"rows": rows}, f"{len(rows)}/{len(pairs)} pairs")
    rows = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda item: item[0])]

    accuracy = sum(row["chosen_logp"] > row["rejected_logp"] for row in rows) / len(rows)
    write_table(args.table, rows, made_from)
    job.say(f"done: {len(rows)} pairs, chosen more likely than rejected in {accuracy:.1%}")
    job.finish(pairs=len(rows), preference_accuracy=accuracy, **made_from)


if __name__ == "__main__":
    exit_with_message(main)
