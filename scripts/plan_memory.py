"""Rule plan_memory: predict the memory of every stage, and refuse a study that cannot fit its card, with the cure.

    snakemake plan_memory --configfile config/qwen2.5-32b.yaml
    python scripts/plan_memory.py --job '{"rule": "plan_memory", "settings": {...}}' \
        --model results/qwen2.5-32b/model/model.json --output results/qwen2.5-32b/memory/plan.json --manifest ...

Needs no GPU and no weights but config.json and the tokenizer. arms/memory/predict.py says how it predicts, and what
it assumes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from arms.job.files import UserError, canonical_json, exit_with_message, read_json, sha256_file, write_json
from arms.job.manifest import Job, add_job_arguments

# What changes nothing in the results comes first, then what changes the model's numbers, then what loses data.
PRECISIONS = {"fp32": ["bf16", "int8", "nf4"], "bf16": ["int8", "nf4"], "int8": ["nf4"], "nf4": []}
SHORTEST = 64  # tokens: no shorter rows are proposed
STAGES = ("sft", "dpo", "score_pairs", "generate")  # a variant of dpo is dpo-...
BATCH_KEYS = {"score_pairs": "scoring.batch_size", "generate": "generation.batch_size"}


def main() -> None:
    """Predict every stage, show the table, and refuse what does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--output", required=True, help="the plan, JSON")
    args = parser.parse_args()
    job = Job(args)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing here runs on a GPU, and its driver would cost seconds and memory

    from arms.memory.predict import CUDA_FIXED, PARTS, SLACK, fixed_bytes, shape

    device = job.settings["device"]
    fixed = fixed_bytes(device)
    config, tokenizer = read_model(args.model)
    planner = Planner(config, tokenizer, fixed)
    asks, limit = stages(job.settings), job.settings["gpu_memory_gb"]
    plan = {stage: planner.parts(ask) for stage, ask in asks.items()}
    job.say(heading(read_json(args.model), job.settings))
    shapes = {stage: shape(config, ask) for stage, ask in asks.items()}
    print(table(plan, shapes, limit))
    job.say(
        f"predicted, not measured: every row has {job.settings['max_length']} tokens; GB are 10^9 bytes; to fit, "
        f"{SLACK:.0%} must stay free for the allocator; fixed: "
        + ("a CUDA context, assumed" if device == "cuda" else "Python and the libraries, read from this process")
    )
    if limit:
        refuse_unless_it_fits(planner, asks, limit)
    rows = {
        stage: {
            "parts": parts,
            "bytes": sum(parts.values()),
            "needed_bytes": planner.need(asks[stage]),
            "rows": shapes[stage][0],
            "tokens": shapes[stage][1],
        }
        for stage, parts in plan.items()
    }
    found = {"device": device, "gpu_memory_gb": limit, "slack": SLACK, "cuda_fixed": CUDA_FIXED, "parts": PARTS}
    write_json(args.output, {"schema": 1, **found, "stages": rows})
    job.finish(inputs={"model": args.model}, outputs={"plan": args.output})


def read_model(card: str):
    """(configuration, tokenizer) of the model beside `card` (model.json), whose config.json must match."""
    from transformers import AutoConfig

    from arms.data.tokens import load_tokenizer

    folder = Path(card).parent / "weights"
    described = read_json(card)["files"]["config.json"]["sha256"]
    if not (folder / "config.json").is_file() or sha256_file(folder / "config.json") != described:
        raise UserError(
            f"{folder / 'config.json'}: missing or changed since the rule fetch_model checked it; "
            f"delete {Path(card).parent} and run the same command again"
        )
    return AutoConfig.from_pretrained(str(folder), trust_remote_code=False), load_tokenizer(card)


def stages(settings: dict) -> dict[str, dict]:
    """What arms.memory.predict.predict is asked for each stage of the study, by its label."""
    shared = {name: settings[name] for name in ("precision", "max_length", "lora", "start", "device")}
    asks = {}
    for label, stage in sorted(settings["stages"].items(), key=lambda item: STAGES.index(item[0].partition("-")[0])):
        rows, whole = stage.get("micro_batch_size", stage["batch_size"]), stage["batch_size"]
        if "micro_batch_size" in stage:  # the effective batch stays
            smaller = [size for size in range(rows - 1, stage["least_micro_batch_size"] - 1, -1) if whole % size == 0]
        else:
            smaller = [rows >> shift for shift in range(1, rows.bit_length())]
        asks[label] = {
            **shared,
            "stage": label.partition("-")[0],
            "rows": rows,
            "accumulates": rows < whole,
            "gradient_checkpointing": stage.get("gradient_checkpointing", False),
            "new_tokens": stage.get("max_new_tokens", 0),
            "smaller": smaller,
        }
    return asks


class Planner:
    """Predictions for one model, each made once."""

    def __init__(self, config, tokenizer, fixed: int) -> None:
        self.config, self.tokenizer, self.fixed = config, tokenizer, fixed
        self.known: dict[str, dict[str, int]] = {}

    def parts(self, ask: dict) -> dict[str, int]:
        """Bytes by part."""
        from arms.memory.predict import predict

        asked = {name: value for name, value in ask.items() if name != "smaller"}
        key = canonical_json(asked)
        if key not in self.known:
            self.known[key] = {**predict(self.config, asked, self.tokenizer), "fixed": self.fixed}
        return self.known[key]

    def need(self, ask: dict) -> int:
        """Bytes that the card must have, slack included."""
        from arms.memory.predict import needed

        return needed(self.parts(ask))


