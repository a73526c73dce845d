"""One manifest beside every target: what made it, from what, with which versions, where, and how long it took."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from arms.files import UserError, read_json, sha256_file, write_json

SCHEMA = 1
PIN = re.compile(r"^\s*- [\"']([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\"']+)")


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """The three flags that every program shares; the rule fills them in."""
    parser.add_argument(
        "--job",
        type=json.loads,
        required=True,
        metavar="JSON",
        help='{"rule": name, "wildcards": {...}, "settings": {...}, "code": digest}: what decides the result',
    )
    parser.add_argument("--lock", metavar="envs/X.yaml", help="the pins that the versions found are checked against")
    parser.add_argument("--manifest", required=True, metavar="PATH", help="where the manifest of this job goes")


def pinned_versions(lock: str | Path) -> dict[str, str]:
    """Package name -> version in an envs/*.yaml file (its pip section)."""
    lines = Path(lock).read_text(encoding="utf-8").splitlines()
    return {match[1].lower(): match[2] for match in map(PIN.match, lines) if match}


def check_versions(lock: str | Path) -> dict[str, str]:
    """Versions found of every package pinned in `lock`; UserError if one is missing or another than pinned."""
    pinned = pinned_versions(lock)
    if not pinned:
        raise UserError(f"{lock}: no pinned package found; run `make envs`")
    found, wrong = {}, []
    for name, version in sorted(pinned.items()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
        if found[name] != version:
            wrong.append(f"{name} {found[name]} (pinned: {version})")
    if wrong:
        raise UserError(
            f"this environment ({sys.prefix}) is not the one pinned in {lock}: {'; '.join(wrong)}. "
            "Run `make setup` (or, with --sdm conda, delete the environment so that Snakemake makes it again)."
        )
    return found


def git_state(folder: Path) -> dict[str, object]:
    """Commit of the repository that holds `folder` and whether tracked files differ from it; nulls outside git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    sha = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"sha": sha, "dirty": None if status is None else bool(status)}


def cpu_class() -> str:
    """Vendor and widest vector instructions of the CPU: libraries choose kernels, and so the rounding, by them."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^(vendor_id|flags)\s*: (.*)$", text, re.MULTILINE))
    flags = fields.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    return f"{fields.get('vendor_id', 'unknown vendor')} {widest}"


def machine() -> dict[str, object]:
    """Host, processor, threads and, when torch is loaded already, its CPU capability and CUDA device."""
    facts: dict[str, object] = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_class(),
        "cpus": os.cpu_count(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        facts["cuda"] = torch.version.cuda
        if torch.cuda.is_available():
            facts["device"] = torch.cuda.get_device_name()
            facts["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        else:
            facts["device"] = "cpu"
    return facts


class Job:
    """The job that a program was asked to do: its settings, and the manifest that it leaves.

    Making one checks the versions found against the lock, so a wrong environment stops before any work.

    >>> job = Job(parser.parse_args())            # doctest: +SKIP
    >>> beta = job.settings["beta"]               # doctest: +SKIP
    >>> job.finish(inputs={"pairs": args.pairs}, outputs={"table": args.output}, pairs=160)  # doctest: +SKIP
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.started = time.time()
        self.identity = args.job
        self.settings = args.job["settings"]
        self.wildcards = args.job.get("wildcards", {})
        self.path = Path(args.manifest)
        self.lock = args.lock
        self.versions = check_versions(args.lock) if args.lock else {}
        self.label = " ".join([args.job["rule"], *map(str, self.wildcards.values())])

    def say(self, message: str) -> None:
        """One line of progress, marked with the rule and its wildcards (jobs run side by side)."""
        print(f"[{self.label}] {message}", flush=True)

    def finish(self, inputs: dict[str, object], outputs: dict[str, object], **facts: object) -> None:
        """Hash inputs and outputs and write the manifest: the last thing a program does.

        inputs, outputs: name -> path (None is left out). facts: what the program found, JSON values.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        here = Path(__file__).resolve().parent
        write_json(
            self.path,
            {
                "schema": SCHEMA,
                **self.identity,
                "inputs": {name: _file_entry(path) for name, path in inputs.items() if path},
                "outputs": {name: _file_entry(path) for name, path in outputs.items() if path},
                "facts": facts,
                "versions": {"python": platform.python_version(), **self.versions},
                "lock": {"file": Path(self.lock).name, "sha256": sha256_file(self.lock)} if self.lock else None,
                "git": git_state(here),
                "machine": machine(),
                "started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(timespec="seconds"),
                "wall_seconds": round(time.time() - self.started, 2),
                "peak_rss_mib": round(peak),
            },
        )


def _file_entry(path: object) -> dict[str, object]:
    path = Path(str(path))
    return {"path": str(path), "sha256": sha256_file(path)}


def read_manifest(path: str | Path) -> dict:
    """A manifest as a dict; UserError if it is missing, unreadable, or of another schema."""
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        raise UserError(f"{path}: manifest schema {manifest.get('schema')!r}, this version reads {SCHEMA}")
    return manifest
