"""Rule freeze_plan: put the analysis plan on record before any score exists, and every later change of it.

The plan is the job's settings. Without --job this is the command `paired freeze` (--help shows its flags).
"""

from __future__ import annotations

import sys
from pathlib import Path

from arms.job.files import UserError, exit_with_message
from arms.job.manifest import Job
from arms.job.program import JobParser
from paired import freeze
from paired.files import ContractError


def main() -> None:
    """The rule's job, or else the command for people."""
    try:
        if any(argument.partition("=")[0] == "--job" for argument in sys.argv[1:]):
            record_plan()
        else:
            freeze.main(prog="freeze_plan.py")
    except ContractError as error:
        raise UserError(str(error)) from None


def record_plan() -> None:
    """Read the record, add the present plan, write the record."""
    parser = JobParser(__doc__)
    parser.add_argument("--scores", required=True, metavar="DIR", help="folder of metric=<name>/part-*.parquet")
    parser.output("record", key=lambda _: "plan", help="the record, JSON; kept and added to")
    args = parser.parse_args()
    job = Job(args)
    record = freeze.freeze(job.settings, Path(args.scores), Path(args.record))
    job.say(freeze.summary(record))
    job.finish(exploratory=record["exploratory"], plans=len(record["history"]))


if __name__ == "__main__":
    exit_with_message(main)