def refuse_unless_it_fits(planner: Planner, asks: dict[str, dict], limit: float) -> None:
    """UserError, with the cheapest cure, if a stage needs more than `limit` GB."""
    short = {label: planner.need(ask) for label, ask in asks.items() if planner.need(ask) > limit * 10**9}
    if not short:
        return
    problem = f"{listed(short)}; gpu_memory_gb is {limit:g}. "
    last: dict[str, dict] = {}
    for shared in ladder(next(iter(asks.values()))):
        last = {label: cheapest(planner, {**ask, **shared}, limit) for label, ask in asks.items()}
        if all(planner.need(ask) <= limit * 10**9 for ask in last.values()):
            after = listed({label: planner.need(last[label]) for label in short})
            cure = "; ".join(changes(asks, last))
            raise UserError(f"{problem}The cheapest change that fits: {cure}. Predicted with it: {after}")
    worst = max(last, key=lambda label: planner.need(last[label]))
    ask = last[worst]
    raise UserError(
        f"{problem}Nothing cures it: even {ask['precision']}, one row in a pass, gradient checkpointing and rows of "
        f"{ask['max_length']} tokens need {gb(planner.need(ask))} GB ({worst}); take a larger card or a smaller model"
    )


def ladder(ask: dict) -> list[dict]:
    """What all stages share, from what was asked for downwards: gradient checkpointing, precisions, shorter rows."""
    precisions = [{"checkpoint": True, "precision": precision} for precision in PRECISIONS[ask["precision"]]]
    rungs = [{}, {"checkpoint": True}, *precisions]
    length = ask["max_length"] // 2
    while length >= SHORTEST:
        rungs += [{"checkpoint": True, **precision, "max_length": length} for precision in ({}, *precisions[-1:])]
        length //= 2
    return rungs


def cheapest(planner: Planner, ask: dict, limit: float) -> dict:
    """One stage on a rung: the largest pass that fits, without or with gradient checkpointing, or else the smallest."""
    may_checkpoint = ask.pop("checkpoint", False) and ask["stage"] in ("sft", "dpo")
    found = ask
    for checkpointing in sorted({ask["gradient_checkpointing"], may_checkpoint or ask["gradient_checkpointing"]}):
        asked = {**ask, "gradient_checkpointing": checkpointing}
        accumulating = [{**asked, "rows": rows, "accumulates": True} for rows in ask["smaller"]]
        options = [asked, *accumulating]
        found = options[-1]
        if planner.need(found) <= limit * 10**9:  # else no larger one fits either
            return next(option for option in options if planner.need(option) <= limit * 10**9)
    return found


def changes(asks: dict[str, dict], cured: dict[str, dict]) -> list[str]:
    """The configuration's keys that differ, as the user would write them."""
    lines = []
    for label, ask in asks.items():
        new, key = cured[label], BATCH_KEYS.get(label, f"{label}.micro_batch_size")
        if new["rows"] != ask["rows"]:
            lines.append(f"{key}: {new['rows']} (now {ask['rows']})")
        if new["gradient_checkpointing"] != ask["gradient_checkpointing"]:
            lines.append(f"{label}.gradient_checkpointing: true")
    for name, key in (("precision", "model.precision"), ("max_length", "tokens.max_length")):
        old, new = (next(iter(where.values()))[name] for where in (asks, cured))
        if old != new:
            lines.append(f"{key}: {new} (now {old})")
    return lines


def listed(needs: dict[str, int]) -> str:
    """Stages and what they need, in words."""
    return ", ".join(f"{label} needs {gb(size)} GB" for label, size in needs.items())


def gb(size: float) -> str:
    """Bytes in GB of 10^9 bytes, with one decimal."""
    return f"{size / 10**9:.1f}"


def heading(card: dict, settings: dict) -> str:
    """What is planned, in one line."""
    where = "one GPU" if settings["device"] == "cuda" else "a CPU"
    size = f"{card['parameters'] / 1e9:.1f} B" if card["parameters"] >= 10**9 else f"{card['parameters'] / 1e6:.1f} M"
    return (
        f"{card['architecture']}, {size} parameters, {settings['precision']}, LoRA rank "
        f"{settings['lora']['rank']}, on {where}; the reference is a table and takes nothing"
    )


def table(plan: dict[str, dict[str, int]], shapes: dict[str, tuple[int, int]], limit: float | None) -> str:
    """The predictions in GB, one line a stage."""
    from arms.memory.predict import PARTS, needed

    lines = [["GB", "rows x tokens", *PARTS, "sum", "needs", *([f"of {limit:g}"] if limit else [])]]
    for label, parts in plan.items():
        need = needed(parts)
        numbers = [gb(parts[name]) if parts[name] else "-" for name in PARTS]
        verdict = ["fits" if need <= limit * 10**9 else "TOO LARGE"] if limit else []
        rows_tokens = "{} x {}".format(*shapes[label])
        lines.append([label, rows_tokens, *numbers, gb(sum(parts.values())), gb(need), *verdict])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for first, *cells in lines
    ]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])


if __name__ == "__main__":
    exit_with_message(main)
