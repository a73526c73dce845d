"""The memory plan of a study: what each of its stages needs, and the cheapest change with which all fit a card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from arms.job.files import canonical_json
from arms.memory.predict import Ask, needed, predict

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

STAGES = ("sft", "dpo", "score_pairs", "generate")  # a variant of dpo is dpo-...
BATCH_KEYS = {
    "score_pairs": "scoring.batch_size",
    "generate": "generation.batch_size",
    "choose": "scoring.batch_size",
}
# What changes nothing in the results comes first, then what changes the model's numbers, then what loses data.
PRECISIONS = {"fp32": ["bf16", "int8", "nf4"], "bf16": ["int8", "nf4"], "int8": ["nf4"], "nf4": []}
SHORTEST = 64  # tokens: no shorter rows are proposed


@dataclass(frozen=True)
class Stage:
    """One stage of a study: what the configuration asks for, and the smaller numbers of rows that it might ask for.

    own_length: whether its rows are as long as a task makes them, whatever tokens.max_length says.
    """

    ask: Ask
    smaller: list[int]
    own_length: bool = False


def stages(settings: dict) -> dict[str, Stage]:
    """The stages of a study by their labels, from the settings of rule plan_memory."""
    shared = {name: settings[name] for name in ("precision", "max_length", "lora", "start", "device")}
    found = {}
    for label, asked in sorted(settings["stages"].items(), key=lambda item: STAGES.index(item[0].partition("-")[0])):
        rows, whole = asked.get("micro_batch_size", asked["batch_size"]), asked["batch_size"]
        if "micro_batch_size" in asked:  # the effective batch stays
            smaller = [size for size in range(rows - 1, asked["least_micro_batch_size"] - 1, -1) if whole % size == 0]
        else:
            smaller = halves(rows)
        ask = Ask(
            stage=label.partition("-")[0],
            rows=rows,
            accumulates=rows < whole,
            gradient_checkpointing=asked.get("gradient_checkpointing", False),
            new_tokens=asked.get("max_new_tokens", 0),
            **shared,
        )
        found[label] = Stage(ask, smaller)
    return found


def task_stages(settings: dict, tasks: dict[str, list[dict]]) -> dict[str, Stage]:
    """What the requests of tasks (name -> rows of token ids) add: each as long as the longest of its kind."""
    shared = {name: settings[name] for name in ("precision", "lora", "start", "device")}
    found = {}
    for name, rows in tasks.items():
        texts = [row for row in rows if row["answer_ids"] is None]
        choices = [row for row in rows if row["answer_ids"] is not None]
        for stage, label, asked in (("generate", "answers", texts), ("choose", "choices", choices)):
            if not asked:
                continue
            size = settings["stages"]["generate" if stage == "generate" else "score_pairs"]["batch_size"]
            new = max(row["max_new_tokens"] if stage == "generate" else len(row["answer_ids"]) for row in asked)
            length = max(len(row["prompt_ids"]) + len(row["answer_ids"] or []) for row in asked)
            ask = Ask(stage=stage, rows=size, max_length=length, new_tokens=new, **shared)
            found[f"{name} {label}"] = Stage(ask, halves(size), own_length=True)
    return found


def halves(rows: int) -> list[int]:
    """Smaller numbers of rows, down to one.

    >>> halves(6)
    [3, 1]
    """
    return [rows >> shift for shift in range(1, rows.bit_length())]


class Planner:
    """Predictions for one model, each made once.

    fixed: bytes that a program holds without a model. limit: of the card, in GB of 10^9 bytes; None: no limit.
    """

    def __init__(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, fixed: int, limit: float | None
    ) -> None:
        self.config, self.tokenizer, self.fixed, self.limit = config, tokenizer, fixed, limit
        self.known: dict[str, dict[str, int]] = {}

    def parts(self, ask: Ask) -> dict[str, int]:
        """Bytes by part."""
        key = canonical_json(asdict(ask))
        if key not in self.known:
            self.known[key] = {**predict(self.config, ask, self.tokenizer), "fixed": self.fixed}
        return self.known[key]

    def need(self, ask: Ask) -> int:
        """Bytes that the card must have, slack included."""
        return needed(self.parts(ask))

    def fits(self, ask: Ask) -> bool:
        """Whether the card has as much."""
        return self.limit is None or self.need(ask) <= self.limit * 10**9


def refusal(planner: Planner, study: dict[str, Stage]) -> str | None:
    """What does not fit the card and the cheapest cure, in words; None if all stages fit."""
    short = [label for label, stage in study.items() if not planner.fits(stage.ask)]
    if not short:
        return None

    def listed(asks: dict[str, Ask]) -> str:
        return ", ".join(f"{label} needs {gb(planner.need(asks[label]))} GB" for label in short)

    asked = {label: stage.ask for label, stage in study.items()}
    problem = f"{listed(asked)}; gpu_memory_gb is {planner.limit:g}. "
    cured = asked
    for shared, checkpoints in downwards(next(iter(asked.values()))):
        cured = {label: cheapest(planner, stage, shared, checkpoints) for label, stage in study.items()}
        if all(map(planner.fits, cured.values())):
            cure = "; ".join(changes(asked, cured))
            return f"{problem}The cheapest change that fits: {cure}. Predicted with it: {listed(cured)}"
    worst = max(cured, key=lambda label: planner.need(cured[label]))
    ask = cured[worst]
    cure = "fewer few-shot examples, " if study[worst].own_length else ""
    return (
        f"{problem}Nothing cures it: even {ask.precision}, one row in a pass, gradient checkpointing and rows of "
        f"{ask.max_length} tokens need {gb(planner.need(ask))} GB ({worst}); take {cure}a larger card "
        "or a smaller model"
    )


def downwards(ask: Ask) -> Iterator[tuple[dict, bool]]:
    """(what all stages change, whether they may checkpoint gradients): precisions, then shorter rows, ever cheaper."""
    precisions = [{"precision": precision} for precision in PRECISIONS[ask.precision]]
    yield {}, False
    yield from ((change, True) for change in ({}, *precisions))
    length = ask.max_length // 2
    while length >= SHORTEST:
        yield from (({**change, "max_length": length}, True) for change in ({}, *precisions[-1:]))
        length //= 2


def cheapest(planner: Planner, stage: Stage, shared: dict, checkpoints: bool) -> Ask:
    """The largest pass of a stage that fits, without or with gradient checkpointing; or else the smallest."""
    least, wanted = stage.ask, stage.ask.gradient_checkpointing
    if stage.own_length:
        shared = {name: value for name, value in shared.items() if name != "max_length"}
    for checkpointing in sorted({wanted, wanted or (checkpoints and stage.ask.trains)}):
        ask = replace(stage.ask, **shared, gradient_checkpointing=checkpointing)
        options = [ask, *(replace(ask, rows=rows, accumulates=True) for rows in stage.smaller)]
        least = options[-1]
        if planner.fits(least):  # else no larger one fits either
            return next(filter(planner.fits, options))
    return least


def changes(asked: dict[str, Ask], cured: dict[str, Ask]) -> list[str]:
    """The configuration's keys that differ, as the user would write them."""
    lines: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for label, ask in asked.items():
        new, key = cured[label], BATCH_KEYS.get(ask.stage, f"{label}.micro_batch_size")
        if new.rows != ask.rows:
            sizes[key] = min(new.rows, sizes.get(key, new.rows))  # tasks share the sizes of held-out rows
            lines[key] = f"{key}: {sizes[key]} (now {ask.rows})"
        if new.gradient_checkpointing != ask.gradient_checkpointing:
            lines[label] = f"{label}.gradient_checkpointing: true"
    for name, key in (("precision", "model.precision"), ("max_length", "tokens.max_length")):
        old, new = (getattr(next(iter(asks.values())), name) for asks in (asked, cured))
        if old != new:
            lines[key] = f"{key}: {new} (now {old})"
    return list(lines.values())


def gb(size: float) -> str:
    """Bytes in GB of 10^9 bytes, with one decimal."""
    return f"{size / 10**9:.1f}"
