"""Rule plan_memory: predict the memory of every stage, and refuse a study that cannot fit its card, with the cure.

    snakemake plan_memory --configfile config/qwen2.5-32b.yaml
    python scripts/plan_memory.py --job '{"rule": "plan_memory", "settings": {...}}' \
        --model results/qwen2.5-32b/model/model.json --plan results/qwen2.5-32b/memory/plan.json --manifest ...

Needs no GPU and no weights but config.json and the tokenizer. arms/memory/predict.py says how it predicts, and what
it assumes.
"""

from __future__ import annotations

import os
from pathlib import Path

from arms.data.requests import TOKENS, read_rows
from arms.job.files import UserError, exit_with_message, read_json, sha256_file, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser


def main() -> None:
    """Predict every stage, show the table, and refuse what does not fit."""
    parser = JobParser(__doc__)
    parser.input("model", help="model.json of the base model")
    parser.input("tasks", nargs="*", default=[], help="token ids of what tasks ask")
    parser.output("plan", help="what each stage needs, JSON (output)")
    args = parser.parse_args()
    job = Job(args)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing here runs on a GPU, and its driver would cost seconds and memory

    from arms.memory.plan import Planner, refusal, stages, task_stages
    from arms.memory.predict import CUDA_FIXED, PARTS, SLACK, fixed_bytes, shape

    settings = job.settings
    device, limit = settings["device"], settings["gpu_memory_gb"]
    fixed = fixed_bytes(device)
    config, tokenizer = read_model(args.model)
    tasks = {Path(path).name.removesuffix(".tokens.parquet"): read_rows(path, TOKENS) for path in args.tasks}
    planner, study = Planner(config, tokenizer, fixed, limit), {**stages(settings), **task_stages(settings, tasks)}
    plan = {}
    for label, stage in study.items():
        parts, (rows, tokens) = planner.parts(stage.ask), shape(config, stage.ask)
        found = {"parts": parts, "bytes": sum(parts.values()), "needed_bytes": planner.need(stage.ask)}
        plan[label] = {**found, "rows": rows, "tokens": tokens}
    job.say(heading(read_json(args.model), settings))
    print(table(plan, PARTS, limit))
    or_more = ", or as many as the longest of its task" if tasks else ""
    job.say(
        f"predicted, not measured: every row has {settings['max_length']} tokens{or_more}; GB are 10^9 bytes; to fit, "
        f"{SLACK:.0%} must stay free for the allocator; fixed: "
        + ("a CUDA context, assumed" if device == "cuda" else "Python and the libraries, read from this process")
    )
    refused = refusal(planner, study)
    if refused:
        raise UserError(refused)
    assumed = {"device": device, "gpu_memory_gb": limit, "slack": SLACK, "cuda_fixed": CUDA_FIXED, "parts": PARTS}
    write_json(args.plan, {"schema": 1, **assumed, "stages": plan})
    job.finish()


def read_model(card: str):
    """(configuration, tokenizer) of the model beside `card` (model.json), whose config.json must match."""
    from arms.data.tokens import load_tokenizer
    from arms.model.architecture import read_config

    folder = Path(card).parent / "weights"
    described = read_json(card)["files"]["config.json"]["sha256"]
    if not (folder / "config.json").is_file() or sha256_file(folder / "config.json") != described:
        raise UserError(
            f"{folder / 'config.json'}: missing or changed since the rule fetch_model checked it; "
            f"delete {Path(card).parent} and run the same command again"
        )
    return read_config(folder), load_tokenizer(card)


def heading(card: dict, settings: dict) -> str:
    """What is planned, in one line."""
    where = "one GPU" if settings["device"] == "cuda" else "a CPU"
    size = f"{card['parameters'] / 1e9:.1f} B" if card["parameters"] >= 10**9 else f"{card['parameters'] / 1e6:.1f} M"
    return (
        f"{card['architecture']}, {size} parameters, {settings['precision']}, LoRA rank "
        f"{settings['lora']['rank']}, on {where}; the reference is a table and takes nothing"
    )


def table(plan: dict[str, dict], parts: tuple[str, ...], limit: float | None) -> str:
    """The predictions in GB, one line a stage."""
    from arms.memory.plan import gb

    lines = [["GB", "rows x tokens", *parts, "sum", "needs", *([f"of {limit:g}"] if limit else [])]]
    for label, stage in plan.items():
        numbers = [gb(stage["parts"][name]) if stage["parts"][name] else "-" for name in parts]
        verdict = ["fits" if stage["needed_bytes"] <= limit * 10**9 else "TOO LARGE"] if limit else []
        totals = [gb(stage["bytes"]), gb(stage["needed_bytes"])]
        lines.append([label, f"{stage['rows']} x {stage['tokens']}", *numbers, *totals, *verdict])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for first, *cells in lines
    ]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])


if __name__ == "__main__":
    exit_with_message(main)
