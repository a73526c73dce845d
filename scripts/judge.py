"""Rule judge: a judge's verdicts about the answers of two runs to the held-out prompts, in both orders.

    python scripts/judge.py --job '{"rule": "judge", "wildcards": {"judge": "qwen", "run": "sft_dpo-seed1", ...}}' \
        --reach '{"endpoint": "http://localhost:8000/v1", ...}' --met results/demo/judge/qwen.json \
        --prompts P.parquet --first A/generations.parquet --second B/generations.parquet \
        --scores "scores/metric=judge.qwen/part-A-vs-B.parquet" --answers judge/qwen/A-vs-B.parquet --manifest ...

Every answer is kept at once, by its content; what is kept is not asked again. An answer without a verdict has the
status judge_fail, a request that the endpoint does not take has error. --answers is what the judge wrote, word for
word. Kept answers give equal bytes.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from arms.job.files import UserError, exit_with_message, read_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.judging.comparisons import ANSWERS, Comparison, comparisons, write_judgements, write_table
from arms.judging.kept import Kept, Ledger, key_of
from arms.judging.prompt import VERDICTS, filled_in, verdict
from study.runs import Run

TELL_SECONDS = 30


def main() -> None:
    """Ask what is not kept, then write."""
    parser = JobParser(__doc__)
    parser.input("met", help="the judge (rule meet_judge)")
    parser.input("prompts", help="checked table of the held-out prompts")
    parser.input("first", help="answers of the first run")
    parser.input("second", help="answers of the second run")
    parser.add_argument("--reach", required=True, type=json.loads, metavar="JSON", help="where it is, and its limits")
    parser.output("scores", help="metric=judge.<judge>/part-<run>-vs-<run>.parquet (output)")
    parser.output("answers", help="what the judge wrote (output)")
    args = parser.parse_args()
    job = Job(args)

    judge, asked = read_json(args.met), Asked(job, args)
    compared = list(comparisons(args.prompts, args.first, args.second))
    keys = {one: key_of(judge, one.question, one.answer_a, one.answer_b) for one in compared if not one.unasked}
    replies = asked.all(judge, {key: one for one, key in keys.items()})
    judged, written = [], []
    for one in compared:
        reply: dict[str, Any] = replies[keys[one]] if one in keys else {}
        said = verdict(reply.get("text", ""))
        value, why = one.unasked or (VERDICTS[said] if said else None, None)
        status = "ok" if value is not None else "error" if "refused" in reply else "judge_fail"
        judged.append((one, value, status))
        fields = [reply.get(name) for name in list(ANSWERS)[7:-1]]
        first = job.wildcards["other" if one.reversed else "run"]
        written.append((one.prompt_id, one.sample_idx, first, value, said, status, why, *fields, keys.get(one)))
    run, other = (Run.parse(job.wildcards[name]) for name in ("run", "other"))
    write_judgements(args.scores, run, other, judged)
    write_table(args.answers, ANSWERS, written)
    facts = summary(compared, judged, replies)
    job.say(f"{len(compared)} comparisons: {facts['values']}, {facts['statuses']}; {asked.new} asked in this job")
    if len(facts["fingerprints"]) > 1:
        job.say(f"warning: system_fingerprint changed: {', '.join(map(str, facts['fingerprints']))}")
    job.finish(endpoint=args.reach["endpoint"], prompt_sha256=judge["prompt_sha256"], served=judge["served"], **facts)


def summary(compared: list[Comparison], judged: list[tuple], replies: dict[str, dict]) -> dict:
    """What happened, for the manifest: nothing that depends on which job asked."""
    values = Counter({1.0: "first", 0.0: "second", 0.5: "tie"}[value] for _, value, _ in judged if value is not None)
    return {
        "comparisons": len(compared),
        "unasked": sum(one.unasked is not None for one in compared),
        "values": dict(sorted(values.items())),
        "statuses": dict(sorted(Counter(status for _, _, status in judged).items())),
        "fingerprints": sorted({reply.get("fingerprint") for reply in replies.values()} - {None}),
        "tokens": sum(
            reply.get(f"{side}_tokens") or 0 for reply in replies.values() for side in ("prompt", "completion")
        ),
    }


class Asked:
    """The questions of one job. new: how many were really asked."""

    def __init__(self, job: Job, args: Any) -> None:
        self.job, self.reach, self.met = job, args.reach, args.met
        self.kept, self.name, self.new = Kept(args.reach["kept"]), job.wildcards["judge"], 0

    def all(self, judge: dict, questions: dict[str, Comparison]) -> dict[str, dict]:
        """Key -> answer, or {"refused": why}; UserError for what the user has to mend."""
        found = {key: reply for key in questions if (reply := self.kept.get(key))}
        self.job.say(f"{len(found)} of {len(questions)} answers are kept from before")
        if len(found) == len(questions):
            return found
        with self.kept.alone(judge["model"], self.job.say):
            found |= {key: reply for key in questions if key not in found and (reply := self.kept.get(key))}
            missing = {key: one for key, one in questions.items() if key not in found}
            return found | (self.ask(judge, missing, len(questions)) if missing else {})

    def ask(self, judge: dict, missing: dict[str, Comparison], total: int) -> dict[str, dict]:
        """Ask in parallel. The first error lets no other request begin; those under way are still kept."""
        from arms.judging.endpoint import Endpoint

        endpoint, stop = (
            Endpoint(self.name, self.reach, Ledger(self.reach["kept"], self.reach["ledger"])),
            threading.Event(),
        )
        found: dict[str, dict] = {}
        pool = ThreadPoolExecutor(self.reach["parallel"])
        try:
            futures = {pool.submit(self.one, endpoint, judge, key, one, stop): key for key, one in missing.items()}
            told, failed = time.monotonic(), None
            for future in as_completed(futures):
                try:
                    if reply := future.result():
                        found[futures[future]] = reply
                except UserError as error:
                    failed = failed or error
                    stop.set()
                if time.monotonic() - told > TELL_SECONDS and not failed:
                    told = time.monotonic()
                    self.job.say(f"{total - len(missing) + len(found)} of {total} answers")
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        refused = [reply["refused"] for reply in found.values() if "refused" in reply]
        self.new = len(found) - len(refused)
        if failed:
            raise UserError(f"{failed} ({total - len(missing) + self.new} of {total} answers are kept)")
        if refused and len(refused) == total:
            raise UserError(f"{endpoint.where}: the endpoint takes none of the questions ({refused[0]})")
        return found

    def one(self, endpoint: Any, judge: dict, key: str, compared: Comparison, stop: threading.Event) -> dict | None:
        """One answer, kept before anything else; None after an error elsewhere."""
        from arms.judging.endpoint import RefusedRequest, same_model

        if stop.is_set():
            return None
        texts = compared.question, compared.answer_a, compared.answer_b
        try:
            reply = endpoint.ask(judge, filled_in(judge["prompt"], *texts))
        except RefusedRequest as error:
            return {"refused": str(error)}
        own = key if reply["model"] == judge["served"] else key_of(judge | {"served": reply["model"]}, *texts)
        self.kept.put(own, reply)
        same_model(judge, reply, endpoint.where, self.met)
        return reply


if __name__ == "__main__":
    exit_with_message(main)
