"""What checking and tokenising large data costs: time and memory of the two programs on made-up pairs.

    .envs/train/bin/python benchmarks/data_size.py --pairs 100000 --heldout 1000 --model results/smoke/model/model.json

The pairs are drawn with a seed: 1.2 KB each, half of the prompts with a long beginning that they share with others, as
system prompts and few-shot examples do. One in a hundred held-out prompts is a training prompt with one word changed,
so how many near-duplicates must be found is known. Memory is that of a program and its processes together, what they
share counted once (PSS), sampled twice a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Make the files, run both programs, print what the manifests say of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--heldout", type=int, default=1000)
    parser.add_argument("--model", help="model.json of a base model; without it nothing is tokenised")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        near = make(folder, args.pairs, args.heldout)
        sources = {name: f"{name}.jsonl" for name in ("sft", "pairs", "heldout_pairs", "heldout_prompts")}
        size = (folder / "pairs.jsonl").stat().st_size / 1e6
        print(f"{args.pairs} pairs, {size:.0f} MB; {args.heldout} held-out pairs, {near} of them near-duplicates")
        for data in ("sft", "pairs", "heldout_pairs"):
            flags = ["--data", sources[data], "--sources", json.dumps(sources), "--audit", f"{data}.json"]
            flags += ["--trained", "sft.parquet", "pairs.parquet"] if data == "heldout_pairs" else []
            run(folder, "grade", "check_data", {"data": data}, {}, [*flags, "--rows", f"{data}.parquet"])
            found = json.loads((folder / f"{data}.json").read_text(encoding="utf-8"))["near_duplicates"]
            print(f"    {len(found)} near-duplicates found")
        flags = ["--heldout", "heldout_pairs.parquet", "--prompts", "prompts.parquet", "--audit", "p.json"]
        run(folder, "grade", "list_heldout", {}, {}, flags)
        if not args.model:
            return
        tokens = {"template": "{prompt}\n", "system_prompt": None, "max_length": 4096, "on_overlong": "error"}
        tokens |= {"eos_after_truncation": True, "rows": None}
        flags = [
            "--model",
            str(Path(args.model).resolve()),
            "--threads",
            "2",
            "--data",
            "pairs.parquet",
            "--kind",
            "pairs",
        ]
        run(folder, "train", "tokenize_data", {}, tokens, [*flags, "--tokens", "t.parquet", "--audit", "t.json"])


def run(folder: Path, environment: str, rule: str, wildcards: dict, settings: dict, flags: list[str]) -> None:
    """Run a program as a rule does, in its own environment."""
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings})
    python = ROOT / ".envs" / environment / "bin" / "python"
    command = [str(python), str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json", *flags]
    before, began, peak = cpu_seconds(), time.monotonic(), 0
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, pss_mib(process.pid))
            time.sleep(0.5)
    if process.returncode:
        sys.exit((folder / "log.txt").read_text(encoding="utf-8"))
    wall, load = time.monotonic() - began, os.getloadavg()[0]
    what = " ".join([rule, *wildcards.values()])
    print(f"{what}: {wall:.0f} s, {cpu_seconds() - before:.0f} s of CPU time, {peak} MiB (load {load:.0f})", flush=True)


def cpu_seconds() -> float:
    """User and system time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pss_mib(pid: int) -> int:
    """Memory of a process and those that it started, in MiB; what has just ended counts as none."""
    total = 0
    with contextlib.suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        total += int(re.search(r"^Pss: *([0-9]+)", rollup, re.MULTILINE)[1]) // 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(pss_mib, map(int, (task / "children").read_text(encoding="utf-8").split())))
    return total


def make(folder: Path, pairs: int, heldout: int) -> int:
    """Write the four files; returns how many held-out pairs nearly are training pairs."""
    draw = random.Random(0)  # noqa: S311
    vocabulary = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randrange(2, 10))) for _ in range(20_000)]
    beginnings = [" ".join(draw.choices(vocabulary, k=20)) for _ in range(20)]

    def words(count: int) -> str:
        return " ".join(draw.choices(vocabulary, k=count))

    def pair(name: str) -> dict:
        prompt = f"{draw.choice(beginnings)} {words(40)}" if draw.random() < 0.5 else words(60)
        shared = words(10)
        return {"id": name, "prompt": prompt, "chosen": f"{shared} {words(60)}", "rejected": f"{shared} {words(50)}"}

    kept = []
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for number in range(pairs):
            row = pair(f"t{number}")
            if number % (pairs * 100 // heldout) == 0:
                kept.append(re.sub(r"\w+$", "changed", row["prompt"]))
            file.write(json.dumps(row) + "\n")
    rows = [pair(f"h{number}") for number in range(heldout)]
    for row, prompt in zip(rows, kept, strict=False):
        row["prompt"] = prompt
    write(folder / "heldout_pairs.jsonl", rows)
    write(folder / "sft.jsonl", [{"id": "s", "prompt": words(20), "completion": words(20)}])
    instructions = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write(folder / "heldout_prompts.jsonl", [{"id": "p", "prompt": words(20), **instructions}])
    return min(heldout, len(kept))


def write(path: Path, rows: list[dict]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
