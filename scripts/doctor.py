"""Rule doctor: would a study run here? Prints what check_login and check_node found.

snakemake doctor --profile slurm --configfile mine.yaml
python scripts/doctor.py --login login.json --nodes cpu.json gpu.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms.job.files import UserError, exit_with_message
from arms.model.findings import read_findings


def main() -> None:
    """Print all findings and use up their files, so that the next doctor looks anew; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--login", required=True, help="what check_login found, JSON")
    parser.add_argument("--nodes", nargs="+", required=True, help="what check_node found on each kind of node, JSON")
    args = parser.parse_args()

    findings = [args.login, *args.nodes]
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
