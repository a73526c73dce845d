"""Rebuild a study in a new folder and compare every result with the checksums in the repository.

    python tools/reproduce.py rebuild --checksums config/checksums/demo.json --folder .reproduce
    python tools/reproduce.py compare --checksums config/checksums/demo.json --results .reproduce/results/demo
    python tools/reproduce.py record --checksums config/checksums/demo.json --results results/demo \
        --config config/config.yaml

`rebuild` clones the commit that is checked out, runs the study there through the public command, and compares.
Logs, benchmarks and manifests hold times and are not compared, nor are the lines of the report that show what the
manifests say of times, commit and machine.

Results are equal to the byte where the CPU class is the same (vendor, widest vector instructions, what torch uses of
them, device): kernels are chosen by it, so another class rounds otherwise, and a greedy answer may take another turn.
There, if nothing else differs (but python's patch release, which the lock leaves to the machine), each mean and each
paired difference must be within half of the half-width of its recorded 95% interval over prompts (one prompt, where
that interval has no width). The checksum file states every value and its tolerance; `--cpu-instructions native` makes
a machine another class than the one that the study asks for. Exit code 1: not reproduced.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from arms.job.files import UserError, exit_with_message, read_json, sha256_bytes, sha256_file, write_json
from arms.job.manifest import read_manifest

CPU = "CPU class"
OF_THE_MACHINE = {CPU, "version python", "settings cpu_instructions"}
VARIES = re.compile(rb"<!-- varies -->.*?<!-- end -->", re.DOTALL)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("rebuild", "compare", "record"):
        command = commands.add_parser(name)
        command.add_argument("--checksums", type=Path, required=True, metavar="JSON")
        if name == "rebuild":
            command.add_argument("--folder", type=Path, required=True, help="where to rebuild; must not exist")
            command.add_argument("--cores", default="all")
            command.add_argument("--cpu-instructions", help="others than the study's, as another class of CPU has them")
        else:
            command.add_argument("--results", type=Path, required=True, help="results/<study>")
        if name == "record":
            command.add_argument("--config", required=True, help="configuration that made the results")
    args = parser.parse_args()
    if args.command == "record":
        write_json(args.checksums, record(args.results, args.config))
    else:
        recorded = read_json(args.checksums)
        if args.command == "rebuild":
            others = ["--config", f"cpu_instructions={args.cpu_instructions}"] if args.cpu_instructions else []
            args.results = rebuild(recorded, args.folder, ["--cores", args.cores, *others])
        sys.exit(0 if compare(recorded, record(args.results, recorded["config"])) else 1)


def record(results: Path, config: str) -> dict:
    """What a finished study is compared by: its jobs in the order in which they ran, and its main values.

    Every job has what decides its result (settings, code, data, versions, CPU class) and the sha256 of its results.
    """
    manifests = [read_manifest(path) for path in results.rglob("*manifest.json")]
    if not manifests:
        raise UserError(f"{results}: no manifest found; give the folder of a finished study, results/<study>")
    manifests.sort(key=lambda manifest: (manifest["started"], name_of(manifest)))
    jobs = {name_of(manifest): job_of(manifest, results) for manifest in manifests}
    return {
        "config": config,
        "study": results.name,
        "commits": sorted({manifest["git"]["sha"] or "outside git" for manifest in manifests}),
        "versions": {m["lock"]["file"]: m["versions"] for m in manifests if m["lock"]},
        "order": list(jobs),
        "jobs": jobs,
        "headline": read_json(results / "stats" / "decision.json")["headline"],
        "values": values(results),
    }


def name_of(manifest: dict) -> str:
    """A job's name: rule and wildcards."""
    return " ".join(filter(None, [manifest["rule"], *manifest["wildcards"].values()]))


def job_of(manifest: dict, results: Path) -> dict:
    """What decides a job, and the sha256 of what it made (paths relative to the study's folder)."""
    prefix = f"results/{results.name}/"
    machine = manifest["machine"]
    inputs = {entry["path"]: entry["sha256"] for entry in manifest["inputs"].values()}
    made = [entry["path"].removeprefix(prefix) for entry in manifest["outputs"].values()]
    return {
        "settings": manifest["settings"],
        "code": manifest["code"],
        "data": {path: sha for path, sha in inputs.items() if not path.startswith(prefix)},
        "lock": manifest["lock"]["file"],
        "cpu": ", ".join(str(machine[key]) for key in ("cpu", "cpu_capability", "device") if machine.get(key)),
        "results": {path: checksum(results / path) for path in made if not path.startswith("benchmarks/")},
    }


def checksum(path: Path) -> str | None:
    """sha256 of a result, of a page without the lines that vary (times, commit, machine); None if it is not there."""
    if path.suffix == ".html" and path.is_file():
        return sha256_bytes(VARIES.sub(b"", path.read_bytes()))
    return sha256_file(path) if path.exists() else None


