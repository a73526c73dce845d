"""Kill the smoke study again and again, and require the bytes of a study that was never killed.

    .envs/driver/bin/python tests/kill_study.py --kills 20 --seed 0 [--whole FOLDER]

Each round starts the same command in a fresh clone, sends SIGKILL to Snakemake and all its jobs after a random time,
and starts the command again, until the study is done; rounds are repeated until there were enough kills. At the end of
each, every adapter, table and figure must be the same, byte for byte. --whole names a clone in which the study has run
already. Ends with exit code 1 and the names of the files that differ, if any.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
sys.path.append(str(ROOT / ".envs" / "pytest" / "lib" / "python3.11" / "site-packages"))

from conftest import SMOKE, SNAKEMAKE, Clone, results

COMMAND = [str(SNAKEMAKE), "--cores", "2", "--quiet", "rules", "--configfile", SMOKE]


def run_with_kills(clone: Clone, draw: random.Random, kills: int, longest: float) -> int:
    """Run the study to its end, killing it at most `kills` times after 1 to `longest` seconds; return how often."""
    killed = 0
    while True:
        with open(clone.folder / "output.txt", "w") as output:
            study = subprocess.Popen(
                COMMAND, cwd=clone.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            study.wait(draw.uniform(1, longest) if killed < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(study.pid, signal.SIGKILL)
            study.wait()
            killed += 1
            continue
        if study.returncode:
            sys.exit(f"after {killed} kills the study failed:\n{(clone.folder / 'output.txt').read_text()[-5000:]}")
        return killed


def resumed(clone: Clone) -> int:
    """How many training jobs say that they went on from a checkpoint."""
    logs = (clone.folder / "results" / "smoke" / "logs").glob("train_*/*.log")
    return sum("going on from" in log.read_text() for log in logs)


def new_clone(folder: Path) -> Clone:
    """A clone in a new folder."""
    folder.mkdir(parents=True)
    return Clone(folder)


def main() -> None:
    """Run rounds until there were enough kills; compare each with the study that was never killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--whole", type=Path, help="a clone in which the smoke study has run; without it, it is run")
    args = parser.parse_args()
    draw, scratch = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="kill-study-"))
    started = time.monotonic()
    whole = args.whole
    if not whole:
        clone = new_clone(scratch / "whole")
        run_with_kills(clone, draw, 0, 1)
        whole = clone.folder
    seconds = time.monotonic() - started
    longest = max(20.0, seconds / 6) if seconds > 1 else 20.0
    done, rounds, faults = 0, 0, []
    while done < args.kills:
        rounds += 1
        clone = new_clone(scratch / f"round{rounds}")
        killed = run_with_kills(clone, draw, args.kills - done, longest)
        done += killed
        wanted, found = results(whole), results(clone.folder)
        found = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        print(
            f"round {rounds}: {killed} kills, {resumed(clone)} training jobs went on from a checkpoint, "
            f"{len(found)} of {len(wanted)} files differ",
            flush=True,
        )
        faults += [f"round {rounds}: {name}" for name in found]
    print(f"{done} kills in {rounds} rounds, {time.monotonic() - started:.0f} s; {len(faults)} files differ")
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
