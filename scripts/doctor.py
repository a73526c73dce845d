"""Rule doctor: would a study run here? Prints what check_login and check_node found.

It also knows errors of TRL and their cures: give it a traceback.

snakemake doctor --profile slurm --configfile mine.yaml
python scripts/doctor.py --login login.json --nodes cpu.json gpu.json
python scripts/doctor.py --traceback error.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms.job.files import UserError, exit_with_message
from arms.model.findings import read_findings
from arms.training.tracebacks import explain

RECORD = Path(__file__).parents[1] / "benchmarks" / "trl_map" / "results.json"


def main() -> None:
    """Answer for a traceback; or print all findings and use up their files, exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--login", help="what check_login found, JSON")
    parser.add_argument("--nodes", nargs="+", help="what check_node found on each kind of node, JSON")
    parser.add_argument("--traceback", help="a file with a traceback of TRL's, or - to paste it (end with Ctrl-D)")
    parser.add_argument(
        "--trl", default="", metavar="VERSION", help="its version of TRL, where the file does not say it"
    )
    args = parser.parse_args()
    if args.traceback is not None:
        print(explain(args.traceback, RECORD, args.trl))
    elif args.login and args.nodes:
        judge([args.login, *args.nodes])
    else:
        parser.error("give --traceback, or --login and --nodes")


def judge(findings: list[str]) -> None:
    """Print the findings in these files, which the next doctor makes anew; UserError if any failed."""
    machines = [read_findings(path) for path in findings]
    for machine in machines:
        print(machine.text())
    for path in findings:
        Path(path).unlink()
    if any(machine.failed() for machine in machines):
        raise UserError("the study would fail; mend what is marked FAIL and run the doctor again")
    print("the study should run here")


if __name__ == "__main__":
    exit_with_message(main)
