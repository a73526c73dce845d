"""Rule check_login: what the machine that starts a study can tell the doctor, before anything is submitted.

    python scripts/check_login.py --model '{"source": "path", "path": "/data/models/my-model"}' \
        --asked '{"cpu": {"first": {"slurm_partition": "", "gpu": 0, "mem_mb": 4000, "runtime": 60, "threads": 1}}}' \
        --found login.json

Each kind of job is shown to the scheduler as `sbatch --test-only`, which submits nothing, and is compared with what the
nodes of its partition offer, since many sites accept jobs that can never start.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time

from arms.job.files import UserError, exit_with_message
from arms.model.findings import Findings, model_findings

CURES = (
    # in what sbatch says, what to do about it
    ("partition", "set SFT_VS_DPO_PARTITION and SFT_VS_DPO_GPU_PARTITION; this site has: {partitions}"),
    ("account", "set SBATCH_ACCOUNT; yours are: {accounts}"),
    ("qos", "set SBATCH_QOS or SFT_VS_DPO_GPU_QOS to one that your account may use (sacctmgr show assoc user=$USER)"),
    ("time limit", "set SFT_VS_DPO_MAX_HOURS to the limit of the partition, or lower job_hours"),
    ("feature", "correct SBATCH_CONSTRAINT or SFT_VS_DPO_GPU_CONSTRAINT (sinfo -o '%P %f' lists features)"),
    (
        "configuration",
        "no node has that much: lower job_memory_gb, threads or gpus (`sinfo -o '%P %c %m %G'` lists what there is)",
    ),
)


def main() -> None:
    """Check, print and write what was found; exit code 1 if anything would stop the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=json.loads, required=True, help="the config's model section, JSON")
    parser.add_argument("--asked", type=json.loads, required=True, help="kind of job -> attempt -> resources, JSON")
    parser.add_argument("--found", required=True, help="output: what was found, JSON")
    args = parser.parse_args()

    found = Findings(f"this machine ({platform.node()})")
    folder_findings(found)
    model_findings(args.model, found)
    if args.asked:
        scheduler_findings(args.asked, found)
    else:
        found.add(None, "scheduler", "not asked; with --profile slurm the doctor also looks at the cluster")
    if found.failed():
        print(found.text(), flush=True)
        raise UserError(
            "the study would fail; mend what is marked FAIL and run the doctor again. Nothing was submitted"
        )
    found.write(args.found, folder=os.getcwd(), written=time.time())


def folder_findings(found: Findings) -> None:
    """The folder of the study: locks that jobs on different nodes respect, and space."""
    with tempfile.NamedTemporaryFile(dir=".") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found.add(
                False,
                "folder",
                f"{os.getcwd()}: its file system has no locks (flock: {error.strerror}), which keep two jobs off one "
                "checkpoint; ask for the mount option flock, or move the folder to another file system",
            )
            return
    free = shutil.disk_usage(".").free / 1e9
    found.add(free > 5 or None, "folder", f"{os.getcwd()}: {free:.0f} GB free")


def scheduler_findings(asked: dict, found: Findings) -> None:
    """SLURM: does it answer, does it keep accounts, does it take every kind of job?"""
    version = run("sbatch", "--version").stdout.strip()
    ping = run("scontrol", "ping")
    down = f"{version}: {said(ping)}; `sinfo` tells when it is back"
    if not found.add(ping.returncode == 0, "scheduler", f"{version} answers", down):
        return
    settings = run("scontrol", "show", "config").stdout
    accounting = re.search(r"^AccountingStorageType\s*= (.*)$", settings, re.MULTILINE)
    if accounting and re.search(r"none|null", accounting[1]):
        found.add(
            None,
            "accounting",
            "this cluster keeps no accounts, so job states come from squeue; if the controller does not answer for "
            "minutes, interrupt Snakemake (Ctrl-C) and run the same command again",
        )
    else:
        answer = run("sacct", "--noheader", "--starttime=now")
        silent = f"sacct: {said(answer)}; jobs could not be followed"
        found.add(answer.returncode == 0, "accounting", "sacct answers", silent)
    if re.search(r"^PreemptMode\s*= .*CANCEL", settings, re.MULTILINE):
        found.add(
            None,
            "preemption",
            "this cluster cancels preempted jobs instead of requeueing them; Snakemake would wait for one for ever. "
            "If `squeue` shows none of your jobs while it waits, press Ctrl-C and run the same command again",
        )
    for kind, attempts in asked.items():
        if job_findings(kind, attempts["first"], found) and attempts["last"] != attempts["first"]:
            done = test_only(attempts["last"])
            if done.returncode:
                refused = f"their last attempt would be refused: {said(done)}; {cure(said(done))}"
                found.add(None, f"{kind} jobs", refused)


