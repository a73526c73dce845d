"""Rule score_answers: what a reward model thinks of each answer of one run to the held-out prompts.

    python scripts/score_answers.py --job '{"rule": "score_answers", "wildcards": {"reward": "rm", ...}, ...}' \
        --met results/demo/judge/rm.json --prompts P.parquet --generations base/generations.parquet \
        --rewards base/rm.rewards.parquet --manifest ...

The weights lie beside --met. --rewards: prompt_id, sample_idx, reward, sorted; the sample's text decides nothing else.
"""

from __future__ import annotations

from pathlib import Path

from arms.job.files import UserError, exit_with_message, read_json, sha256_file
from arms.job.formats import read_rows
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.job.progress import add_checkpoint_arguments, beside, read_state
from arms.judging.comparisons import read_answers, write_table
from arms.model.cpu import set_cpu


def main() -> None:
    """Load, score one answer after the other, or those that a killed run has not scored, and write."""
    parser = JobParser(__doc__)
    parser.input("met", help="the reward model (rule fetch_reward)")
    parser.input("prompts", help="checked table of the held-out prompts")
    parser.input("generations", help="answers of the run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    add_checkpoint_arguments(parser)
    parser.output("rewards", help="rewards (output)")
    args = parser.parse_args()
    job = Job(args)

    from arms.judging.reward import RewardModel

    set_cpu(args.threads, job.settings["cpu_instructions"])
    precision = read_json(args.met)["parameters"]["precision"]
    questions = {row["id"]: row["prompt"] for row in read_rows(args.prompts, {"id": str, "prompt": str})}
    answers = read_answers(args.generations)
    model = RewardModel(Path(args.met).with_suffix(".weights"), precision)
    made_from = {name: sha256_file(getattr(args, name)) for name in ("met", "prompts", "generations")}
    progress = beside(args.rewards, args.checkpoint_minutes, job, made_from)
    saved = progress.latest()
    rewards = read_state(saved)["rewards"] if saved else []
    asked = sorted(answers)
    for prompt, sample in asked[len(rewards) :]:
        try:
            rewards.append(model.score(questions[prompt], answers[prompt, sample]))
        except UserError as error:
            raise UserError(f"{args.generations}, {prompt}: {error}") from None
        progress.reached(len(rewards), {"rewards": rewards}, f"{len(rewards)}/{len(asked)} answers scored")
    rows = [(*key, reward) for key, reward in zip(asked, rewards, strict=True)]
    write_table(args.rewards, {"prompt_id": "string", "sample_idx": "int16", "reward": "double"}, rows)
    mean = sum(rewards) / len(rewards)
    job.say(f"{len(rows)} answers, mean reward {mean:.3f}")
    job.finish(answers=len(rows), mean=mean)


if __name__ == "__main__":
    exit_with_message(main)
