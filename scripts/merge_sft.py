"""Rule merge_sft: the SFT adapter of one seed merged into the base, as a model of its own that DPO then starts from.

    python scripts/merge_sft.py --job '{"rule": "merge_sft", "wildcards": {"seed": "1"}, "settings": {...}}' \
        --model results/demo/model/model.json --adapter results/demo/sft-seed1/adapter/arm.json \
        --weights results/demo/sft-seed1/merged/weights --card results/demo/sft-seed1/merged/model.json --manifest ...

Only with sft_dpo.start: merged. The card is like the base's, so every program that loads the base can load this model;
its sha256 is another one, and its `source` names the base and the adapter that it was made of. Before it is kept, it is
loaded, and its log-probabilities are compared with those of the base with the adapter.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from arms.job.files import UserError, exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from arms.model.cpu import set_cpu
from arms.model.folders import replace_folder
from arms.model.loader import check_loader
from arms.model.merged_card import source_of
from arms.model.merging import LOST, ROUNDING, TOLERANCE, merge_into


def main() -> None:
    """Merge into a folder beside its place, check what can be loaded from there, and only then keep it."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model")
    parser.input("adapter", help="arm.json of the SFT adapter")
    parser.output("weights", type=Path, metavar="DIR", help="folder for the merged model (output)")
    parser.output("card", type=Path, help="description of the merged model (output)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    job = Job(args)

    from arms.model.base_card import describe_base
    from arms.scoring.agreement import our_logps, probe_pairs
    from arms.scoring.logps import takes_forks
    from arms.scoring.policy import load_policy

    precision, building = job.settings["precision"], args.card.with_name(".building")
    set_cpu(args.threads, job.settings["cpu_instructions"])
    policy = load_policy(args.model, args.adapter, precision)
    pairs, forking = probe_pairs(policy.card["vocab_size"]), takes_forks(policy.model)
    expected = our_logps(policy.model, pairs, forking, policy.dtype)
    with policy.model.disable_adapter():
        learnt = (our_logps(policy.model, pairs, forking, policy.dtype) - expected).abs().mean().item()
    origin, loader = policy.origin, policy.card.get("loader")

    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    folder, base = building / "weights", Path(args.model).with_name("weights")
    folder.mkdir(parents=True)
    try:
        merge_into(folder, policy.model, base)
        del policy  # one model at a time
        card, facts = describe_base(source_of(**origin), folder)
        if loader:
            card["loader"] = check_loader(folder, loader["function"], precision)
        write_json(building / "model.json", card)
        merged = load_policy(building / "model.json", None, precision)
        found = (our_logps(merged.model, pairs, forking, merged.dtype) - expected).abs()
        apart, lost = found.max().item(), found.mean().item()
        refuse_another_policy(apart, lost, learnt, precision)
        replace_folder(folder, args.weights)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    write_json(args.card, card)
    job.say(
        f"merged: sha256 {card['sha256'][:16]}, {lost:.1e} nats per token from the base with the adapter (at most "
        f"{apart:.1e}), which is {learnt:.1e} from the base"
    )
    job.finish(merged_difference=apart, merged_mean_difference=lost, adapter_mean_difference=learnt, **origin, **facts)


def refuse_another_policy(apart: float, lost: float, learnt: float, precision: str) -> None:
    """UserError if the merged weights are another policy than base and adapter.

    apart, lost: the largest and the mean difference between their log-probabilities; learnt: the mean of what the
    adapter changes. In nats per token.
    """
    cure = (
        ": this adapter cannot be merged into this base, such as one on an embedding that is also the head; set "
        "sft_dpo.start to adapter or fresh"
    )
    if not apart <= TOLERANCE[precision]:
        raise UserError(
            f"the merged weights give log-probabilities that are {apart:.2g} nats per token from those of the base "
            f"with the SFT adapter (at most {TOLERANCE[precision]:g}){cure}"
        )
    if not lost <= max(LOST * learnt, ROUNDING[precision]):
        raise UserError(
            f"the merged weights give log-probabilities that are on average {lost:.2g} nats per token from those of "
            f"the base with the SFT adapter, which changes them by {learnt:.2g} (at most {LOST:.0%} of it){cure}"
        )


if __name__ == "__main__":
    exit_with_message(main)