def values(results: Path) -> dict[str, list[float]]:
    """Overall means of the arms and paired differences: name -> [value, tolerance on another CPU class]."""
    found = {}
    for table, value, low, high, size in (
        ("arm_means", "mean", "ci_lo", "ci_hi", "n"),
        ("contrasts", "estimate", "ci_ckpt_lo", "ci_ckpt_hi", "n_prompts"),
    ):
        with (results / "stats" / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["group_kind"] == "overall"]
        for row in rows:
            known = row.get("hypothesis_id") or "/".join([row["metric"], row["arm"], row["level"], row["train_seed"]])
            width = float(row[high] or "nan") - float(row[low] or "nan")
            tolerance = 1 / int(row[size]) if not width > 0 else width / 4
            found[f"{table}: {known.rstrip('/')}"] = [float(row[value]), tolerance]
    return found


def rebuild(recorded: dict, folder: Path, options: list[str]) -> Path:
    """Run the study in a new clone of the commit that is checked out; its results folder. options: of snakemake."""
    if folder.exists():
        raise UserError(f"{folder} exists; a rebuild needs a new folder")
    if not (ROOT / ".git").exists():
        raise UserError(f"{ROOT} is not a git clone: a rebuild clones its commit")
    if subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD"]).returncode:
        print("note: the commit is rebuilt, without the uncommitted changes here", flush=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".envs").symlink_to(ROOT / ".envs")
    command = [str(ROOT / ".envs" / "driver" / "bin" / "snakemake"), "--configfile", recorded["config"]]
    if subprocess.run([*command, "--quiet", "rules", *options], cwd=folder).returncode:
        raise UserError(f"the rebuild in {folder} failed, see above")
    return folder / "results" / recorded["study"]


def compare(recorded: dict, here: dict) -> bool:
    """Say whether two records agree, else which target is the first to differ and why; True if reproduced."""
    names = [*recorded["order"], *(name for name in here["order"] if name not in recorded["jobs"])]
    files = {name: differing(recorded["jobs"].get(name), here["jobs"].get(name)) for name in names}
    total = len({path for record in (recorded, here) for job in record["jobs"].values() for path in job["results"]})
    equal = total - sum(map(len, files.values()))
    print(f"{equal} of {total} results equal those recorded at {', '.join(recorded['commits'])}")
    different = [name for name in names if files[name]]
    if not different:
        print("reproduced to the byte")
        return True
    reasons = {name: why(name, recorded, here) for name in different}
    print(f"first to differ: {files[different[0]][0]}, made by {different[0]}")
    for what, reason in reasons[different[0]].items():
        print(f"  {what}: {reason}")
    if not reasons[different[0]]:
        print(
            "  same settings, code, data, versions and CPU class: the job is not deterministic, or the file was changed"
        )
    counts = Counter(name.split()[0] for name in different)
    print(f"jobs whose results differ: {', '.join(f'{rule} {count}' for rule, count in counts.items())}")
    if CPU in reasons[different[0]] and all(set(found) <= OF_THE_MACHINE for found in reasons.values()):
        return close(recorded, here)
    print("NOT reproduced")
    return False


def differing(recorded: dict | None, here: dict | None) -> list[str]:
    """Results of one job that are not equal, or that only one side has."""
    before, now = (job["results"] if job else {} for job in (recorded, here))
    return [path for path in {**before, **now} if path not in now or before.get(path) != now[path]]


def why(name: str, recorded: dict, here: dict) -> dict[str, str]:
    """What decides a job and is not as recorded: what -> recorded and found."""
    before, now = recorded["jobs"].get(name), here["jobs"].get(name)
    if not before or not now:
        return {"job": "recorded, but not part of this study" if before else "not recorded"}
    found = {
        **changes("settings", before["settings"], now["settings"]),
        **changes("data", before["data"], now["data"]),
        **changes("version", recorded["versions"][before["lock"]], here["versions"][now["lock"]]),
    }
    for what, key in (("code", "code"), (CPU, "cpu")):
        if before[key] != now[key]:
            found[what] = f"{before[key]} -> {now[key]}"
    return found


def changes(what: str, before: object, now: object) -> dict[str, str]:
    """Values of nested dicts that differ: "settings dpo.beta" -> "0.1 -> 0.2"."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {} if before == now else {what: f"{before} -> {now}"}
    found = {}
    for key in {**before, **now}:
        name = f"{what}.{key}" if " " in what else f"{what} {key}"
        found.update(changes(name, before.get(key), now.get(key)))
    return found


def close(recorded: dict, here: dict) -> bool:
    """Whether the main values are within the recorded tolerances; those that are not are printed."""
    print(f"another CPU class: the {len(recorded['values'])} main values are compared, with the recorded tolerances")
    far = 0
    for name, (value, tolerance) in recorded["values"].items():
        found = here["values"].get(name, [math.nan])[0]
        if not abs(found - value) <= tolerance:
            far += 1
            print(f"  {name}: {value:.6g} -> {found:.6g}, tolerance {tolerance:.2g}")
    if recorded["headline"] != here["headline"]:
        print(f"  recorded: {recorded['headline']}\n  here:     {here['headline']}")
    print(f"NOT reproduced: {far} values out of tolerance" if far else "reproduced within the tolerances")
    return not far


if __name__ == "__main__":
    exit_with_message(main)
