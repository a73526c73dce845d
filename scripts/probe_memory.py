"""Rule probe_memory: the largest micro-batch (and the longest rows) that training of one stage fits into memory.

Trains a few steps on the worst micro-batches that the data can make, with the project's own trainers. What runs out of
memory goes into the manifest, and the next rung is tried: a smaller micro-batch of the same effective batch, then
shorter rows if the configuration allows them (arms/memory/ladder.py).

    python scripts/probe_memory.py --job '{"rule": "probe_memory", "wildcards": {"stage": "dpo"}, "settings": {...}}' \
        --model results/demo/model/model.json --data results/demo/data/pairs.parquet \
        --rung results/demo/memory/dpo.json --manifest ...
"""

from __future__ import annotations

from arms.job.files import UserError, exit_with_message, write_json
from arms.job.manifest import Job
from arms.job.out_of_memory import device, out_of_memory
from arms.job.program import JobParser
from study.rungs import is_known, memory_key, rungs


def main() -> None:
    """Climb down until a rung fits; write the rung, and what did not fit into the manifest."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model")
    parser.input("data", help="checked table of the rows that this stage trains on")
    parser.output("rung", help="what fits, JSON (output)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    job = Job(args)

    from arms.data.tokens import load_tokenizer
    from arms.memory.probe import attempt, load, training_rows
    from arms.model.cpu import set_cpu

    settings, ladder = job.settings, rungs(job.settings)
    set_cpu(args.threads, settings["cpu_instructions"])
    tokenizer = load_tokenizer(args.model)
    rows_of = training_rows(args.data, tokenizer, settings)
    base_alone = "the base model alone does not fit into the memory of"
    with out_of_memory(lambda _: UserError(f"{base_alone} {device()}; {cures(settings)}")):
        model = load(args.model, settings)
    attempts = []
    for rung in ladder:
        if is_known(rung, settings["recorded"]):
            attempts.append({**rung, "fits": False, "found_by": "training"})
            continue
        found = attempt(model, tokenizer, rows_of(rung["max_length"]), rung, settings)
        attempts.append({**rung, **found, "found_by": "probe"})
        size, length = rung.values()
        job.say(f"micro-batches of {size}, rows of up to {length} tokens: {words(found)}")
        if found["fits"]:
            break
    else:
        tried = "; ".join(f"{rung['micro_batch_size']} x {rung['max_length']} tokens" for rung in ladder)
        raise UserError(
            f"{settings['stage']} training does not fit into the memory of {device()}: {tried} "
            f"(micro_batch_size x longest row) ran out of it; {cures(settings)}"
        )
    write_json(args.rung, {"stage": settings["stage"], **rung, "key": memory_key(settings)})
    job.finish(asked=ladder[0], used=rung, attempts=attempts, card=device())


def words(found: dict) -> str:
    """An attempt's outcome in a few words."""
    peak = "" if found["peak_mib"] is None else f" (peak {found['peak_mib']} MiB)"
    return ("they fit" if found["fits"] else "out of memory") + peak


def cures(settings: dict) -> str:
    """What helps when no rung is left."""
    found = ["`snakemake plan_memory` says what each choice needs"]
    if settings["least_micro_batch_size"] > 1:
        found.append(f"another loss_type (aot losses cannot take less than {settings['least_micro_batch_size']} pairs)")
    if not settings["gradient_checkpointing"]:
        found.append(f"{settings['stage']}.gradient_checkpointing: true")
    if settings["precision"] not in ("int8", "nf4"):
        found.append("model.precision: nf4")
    return "; try ".join([found[0], " or ".join([*found[1:], "out_of_memory.max_length for shorter rows"])])


if __name__ == "__main__":
    exit_with_message(main)
