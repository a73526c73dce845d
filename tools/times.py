"""Where the time of a study went: one line a rule, from Snakemake's benchmark files.

    python tools/times.py results/demo

Seconds are summed over the jobs of a rule (jobs run side by side, so the study itself took less); the memory is that of
the largest job. A job that ran several times counts once, as it ran last.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def main() -> None:
    """Read the benchmark files of a study and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the study, results/<study>")
    folder = parser.parse_args().results / "benchmarks"
    rules: dict[str, list[dict[str, str]]] = {}
    for path in sorted(folder.glob("**/*.tsv")):
        with path.open(encoding="utf-8", newline="") as stream:
            rules.setdefault(path.relative_to(folder).parts[0].removesuffix(".tsv"), []).extend(
                csv.DictReader(stream, delimiter="\t")
            )
    if not rules:
        raise SystemExit(f"{folder}: no benchmark file; run the study first")
    rows = sorted(((total(jobs), rule, jobs) for rule, jobs in rules.items()), reverse=True)
    print(f"{'rule':<18}{'jobs':>5}{'seconds':>9}{'each':>8}{'peak MB':>9}")
    for seconds, rule, jobs in rows:
        peak = max(number(job["max_rss"]) for job in jobs)
        print(f"{rule:<18}{len(jobs):>5}{seconds:>9.0f}{seconds / len(jobs):>8.1f}{peak:>9.0f}")
    print(f"{'all':<18}{sum(map(len, rules.values())):>5}{sum(row[0] for row in rows):>9.0f}")


def total(jobs: list[dict[str, str]]) -> float:
    """Wall-clock seconds of some jobs together."""
    return sum(number(job["s"]) for job in jobs)


def number(text: str) -> float:
    """A figure of a benchmark file, which has "NA" or "-" for a job that was over too soon to be measured."""
    try:
        return float(text)
    except ValueError:
        return 0.0


if __name__ == "__main__":
    main()
