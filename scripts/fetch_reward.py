"""Rule fetch_reward: fetch a reward model, check that it is one, and describe it.

    python scripts/fetch_reward.py --job '{"rule": "fetch_reward", "wildcards": {"reward": "rm"}, "settings": {...}}' \
        --weights results/demo/judge/rm.weights --met results/demo/judge/rm.json --manifest ...

Settings: model (source, and path, or id and revision), precision. Weights are linked, not copied; only safetensors are
taken. --met has the keys that a judge behind an endpoint has; `served` is the sha256 of all files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from arms.job.files import UserError, exit_with_message, sha256_file, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.judging.reward import check_reward_model
from arms.model.sources import from_hub, from_path

SOURCES = {"hub": from_hub, "path": from_path}


def main() -> None:
    """Link into a folder beside its place, check, and let it replace an earlier one."""
    parser = JobParser(__doc__)
    parser.input("files", nargs="*", default=[], help="files of a model in a folder")
    parser.output("weights", type=Path, metavar="DIR", help="folder for the model (output)")
    parser.output("met", help="the judge (JSON, output)")
    args = parser.parse_args()
    job = Job(args)
    model, name = job.settings["model"], job.wildcards["reward"]

    building = args.weights.with_name(f".{args.weights.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    building.mkdir(parents=True)
    try:
        SOURCES[model["source"]](model, building, job)
        found = check_reward_model(building)
        served = sha256_file(building)
        shutil.rmtree(args.weights, ignore_errors=True)
        building.rename(args.weights)
    except UserError as error:
        raise UserError(f"evaluation.judges.{name}.reward_model: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    label = model.get("id") or Path(model["path"]).name
    parameters = {"precision": job.settings["precision"]}
    judge = {"model": label, "served": served, "prompt": None, "prompt_sha256": None, "parameters": parameters}
    write_json(args.met, judge)
    job.say(f"{label}: {found['architecture']}, sha256 {served[:16]}")
    job.finish(served=served, **found)


if __name__ == "__main__":
    exit_with_message(main)
