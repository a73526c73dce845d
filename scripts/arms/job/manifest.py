"""One manifest beside every target: what made it, from what, with which versions, where, and how long it took."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from arms.job.files import UserError, canonical_json, read_json, sha256_bytes, sha256_file, write_json
from study.checksums import portable, written
from study.identity import environment, flat
from study.runs import Run

SCHEMA = 1  # of manifest.schema.json
ALLOW_OFF_LOCK = "SFT_VS_DPO_ALLOW_OFF_LOCK"  # set by the workflow for `allow_off_lock: true`; no setting of any job
PIN = re.compile(r"^\s*- [\"']([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\"']+)")


def pinned_versions(lock: str | Path) -> dict[str, str]:
    """Package name -> version in an envs/*.yaml file (its pip section)."""
    lines = Path(lock).read_text(encoding="utf-8").splitlines()
    return {match[1].lower(): match[2] for match in map(PIN.match, lines) if match}


def check_versions(lock: str | Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(versions found of every package pinned in `lock`, those off the lock as package -> [pinned, found]).

    Raises UserError if there is any off the lock, unless the environment variable ALLOW_OFF_LOCK is "1".
    """
    pinned = pinned_versions(lock)
    if not pinned:
        raise UserError(f"{lock}: no pinned package found; run `make envs`")
    found, off = {}, {}
    for name, version in sorted(pinned.items()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
        if found[name] != version:
            off[name] = [version, found[name]]
    if off and os.environ.get(ALLOW_OFF_LOCK) != "1":
        wrong = "; ".join(f"{name} {there} (pinned: {version})" for name, (version, there) in off.items())
        raise UserError(
            f"this environment ({sys.prefix}) is not the one pinned in {lock}: {wrong}. "
            "Run `make setup` (or, with --sdm conda, delete the environment so that Snakemake makes it again). "
            "To run with these versions all the same, set allow_off_lock: true; every manifest will then say so"
        )
    return found, off


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
    """Host, processors, SLURM job; if torch is loaded, also its threads, CPU capability, CUDA, device and driver."""
    facts: dict[str, object] = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_class(),
        "cpus": os.cpu_count(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        **dict.fromkeys(["threads", "cpu_capability", "cuda", "device", "driver", "peak_gpu_mib"]),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        facts["cuda"] = torch.version.cuda
        facts["device"] = "cpu"
        if torch.cuda.is_available():
            facts["device"] = torch.cuda.get_device_name()
            facts["driver"] = nvidia_driver()
            facts["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return facts


def nvidia_driver() -> str | None:
    """Version of the NVIDIA kernel driver, such as 550.54.15; None where the kernel does not tell."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"\b[0-9]+\.[0-9.]+", text)  # of "NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ..."
    return version[0] if version else None


def seeds_of(identity: dict[str, dict]) -> dict[str, object]:
    """Every seed among wildcards and settings, by its dotted name: {"wildcards.run": 1, "settings.model.seed": 0}."""
    seeds: dict[str, object] = {}
    for name, value in flat(identity).items():
        if name == "wildcards.run":
            if (seed := Run.parse(value).seed) is not None:
                seeds[name] = seed
        elif name.rpartition(".")[2] in ("seed", "seeds", "train_seeds"):
            seeds[name] = value if isinstance(value, list) else int(value)
    return seeds


def model_checksums(card: str | Path) -> dict[str, str | None]:
    """sha256 of a model as a whole, of its tokenizer's files (names and checksums) and of its chat template."""
    described = read_json(card)
    others = ("config.json", "generation_config.json", "model.safetensors.index.json")
    tokenizer = {
        name: entry["sha256"]
        for name, entry in described["files"].items()
        if name not in others and not name.endswith(".safetensors")
    }
    return {
        "sha256": described["sha256"],
        "tokenizer_sha256": sha256_bytes(canonical_json(tokenizer).encode()),
        "chat_template_sha256": described["tokenizer"]["chat_template_sha256"],
    }


class Job:
    """The job that a program was asked to do: its settings, and the manifest that it leaves.

    Making one checks the versions found against the lock, so a wrong environment stops before any work.

    >>> job = Job(parser.parse_args())  # doctest: +SKIP
    >>> beta = job.settings["beta"]  # doctest: +SKIP
    >>> job.finish(pairs=160)  # doctest: +SKIP
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.started = time.time()
        self.identity = args.job
        self.settings = args.job["settings"]
        self.wildcards = args.job.get("wildcards", {})
        self.path = Path(args.manifest)
        self.lock = args.lock
        self.inputs, self.outputs = args.inputs, args.outputs
        self.found = {path: (written(path), sha256_file(path)) for path in self.inputs.values() if Path(path).exists()}
        self.label = " ".join(filter(None, [args.job["rule"], *self.wildcards.values()]))
        self.versions, self.off_lock = check_versions(args.lock) if args.lock else ({}, {})
        for name, (pinned, found) in self.off_lock.items():
            self.say(f"warning: {name} {found}, {args.lock} pins {pinned}; allowed by allow_off_lock")

    def say(self, message: str) -> None:
        """One line of progress, marked with the rule and its wildcards (jobs run side by side).

        A log that nobody reads any more (a signal may have ended `tee` first) is no reason to lose the work.
        """
        try:
            print(f"[{self.label}] {message}", flush=True)
        except BrokenPipeError:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115

    def _digest_read(self, path: str) -> str:
        """sha256 of an input as it was when the job began; UserError if it is another one by now."""
        if path not in self.found:
            return sha256_file(path)
        facts, digest = self.found[path]
        if facts != written(path) and sha256_file(path) != digest:
            raise UserError(f"{path}: changed while this job read it, so nothing was made of it; run the command again")
        return digest

    def finish(self, **facts: object) -> None:
        """Hash the files that the program was given and write the manifest: the last thing a program does.

        The input `model` or the output `card`, a model.json, gives the checksums of the model. facts: what the program
        found, JSON values.
        """
        card = self.inputs.get("model", self.outputs.get("card"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        write_json(
            self.path,
            {
                "schema": SCHEMA,
                **self.identity,
                "wildcards": self.wildcards,
                "seeds": seeds_of({"wildcards": self.wildcards, "settings": self.settings}),
                "inputs": {name: _entry(path, self._digest_read(path)) for name, path in self.inputs.items()},
                "outputs": {name: _entry(path, sha256_file(path)) for name, path in self.outputs.items()},
                "model": model_checksums(str(card)) if card else None,
                "facts": facts,
                "versions": {"python": platform.python_version(), **self.versions},
                "off_lock": self.off_lock,
                "lock": environment(self.lock) if self.lock else None,
                "git": git_state(Path(__file__).resolve().parent),
                "machine": machine(),
                "started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(timespec="seconds"),
                "wall_seconds": round(time.time() - self.started, 2),
                "peak_rss_mib": round(peak),
            },
        )


def _entry(path: str, digest: str) -> dict[str, str]:
    return {"path": portable(path), "sha256": digest}


def read_manifest(path: str | Path) -> dict:
    """A manifest as a dict; UserError if it is missing, unreadable, or of another schema."""
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        raise UserError(f"{path}: manifest schema {manifest.get('schema')!r}, this version reads {SCHEMA}")
    return manifest