def job_findings(kind: str, asked: dict, found: Findings) -> bool:
    """One kind of job: would sbatch take it, and is there a node on which it fits?"""
    partition = asked["slurm_partition"] or default_partition()
    words = job_words(asked)
    offers = run("sinfo", "--noheader", "--exact", f"--partition={partition}", "--format=%c|%m|%G|%l").stdout.split()
    if not offers:
        text = f"there is no partition {partition!r}; {cure('partition')}"
        return bool(found.add(False, f"{kind} jobs", text))
    if not any(fits(asked, offer) for offer in offers):
        shown = "; ".join(sorted(offer_words(offer) for offer in set(offers)))
        text = f"no node of partition {partition!r} has {words}; its nodes have {shown}. "
        text += "Correct SFT_VS_DPO_GPU_PARTITION, SFT_VS_DPO_GPU_MODEL, gpus, threads, job_memory_gb or job_hours"
        return bool(found.add(False, f"{kind} jobs", text))
    done = test_only(asked)
    if done.returncode:
        return bool(found.add(False, f"{kind} jobs", f"sbatch refuses {words}: {said(done)}; {cure(said(done))}"))
    start = re.search(r"to start at (\S+)", said(done))
    when = f"; a job submitted now would start at {start[1]}" if start else ""
    return bool(found.add(True, f"{kind} jobs", f"partition {partition!r} takes {words}{when}"))


def run(*command: str) -> subprocess.CompletedProcess:
    """A command and what it said; one that is missing or silent for a minute counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: no such command")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: no answer within a minute")


def said(done: subprocess.CompletedProcess) -> str:
    """The last line that a command wrote."""
    lines = (done.stderr + done.stdout).strip().splitlines()
    return lines[-1].removeprefix("sbatch: error: ").removeprefix("sbatch: ") if lines else "no message"


def cure(message: str) -> str:
    """What to do about a refusal."""
    text = next((cure for word, cure in CURES if word in message.lower()), "see `man sbatch`")
    accounts = run("sacctmgr", "--noheader", "--parsable2", "list", "assoc", f"user={os.environ.get('USER', '')}")
    names = {line.split("|")[1] for line in accounts.stdout.splitlines() if line.count("|") > 1}
    partitions = run("sinfo", "--noheader", "--format=%R").stdout.split()
    return text.format(partitions=", ".join(sorted(set(partitions))), accounts=", ".join(sorted(names)) or "unknown")


def default_partition() -> str:
    """The partition of jobs that name none."""
    names = run("sinfo", "--noheader", "--format=%P").stdout.split()
    return next((name[:-1] for name in names if name.endswith("*")), "")


def test_only(asked: dict) -> subprocess.CompletedProcess:
    """What sbatch says to such a job, without submitting it."""
    flags = {
        "slurm_partition": "--partition={}",
        "runtime": "--time={}",
        "mem_mb": "--mem={}",
        "threads": "--cpus-per-task={}",
        "constraint": "--constraint={}",
        "qos": "--qos={}",
    }
    command = [flag.format(asked[name]) for name, flag in flags.items() if asked.get(name)]
    if asked["gpu"]:
        command.append("--gpus=" + ":".join([*filter(None, [asked.get("gpu_model")]), str(asked["gpu"])]))
    return run("sbatch", "--test-only", *command, "--wrap", "true")


def job_words(asked: dict) -> str:
    """A job's resources in words."""
    parts = [f"{asked['threads']} CPU{'s' * (asked['threads'] > 1)}", f"{asked['mem_mb'] / 1000:g} GB"]
    if asked["gpu"]:
        parts.append(f"{asked['gpu']} GPU{'s' * (asked['gpu'] > 1)} {asked.get('gpu_model', '')}".strip())
    return ", ".join(parts) + f" for {asked['runtime'] / 60:g} h"


def offer_words(offer: str) -> str:
    """A line of sinfo in words."""
    cpus, memory, gres, limit = offer.split("|")
    return f"{cpus} CPUs, {int(memory.rstrip('+')) / 1000:g} GB, {gres.replace('(null)', 'no GPU')}, limit {limit}"


def fits(asked: dict, offer: str) -> bool:
    """Whether a node that sinfo describes as CPUs|MB|gres|time limit can hold the job."""
    cpus, memory, gres, limit = offer.split("|")
    model = asked.get("gpu_model")
    found = re.findall(r"\bgpu(?::([^:,(]+))?:(\d+)(?=[,(]|$)", gres)  # gpu:2, gpu:a100-sxm4:4(S:0-1)
    counts = [int(count) for name, count in found if model is None or name == model]
    return (
        int(cpus.rstrip("+")) >= asked["threads"]
        and int(memory.rstrip("+")) >= asked["mem_mb"]
        and (not asked["gpu"] or sum(counts) >= asked["gpu"])
        and minutes(limit) >= asked["runtime"]
    )


def minutes(limit: str) -> float:
    """SLURM's time limit in minutes.

    >>> [minutes(text) for text in ("infinite", "30:00", "2:00:00", "1-12:00:00")]
    [inf, 30.0, 120.0, 2160.0]
    """
    if not limit[:1].isdigit():
        return float("inf")
    days, _, rest = limit.rpartition("-")
    fields = [int(field) for field in rest.split(":")]
    hours, minutes, seconds = [0] * (3 - len(fields)) + fields
    return 24 * 60 * int(days or 0) + 60 * hours + minutes + seconds / 60


if __name__ == "__main__":
    exit_with_message(main)
