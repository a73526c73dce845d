"""Rule power: will this study decide? The chance of GO, HOLD and NO-GO of every design, before anything is trained.

    snakemake power --configfile mine.yaml
    python scripts/power.py --metric pass_rate --margin 0.05 --difference 0.1 --design 3x200

The second needs no study. The first takes metric, margin, seeds and guesses from the configuration and, once the study
has scores, their variances in place of the guesses; GPU hours come from its manifests. --help shows all flags.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from arms.job.files import UserError, exit_with_message, read_json
from paired import prospects
from paired.files import ContractError
from paired.question import read_question
from study.question import QUESTION
from study.runs import Run
from study.vocabulary import ARMS

PER_ROW = ("score_pairs", "generate", "grade")  # rules whose time grows with the held-out rows
STUDY = "--study"


def main() -> None:
    """The command of `paired` with the study's question, a figure, and what such a study costs."""
    arguments, hours = sys.argv[1:], None
    if STUDY in arguments:
        place = arguments.index(STUDY)
        folder = Path(arguments[place + 1])
        arguments = [*arguments[:place], *arguments[place + 2 :], *of_study(folder)]
        rows = arguments[arguments.index("--design") + 1].partition("x")[2] if "--design" in arguments else None
        hours = gpu_hours(folder, int(rows)) if rows else None
    try:
        prospects.main(arguments, prog="power.py", question=read_question(QUESTION), draw=draw, hours=hours)
    except ContractError as error:
        raise UserError(str(error)) from None


def draw(rows: Sequence[prospects.Prospect], of: prospects.Assumptions, folder: Path) -> list[str]:
    """The figure; imported late, so that --help and complaints need no matplotlib."""
    from display.prospects import save_prospects

    return save_prospects(rows, of, folder)


def of_study(folder: Path) -> list[str]:
    """The flags for the scores of a study that has been through `compare`, else none: the guesses of its plan stand.

    Scores of other recipes and of added arms lie beside them.
    """
    prompts = folder / "data" / "prompts.parquet"
    if not (folder / "stats" / "decision.json").is_file() or not prompts.is_file():
        return []
    parts = sorted((folder / "scores").glob("metric=*/part-*.parquet"))
    runs = {part: [Run.parse(run) for run in part.stem.removeprefix("part-").split("-vs-")] for part in parts}
    own = [str(part) for part, found in runs.items() if all(run.arm in ARMS and not run.variant for run in found)]
    return ["--scores", *own, "--prompts-file", str(prompts)]


def gpu_hours(folder: Path, rows: int) -> prospects.Hours | None:
    """(seeds, prompts) -> GPU hours of a study like the one in `folder`, which has `rows` held-out rows.

    Wall time times GPUs, from the manifests: of training and reference tables for each seed, of held-out scoring,
    generation and grading for each seed (or for the base) and row. None before its jobs with GPUs have run.
    """
    of_seed = of_seed_and_row = of_row = 0.0
    seeds = set()
    for path in folder.rglob("*manifest.json"):
        manifest = read_json(path)
        wildcards, machine = manifest["wildcards"], manifest["machine"]
        hours = gpus(path, machine.get("device") or "cpu") * manifest["wall_seconds"] / 3600
        grows = manifest["rule"] in PER_ROW and not wildcards.get("split", "").endswith("train")
        seed = wildcards.get("seed") or wildcards.get("run", "").partition("-seed")[2]
        if seed:
            seeds.add(seed)
            of_seed_and_row += hours * grows
            of_seed += hours * (not grows)
        elif grows:
            of_row += hours
    if not seeds or not of_seed + of_seed_and_row + of_row:
        return None

    def hours_of(n_seeds: int, n_prompts: int) -> float:
        share = n_prompts / rows
        return n_seeds / len(seeds) * (of_seed + of_seed_and_row * share) + of_row * share

    return hours_of


def gpus(manifest: Path, device: str) -> int:
    """How many GPUs a job had: training writes the number of its processes where there were several."""
    if device == "cpu":
        return 0
    observed = manifest.with_name("observed.json")
    several = manifest.name == "train.manifest.json" and observed.is_file()
    return read_json(observed).get("processes", 1) if several else 1


if __name__ == "__main__":
    exit_with_message(main)
