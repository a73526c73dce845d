"""Time and memory of scripts/compare.py on 10^4, 10^5 and 10^6 prompts x 5 seeds x 4 arms, from parquet on disk.

    .envs/stats/bin/python benchmarks/scale.py

The largest size and its budget are the `scale` case of tests/oracles.json. Exit status 1 if the budget is exceeded,
or if the CPU time grows faster than the number of prompts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORACLES = Path(os.environ.get("PAIRED_ORACLES", ROOT / "tests/oracles.json"))
ARMS = {"base": 0.0, "sft": 0.1, "sft_dpo": 0.25, "dpo_only": 0.2}


def main() -> None:
    """Write each size, compare it in a process of its own, print and check what that cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the synthetic tables go (0.2 GB; default: a temporary folder)")
    parser.add_argument("--write", nargs=3, metavar=("N", "SEEDS", "CATEGORIES"), type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(Path(args.folder), *args.write)
        return
    case = next(c for c in json.loads(ORACLES.read_text())["cases"] if c["kind"] == "scale")
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if run(case["input"], case["expected"], Path(args.folder or temporary)) else 1)


def run(given: dict, budget: dict, folder: Path) -> bool:
    """Whether time grows at most linearly and the largest size stays in the budget; prints a table of all sizes."""
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| prompts | score rows | wall s | CPU s | peak RSS MB | CPU s per 10^5 prompts |")
    print("|---|---|---|---|---|---|")
    per_prompt = []
    for n in (given["n_prompts"] // 100, given["n_prompts"] // 10, given["n_prompts"]):
        place = folder / str(n)
        # A process of its own writes the tables: a child's peak memory starts at its parent's.
        design = [str(value) for value in (n, given["seeds"], given["groups"] - 1)]
        subprocess.run([sys.executable, __file__, "--folder", str(place), "--write", *design], check=True)
        wall, cpu, memory = measure(place)
        check_tables(place, given)
        rows = n * (1 + given["seeds"] * (len(ARMS) - 1))
        print(f"| {n:,} | {rows:,} | {wall:.1f} | {cpu:.1f} | {memory:,.0f} | {cpu / n * 1e5:.1f} |", flush=True)
        per_prompt.append(cpu / n)
    # The fixed cost of starting counts less and less; 20% are left for noise.
    linear = all(later <= 1.2 * earlier for earlier, later in pairwise(per_prompt))
    fits = wall <= budget["max_seconds"] and memory <= budget["max_rss_mb"]
    print(
        f"\nbudget of {budget['max_seconds']} s (wall) and {budget['max_rss_mb']} MB: {'met' if fits else 'EXCEEDED'}"
    )
    print(f"growth of CPU time: {'at most linear' if linear else 'FASTER than linear'}")
    return fits and linear


def measure(place: Path) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak resident MB) of one run of the public program."""
    command = [sys.executable, str(ROOT / "scripts/compare.py"), "--plan", str(place / "plan.json")]
    command += ["--scores", str(place / "scores"), "--prompts", str(place / "prompts.parquet")]
    start = time.monotonic()
    with open(place / "log.txt", "w") as log:
        process = subprocess.Popen([*command, "--output", str(place / "stats")], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit((place / "log.txt").read_text())
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def check_tables(place: Path, given: dict) -> None:
    """The run did all the work: contrasts x groups, each with a test and an interval in both scopes."""
    import pyarrow.parquet as pq

    table = pq.read_table(place / "stats/contrasts.parquet")
    if table.num_rows != given["contrasts"] * given["groups"]:
        raise SystemExit(f"{table.num_rows} hypotheses, expected {given['contrasts']} x {given['groups']}")
    for column in ("p_ckpt", "ci_ckpt_lo", "p_method", "ci_method_lo", "p_adj_bh"):
        if table[column].null_count:
            raise SystemExit(f"column {column} holds nulls")


def write(folder: Path, n: int, n_seeds: int, n_categories: int) -> None:
    """Prompts, a plan and binary scores; one file per run, its rows in random order."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    (folder / "scores/metric=pref_acc").mkdir(parents=True)
    metric = {"kind": "binary", "higher_is_better": True, "margin": 0.01, "role": "primary"}
    plan = {"seed": 1, "primary_metric": "pref_acc", "metrics": {"pref_acc": metric}}
    (folder / "plan.json").write_text(json.dumps(plan))
    ids = pa.array([f"prompt-{i:07d}" for i in range(n)])
    prompts = {
        "prompt_id": ids,
        "prompt_sha256": pa.array([hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]),
        "category": pa.array([f"category-{i % n_categories}" for i in range(n)]),
        "cluster_id": ids,
        "split": pa.array(["heldout"] * n),
    }
    pq.write_table(pa.table(prompts), folder / "prompts.parquet", compression="zstd")
    difficulty = rng.standard_normal(n)
    for arm, effect in ARMS.items():
        for seed in [-1] if arm == "base" else range(1, n_seeds + 1):
            right = difficulty + effect + 0.02 * rng.standard_normal() + rng.standard_normal(n) > 0
            order = rng.permutation(n)
            columns = {
                "arm": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array([arm])),
                "train_seed": pa.array(np.full(n, seed, dtype=np.int32)),
                "prompt_id": pa.DictionaryArray.from_arrays(pa.array(order.astype(np.int32)), ids),
                "sample_idx": pa.array(np.zeros(n, dtype=np.int16)),
                "value": pa.array(right[order].astype(np.float64)),
                "status": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array(["ok"])),
                "gen_sha256": pa.nulls(n, pa.string()),
            }
            path = folder / f"scores/metric=pref_acc/part-{arm}-{seed}.parquet"
            pq.write_table(pa.table(columns), path, compression="zstd")


if __name__ == "__main__":
    main()
