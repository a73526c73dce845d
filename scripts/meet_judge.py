"""Rule meet_judge: ask a judge one question, and put on record who answers.

    python scripts/meet_judge.py --job '{"rule": "meet_judge", "wildcards": {"judge": "qwen"}, "settings": {...}}' \
        --reach '{"endpoint": "http://localhost:8000/v1", ...}' --met results/demo/judge/qwen.json --manifest ...

Settings: model, parameters. --met: model as it is asked for, `served` as it says it is, prompt, prompt_sha256,
parameters. All comparisons depend on it. --reach decides no result.
"""

from __future__ import annotations

import json

from arms.job.files import UserError, exit_with_message, sha256_bytes, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.judging.kept import Kept, Ledger
from arms.judging.prompt import BUILT_IN, filled_in, read_prompt, verdict


def main() -> None:
    """Read the prompt, ask, write."""
    parser = JobParser(__doc__)
    parser.input("prompt", nargs="*", default=[], help="text file with a prompt of the user's")
    parser.add_argument("--reach", required=True, type=json.loads, metavar="JSON", help="where it is, and its limits")
    parser.output("met", help="the judge (JSON, output)")
    args = parser.parse_args()
    job = Job(args)

    from arms.judging.endpoint import Endpoint, RefusedRequest

    name, reach = job.wildcards["judge"], args.reach
    prompt = read_prompt(args.prompt[0]) if args.prompt else BUILT_IN
    judge = {**job.settings, "prompt": prompt, "prompt_sha256": sha256_bytes(prompt.encode("utf-8"))}
    with Kept(reach["kept"]).alone(judge["model"], job.say):
        endpoint = Endpoint(name, reach, Ledger(reach["kept"], reach["ledger"]))
        try:
            reply = endpoint.ask(judge, filled_in(prompt, "What is 2 + 2?", "It is 4.", "It is 5."))
        except RefusedRequest as error:
            raise UserError(
                f"evaluation.judges.{name}: {reach['endpoint']} does not take the question ({error}); correct `model`, "
                "temperature, max_tokens or parameters"
            ) from None
    found = verdict(reply["text"])
    if found is None:
        job.say(
            f"warning: {judge['model']} gave no verdict, but {reply['text'][-200:]!r}; such judgements will be missing"
        )
    write_json(args.met, {**judge, "served": reply["model"]})
    job.say(f"{judge['model']} answers as {reply['model']}; it said {found or 'no verdict'} where A is right")
    job.finish(endpoint=reach["endpoint"], verdict=found, prompt_sha256=judge["prompt_sha256"], **reply)


if __name__ == "__main__":
    exit_with_message(main)
