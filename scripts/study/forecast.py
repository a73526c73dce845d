"""What a study's plan can decide, said before anything trains; `snakemake power` says more.

The guesses are `statistics.power` of the configuration; the chances are those of `paired.forecast`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from study.judges import Judges
from study.tasks import Tasks
from study.vocabulary import ARMS, CONTRASTS, METRICS

HELDOUT = {"pref_acc": "heldout_pairs", "pass_rate": "heldout_prompts"}  # metric: the data file that it is judged on
TARGETS_WITHOUT_TRAINING = {"power", "verify", "plan_memory", "doctor", "check_login", "check_node", "crate", "publish"}
MOST = 10**6  # rows that are counted; more make no difference


def heldout_rows(config: dict) -> int | None:
    """How many held-out rows the primary metric is judged on; None where that takes more than counting lines."""
    name, data = HELDOUT.get(config["statistics"]["primary_metric"]), config["data"]
    apart = data.get("heldout") if name == "heldout_pairs" else None
    if apart and "rows" in apart:
        return apart["rows"]
    given = data["pairs"] if apart else data.get(name)
    path = Path(given.get("path", "") if isinstance(given, dict) else given or "")
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    count = 0
    with path.open("rb") as lines:
        for count, _ in enumerate(lines, 1):
            if count == MOST:
                break
    count = round(apart["fraction"] * count) if apart else count
    return min(count, data["rows"].get(name, count)) or None


def power_flags(config: dict) -> dict[str, object]:
    """The flags of scripts/power.py that say what the study is like, but for its plan; a value of None is left out."""
    guesses = config["statistics"]["power"]
    flags: dict[str, object] = {
        name: str(value) for name, value in guesses.items() if name != "floor" and value is not None
    }

    def design(wildcards, output) -> str:  # counted when the program starts, not at each start of Snakemake
        rows = heldout_rows(config)
        return f"{len(config['seeds'])}x{rows}" if rows and rows > 1 else ""

    return {**flags, "design": design}


def warning(config: dict) -> str | None:
    """One line where the plan will seldom decide, with the cure; None where it may.

    Where the held-out rows cannot be counted: where it would not even with all rows of the world.
    """
    chosen = config["statistics"]
    guesses, metric = chosen["power"], chosen["primary_metric"]
    margin = chosen["margins"].get(metric)
    kinds = {name: kind for name, (kind, *_) in METRICS.items()}
    kinds |= {name: facts["kind"] for name, facts in (Tasks(config).metrics | Judges(config).metrics).items()}
    if not guesses["floor"] or kinds[metric] != "binary":
        return None
    accept = "statistics.power.floor: 0 accepts that"
    if margin is None:
        return (
            f"power: without statistics.margins.{metric} this study can never end in GO (nothing shows that DPO after "
            f"SFT is not worse than DPO alone): give a margin; {accept}"
        )
    from paired import forecast  # numpy: a quarter of a second, for this question only

    rule = forecast.Rule(
        CONTRASTS["C1"][0], CONTRASTS["C2"][0], margin, chosen["alpha"],
        chosen["primary_scope"] == "method", chosen["pool_seed_variance"],
    )  # fmt: skip
    difference, cost = guesses["difference"] or margin, guesses["cost_difference"]
    model = forecast.guess(
        dict.fromkeys(ARMS, 0.0), frozenset(["base"]),
        variance=guesses["rate"] * (1 - guesses["rate"]), seed_sd=guesses["seed_sd"],
        same_prompt=guesses["same_prompt"], same_arm=guesses["same_arm"], step=1.0,
    )  # fmt: skip
    model, seeds = forecast.with_differences(model, rule, difference, cost), len(config["seeds"])
    rows = heldout_rows(config)
    if rows == 1:
        return None  # the checks of the data have more to say
    chance = forecast.chances(model, rule, rows or forecast.UNLIMITED, seeds).decided
    if chance >= guesses["floor"]:
        return None
    return (
        f"power: {seeds} seed{'s' * (seeds != 1)} x {rows or 'any number of'} held-out rows decide (GO or NO-GO) in "
        f"{'' if rows else 'at most '}{chance:.0%} of such "
        f"studies, if DPO after SFT truly gains {100 * difference:g} points on {metric} and seeds vary by "
        f"{100 * guesses['seed_sd']:g}: `snakemake power` shows what decides more often; {accept}"
    )


def say_before_training(study, workflow) -> None:
    """Log `warning` where Snakemake plans the study itself and no score is there yet: also in a dry run, once."""
    from snakemake.logging import logger

    from study.engine import WHY

    training = not TARGETS_WITHOUT_TRAINING.intersection(sys.argv) and WHY not in os.environ
    if workflow.is_main_process and training and not Path(study.results, "scores").is_dir():
        text = warning(study.config)
        if text:
            logger.warning(text)
