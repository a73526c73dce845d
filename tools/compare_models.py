"""Compare models outside the workflow: the command `paired compare` with the study's question and a forest plot.

    python scripts/compare.py --lm-eval base=logs/base tuned=logs/tuned --metric acc --output out

README.md says more; `scripts/compare.py`, its documented name, hands over to this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


from arms.job.files import UserError, exit_with_message
from display.forest import save_forest
from paired import compare
from paired.analysis import Analysis
from paired.files import ContractError
from paired.question import read_question
from study.question import QUESTION


def main() -> None:
    """Read logs, a table or scores; analyse; write tables, words and the forest plot."""
    question = read_question(QUESTION)
    try:
        compare.main(prog="compare.py", freeze="freeze_plan.py", question=question, draw=draw)
    except ContractError as error:
        raise UserError(str(error)) from None


def draw(analysis: Analysis, folder: Path) -> list[str]:
    """The forest plot of an analysis."""
    save_forest(analysis.tables["contrasts"].to_pandas(), analysis.decision, folder)
    return ["forest.png", "forest.svg"]


if __name__ == "__main__":
    exit_with_message(main)
