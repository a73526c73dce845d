"""Rule probe_memory: the largest micro-batch (and the longest rows) that training of one stage fits into memory.

Trains a few steps on the worst micro-batches that the data can make, with the project's own trainers. What runs out of
memory goes into the manifest, and the next rung is tried: a smaller micro-batch of the same effective batch, then
shorter rows if the configuration allows them (arms/memory/ladder.py).

    python scripts/probe_memory.py --job '{"rule": "probe_memory", "wildcards": {"stage": "dpo"}, "settings": {...}}' \
        --model results/demo/model/model.json --data config/data/preferences.jsonl \
        --rung results/demo/memory/dpo.json --manifest ...
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

from arms.job.files import UserError, exit_with_message, read_jsonl, write_json
from arms.job.manifest import Job, add_job_arguments
from arms.job.out_of_memory import device, is_out_of_memory
from arms.memory.ladder import worst_batches
from study.rungs import is_known, memory_key, rungs

# Of a GPU's memory, what a probe leaves free: shuffled batches of many lengths fragment what training allocates, and
# several GPUs exchange gradients through buffers that one does not have.
RESERVE = 0.05


def main() -> None:
    """Climb down until a rung fits; write the rung, and what did not fit into the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--data", required=True, help="JSON Lines file that this stage trains on")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rung", required=True, help="output: what fits, JSON")
    args = parser.parse_args()
    job = Job(args)

    from arms.data.tokens import COMPLETIONS, encode_rows, load_tokenizer, take_in_turn
    from arms.model.cpu import set_cpu
    from arms.training.recipe import whole_batches

    settings = job.settings
    set_cpu(args.threads, settings["cpu_instructions"])
    kind = "sft" if settings["stage"] == "sft" else "pairs"
    columns = dict.fromkeys(["id", "category", "prompt", *COMPLETIONS[kind]], str)
    texts = take_in_turn(read_jsonl(args.data, columns), settings["rows"])
    tokenizer = load_tokenizer(args.model)

    def rows_of(max_length: int) -> list[dict]:
        tokens = {**settings["tokens"], "max_length": max_length}
        return whole_batches(
            encode_rows(texts, kind, tokenizer, tokens, args.data)[0],
            settings["batch_size"],
            settings["micro_batch_size"],
        )

    ladder, attempts, fitting = rungs(settings), [], None
    try:
        model, dtype, forking = load(args.model, settings)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"the base model alone does not fit into the memory of {device()}; {cures(settings)}") from None
    for rung in ladder:
        if is_known(rung, settings["recorded"]):
            attempts.append({**rung, "fits": False, "found_by": "training"})
            continue
        worst = worst_batches(rows_of(rung["max_length"]), rung["micro_batch_size"], forking)
        found = attempt(model, tokenizer, worst, rung, settings, dtype)
        attempts.append({**rung, **found, "found_by": "probe"})
        size, length = rung.values()
        job.say(f"micro-batches of {size}, rows of up to {length} tokens: {words(found)}")
        if found["fits"]:
            fitting = rung
            break
    if fitting is None:
        tried = "; ".join(f"{rung['micro_batch_size']} x {rung['max_length']} tokens" for rung in ladder)
        raise UserError(
            f"{settings['stage']} training does not fit into the memory of {device()}: {tried} "
            f"(micro_batch_size x longest row) ran out of it; {cures(settings)}"
        )
    write_json(args.rung, {"stage": settings["stage"], **fitting, "key": memory_key(settings)})
    job.finish(
        inputs={"model": args.model, "data": args.data},
        outputs={"rung": args.rung},
        asked=ladder[0],
        used=fitting,
        attempts=attempts,
        card=device(),
    )


def load(card_path: str, settings: dict) -> tuple:
    """(model with the adapters that training has, dtype, whether a pair is one row)."""
    import torch

    from arms.model import models
    from arms.scoring.logps import check_forward

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1 - RESERVE)
    dtype = models.compute_dtype(settings["precision"])
    base = models.load_base(card_path, settings["precision"])
    forking = check_forward(base, dtype)
    model = models.new_adapter(base, settings["lora"], seed=0)
    if settings["start"] == "fresh":  # SFT→DPO then has two adapters, which needs more than DPO-only
        with tempfile.TemporaryDirectory() as folder:
            arm = Path(folder, "arm.json")
            models.save_adapter(model, arm, {})
            model = models.stack_adapter(model.unload(), arm, settings["lora"], seed=0)
    models.prepare_training(model, settings["lora"]["dropout"], settings["gradient_checkpointing"])
    return model, dtype, forking


def attempt(model, tokenizer, worst: list[dict], rung: dict, settings: dict, dtype) -> dict:
    """Train on the worst micro-batches, twice, so that gradients and AdamW's moments are there; free everything.

    Returns fits, the peak of allocated GPU memory in MiB (None on a CPU) and, if it did not fit, the message.
    """
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    message = None
    try:
        train_some(model, tokenizer, worst, rung, settings, dtype)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = f"{type(error).__name__}: {error}"[:500]
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if gpu else None
    model.zero_grad(set_to_none=True)
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
    return {"fits": message is None, "peak_mib": peak} | ({"message": message} if message else {})


def train_some(model, tokenizer, worst: list[dict], rung: dict, settings: dict, dtype) -> None:
    """A few optimiser steps of the stage's trainer on exactly these micro-batches."""
    from torch.utils.data import SequentialSampler

    from arms.training.recipe import Recipe
    from arms.training.trainer import build_trainer

    size = rung["micro_batch_size"]
    accumulated = min(2, settings["batch_size"] // (size * settings["gpus"]))
    checkpointing = settings["gradient_checkpointing"]
    recipe = Recipe.for_memory(settings["stage"], size * accumulated, size, rung["max_length"], checkpointing)
    unread = dict.fromkeys(("reference_chosen_logps", "reference_rejected_logps"), 0.0)
    rows = [{**row, **unread} if settings["stage"] == "dpo" else row for row in worst * 2]
    trainer = build_trainer(recipe, model, tokenizer, rows, dtype)
    trainer._get_train_sampler = lambda: SequentialSampler(trainer.train_dataset)  # shuffled rows make other batches
    trainer.train()


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
