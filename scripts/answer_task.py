"""Rule answer_task: one policy's answers to what a task asks.

    python scripts/answer_task.py --job '{"rule": "answer_task", "wildcards": {...}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --tokens results/demo/tasks/T.tokens.parquet --answers results/demo/sft-seed1/T.answers.parquet --manifest ...
"""

from __future__ import annotations

from arms.data.requests import ANSWERS, TOKENS, read_rows, write_rows
from arms.job.files import exit_with_message, sha256_file
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import beside, read_state
from arms.model.cpu import set_cpu
from arms.scoring.policy import add_policy_arguments, load_policy


def main() -> None:
    """Score continuations and write answers in batches of like length, and write one row a request, in their order."""
    parser = JobParser(__doc__)
    add_policy_arguments(parser)
    parser.input("tokens", help="token ids of the requests")
    parser.output("answers", help="the answers, parquet (output)")
    args = parser.parse_args()
    job = Job(args)

    from arms.scoring.task_answers import Writer, score_answers

    settings = job.settings
    set_cpu(args.threads, settings["cpu_instructions"])
    policy = load_policy(args.model, args.adapter, settings["precision"])
    made_from = {**policy.origin, "tokens_sha256": sha256_file(args.tokens)}
    progress = beside(args.answers, args.checkpoint_minutes, job, made_from)
    saved = progress.latest()
    state = read_state(saved) if saved else {"scores": {}, "ids": None}

    rows = read_rows(args.tokens, TOKENS)
    choices = [row for row in rows if row["answer_ids"] is not None]
    questions = [row for row in rows if row["answer_ids"] is None]
    scores = state["scores"] = {int(place): tuple(score) for place, score in state["scores"].items()}
    for known in score_answers(policy, choices, settings["scoring"]["batch_size"], scores):
        progress.reached(len(known), state, f"{len(known)}/{len(choices)} continuations scored")

    writer = Writer(policy, questions, settings["generation"]["batch_size"])
    written = writer.answers(questions, state["ids"])
    for _ in writer.rounds(written):
        state["ids"] = [answer.ids for answer in written]
        ended = len(written) - sum(map(writer.is_open, written))
        done = len(scores) + sum(map(len, state["ids"]))
        progress.reached(done, state, f"{ended}/{len(written)} answers have ended")

    scored = iter([dict(zip(("logp", "greedy"), scores[place], strict=True)) for place in range(len(choices))])
    told = iter([writer.outcome(answer) for answer in written])
    answers = [next(told if row["answer_ids"] is None else scored) for row in rows]
    write_rows(args.answers, answers, ANSWERS)
    truncated = sum(answer.get("status") == "truncated" for answer in answers)
    job.say(f"done: {len(choices)} continuations, {len(written)} answers, {truncated} of them never ended")
    job.finish(continuations=len(choices), answers=len(written), truncated=truncated, **policy.origin)


if __name__ == "__main__":
    exit_with_message(main)
