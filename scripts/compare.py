"""Rule compare: paired contrasts of the study's arms with error control, a verdict for each, and the decision.

The plan is the job's settings. Without --job this is the command that compares models outside the workflow
(tools/compare_models.py; --help shows its flags).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from arms.job.files import UserError, exit_with_message
from arms.job.manifest import Job
from arms.job.program import JobParser
from paired.additions import analyse_all
from paired.files import ContractError, write_json
from paired.freeze import changes_on_record, late_additions
from paired.plan import read_plan
from paired.prompts import read_prompts
from paired.question import read_question
from paired.tables import write_table
from study.question import QUESTION

STANDALONE = Path(__file__).resolve().parent.parent / "tools" / "compare_models.py"


def main() -> None:
    """The rule's job, or else the command for people."""
    if any(argument.partition("=")[0] == "--job" for argument in sys.argv[1:]):
        compare_arms()
    else:
        # A program of its own, not an import: what it reads and draws decides no result of the workflow, so it is no
        # part of the code that this rule's digest covers.
        runpy.run_path(str(STANDALONE))["main"]()


def compare_arms() -> None:
    """Read, analyse, write."""
    parser = JobParser(__doc__)
    parser.input("scores", nargs="+", key=score_key, help="metric=<name>/part-*.parquet of every run")
    parser.input("prompts", help="prompts.parquet: category, cluster, split")
    parser.input("plan_lock", help="the record of freeze_plan.py")
    parser.output("tables", nargs="+", key=table_key, help="<table>.parquet")
    parser.output("csv", nargs="+", key=table_key, help="<table>.csv")
    parser.output("decision", help="decision.json")
    args = parser.parse_args()
    job = Job(args)
    try:
        plan = read_plan(job.settings, where="the plan in the job's settings", question=read_question(QUESTION))
        changes = changes_on_record(plan.sha256, args.plan_lock, program="freeze_plan.py")
        prompts, late = read_prompts(args.prompts), late_additions(args.plan_lock)
        analysis = analyse_all(plan, args.scores, prompts, plan_changes=changes, late=late, say=job.say)
    except ContractError as error:
        raise UserError(str(error)) from None
    for path in map(Path, (*args.tables, *args.csv)):
        write_table(analysis.tables[path.stem], path)
    write_json(Path(args.decision), analysis.decision)
    decision, headline = analysis.decision["decision"], analysis.decision["headline"]
    job.say(headline)
    job.say(f"decision: {decision}{' (exploratory)' if changes else ''}")
    job.finish(decision=decision, headline=headline, plan_sha256=plan.sha256, hypotheses=len(analysis.claims))


def score_key(path: str) -> str:
    """A score file's key in the manifest: "pref_acc/part-base.parquet"."""
    return f"{Path(path).parent.name.removeprefix('metric=')}/{Path(path).name}"


def table_key(path: str) -> str:
    """A table's key in the manifest: "contrasts_csv"."""
    return Path(path).name.replace(".", "_")


if __name__ == "__main__":
    exit_with_message(main)
