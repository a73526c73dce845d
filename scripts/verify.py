"""Rule verify: does a study hold what its manifests say, all of it, and nothing else?

    snakemake verify --configfile mine.yaml

Walks from the report back to the raw data. The jobs that must have made the study come from the rules and the
configuration (--jobs), never from the results. One line a fault, and exit code 1 if there is any:

- a file is missing, changed since it was made or read, or foreign: no job of this configuration makes it;
- a manifest is missing, breaks arms/job/manifest.schema.json, or is of another job, configuration or code;
- two manifests disagree: a job read another content than the job before it wrote;
- a job behind the report read development rows, or the rows of a split are not those that the split gave to its parts;
- a version is off the lock, the lock is another one, or tracked files had uncommitted changes.

Not found: a report forged together with its manifest, since no later job reads it. Publish its sha256.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema

from arms.job.files import UserError, exit_with_message, read_json, sha256_file
from arms.job.manifest import pinned_versions
from study.checksums import portable
from study.identity import changed_settings, environment

SCHEMA = Path(__file__).parent / "arms" / "job" / "manifest.schema.json"
sha256 = cache(sha256_file)
pins = cache(pinned_versions)


def main() -> None:
    """Check each manifest, the files that it names, what all have in common, and the folder; print and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", required=True, metavar="FILE", help="manifest -> {job, lock, inputs, outputs}, JSON")
    parser.add_argument("--results", required=True, metavar="DIR", help="folder of the study")
    args = parser.parse_args()
    jobs, results = read_json(args.jobs), Path(args.results)
    jobs = {path: job for path, job in jobs.items() if not job["development"] or Path(path).is_file()}

    faults, manifests = [], {}
    for path, expected in jobs.items():
        try:
            manifests[path] = read_valid(path, expected["job"])
        except UserError as error:
            faults.append(str(error))
    if not any(map(Path.exists, map(Path, jobs))):
        raise UserError(f"{results}: not one manifest of this study; run it first")
    written = {
        entry["path"]: (entry["sha256"], path)
        for path, manifest in manifests.items()
        for entry in manifest["outputs"].values()
    }
    for path, manifest in manifests.items():
        faults += difference_faults(path, jobs[path]["job"], manifest)
        faults += output_faults(path, jobs[path], manifest)
        faults += input_faults(path, jobs, manifest, written)
    faults += shared_faults(jobs, manifests)
    faults += development_faults(jobs, manifests)
    faults += split_faults(jobs)
    known = {Path(name) for path, expected in jobs.items() for name in [path, *expected["outputs"]]}
    folders = {folder for path in known for folder in path.parents}
    faults += [f"{path}: foreign; no job of this configuration makes it" for path in foreign(results, known, folders)]

    for fault in (faults := list(dict.fromkeys(faults))):
        print(fault)
    outside_git = sum(manifest["git"]["sha"] is None for manifest in manifests.values())
    if outside_git:
        print(f"note: {outside_git} of {len(jobs)} jobs ran outside a git repository, so their commit is not known")
    if faults:
        sys.exit(f"{results}: {len(faults)} fault{'s' * (len(faults) > 1)}")
    count = sum(len(expected["outputs"]) for expected in jobs.values())
    apart = "; none of the report's jobs read a development row" if any(map(is_split, jobs.values())) else ""
    print(f"{results}: OK; {count} targets of {len(jobs)} jobs, from the report back to the raw data{apart}")


def read_valid(path: str, job: dict) -> dict:
    """The manifest of `job`; UserError if it is missing, breaks the schema, or is that of another job."""
    if not Path(path).is_file():
        raise UserError(f"{path}: missing; the manifest of {label(job)}")
    manifest = read_json(path)
    error = next(jsonschema.Draft202012Validator(read_json(SCHEMA)).iter_errors(manifest), None)
    if error:
        raise UserError(f"{path}: not a valid manifest: {'.'.join(map(str, error.path))}: {error.message[:200]}")
    if (manifest["rule"], manifest["wildcards"]) != (job["rule"], job["wildcards"]):
        raise UserError(f"{path}: the manifest of {label(manifest)} in the place of {label(job)}")
    return manifest


def difference_faults(path: str, job: dict, manifest: dict) -> Iterator[str]:
    """Settings or code that this configuration and these programs do not have."""
    if words := changed_settings(manifest["settings"], job["settings"]):
        yield f"{path}: made by another configuration: {words}"
    if manifest["code"] != job["code"]:
        was, now = manifest["code"], job["code"]
        yield f"{path}: made by other code: {label(manifest)} ran with digest {was}, its program here has {now}"


def output_faults(path: str, expected: dict, manifest: dict) -> Iterator[str]:
    """Outputs of one job that are missing, not recorded, or not what its manifest says."""
    recorded = {entry["path"]: entry["sha256"] for entry in manifest["outputs"].values()}
    for name in map(portable, expected["outputs"]):
        if not Path(name).exists():
            yield f"{name}: missing; {label(manifest)} made it"
        elif name not in recorded:
            yield f"{path}: does not record the output {name}"
        elif sha256(name) != recorded[name]:
            yield f"{name}: changed since {label(manifest)} made it"


def input_faults(path: str, jobs: dict, manifest: dict, written: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Inputs of one job that are missing, not recorded, or not what was written before or is there now.

    written: file -> (sha256, manifest) as the manifests of the jobs before say; raw data and manifests are in none.
    """
    recorded = {entry["path"]: entry["sha256"] for entry in manifest["inputs"].values()}
    for name in map(portable, jobs[path]["inputs"]):
        if name not in recorded:
            yield f"{path}: does not record the input {name}"
        elif name in written:
            digest, maker = written[name]
            if digest != recorded[name]:
                yield f"{path}: disagrees with {maker}: read another {name} than was written"
        elif not Path(name).exists():
            if name not in jobs:  # a missing manifest has been told already
                yield f"{name}: missing; {label(manifest)} read it"
        elif sha256(name) != recorded[name]:
            yield f"{name}: changed since {label(manifest)} read it"


def is_split(job: dict) -> bool:
    """Whether a job checks one part of a split that sets rows aside for development."""
    return "development" in job["job"]["settings"].get("split", {})


def development_faults(jobs: dict, manifests: dict) -> Iterator[str]:
    """Jobs behind the report that read what jobs for development made: by the rules, or by what they recorded."""
    apart = {path for path, job in jobs.items() if job["development"]}
    made = {portable(name) for path in apart for name in jobs[path]["outputs"]}
    digests = {
        entry["sha256"]: entry["path"]
        for path in apart & manifests.keys()
        for entry in manifests[path]["outputs"].values()
    }
    for path in jobs.keys() - apart:
        read = {portable(name): "" for name in jobs[path]["inputs"]}
        for entry in manifests[path]["inputs"].values() if path in manifests else ():
            read[entry["path"]] = digests.get(entry["sha256"], "")
        for name, twin in read.items():
            if name in made or twin:
                what = name if name in made else f"{name}, which has the content of {twin}"
                yield f"{path}: {label(jobs[path]['job'])} is behind the report and reads development rows: {what}"


def split_faults(jobs: dict) -> Iterator[str]:
    """Data sets of one split whose rows are not those that all of them say the split gave to each."""
    audits = [name for job in jobs.values() for name in job["outputs"] if name.endswith(".audit.json")]
    found = {name: read_json(name).get("split") for name in audits if Path(name).is_file()}
    splits = {name: split for name, split in found.items() if split}
    for name, split in splits.items():
        first = next(iter(splits))
        if split["parts"] != splits[first]["parts"]:
            yield f"{name}: disagrees with {first} about which rows are in which part of the split"
        if name.endswith("pairs.audit.json") and split["ids_sha256"] != split["parts"][split["part"]]["ids_sha256"]:
            yield f"{name}: its rows are not those of the split's part {split['part']!r}"


def shared_faults(jobs: dict, manifests: dict) -> list[str]:
    """Faults that many jobs share, each told once: another lock, versions off the lock, a dirty working tree."""
    found: dict[str, list[str]] = {}
    for path, manifest in manifests.items():
        faults = list(environment_faults(jobs[path]["lock"], manifest))
        if manifest["git"]["dirty"]:
            faults.append(f"ran with uncommitted changes on top of commit {manifest['git']['sha'][:12]}")
        for fault in faults:
            found.setdefault(fault, []).append(path)
    return [
        f"{paths[0]}: {fault}{f'; so did {len(paths) - 1} more jobs' * (len(paths) > 1)}"
        for fault, paths in found.items()
    ]


def environment_faults(lock: str, manifest: dict) -> Iterator[str]:
    """Another environment than the rule's, another lock of it, or versions off the lock."""
    checked, versions = manifest["lock"], manifest["versions"]
    if checked and checked["file"] != Path(lock).name:
        yield f"ran in the environment of {checked['file']}, the rule here has {lock}"
        return
    if checked != environment(lock):
        yield f"the environment was not checked against this {lock}"
    for name, version in pins(lock).items():
        if versions.get(name) != version:
            allowed = " (allow_off_lock)" if name in manifest["off_lock"] else ""
            yield f"{name} {versions.get(name, 'not recorded')} is off the lock: {lock} pins {version}{allowed}"


def foreign(folder: Path, known: set[Path], folders: set[Path], top: bool = True) -> Iterator[Path]:
    """What no job makes, whole folders as one. Logs, benchmarks, and what unfinished jobs keep are let be."""
    unlisted = {"checkpoints", "too_large", *(["logs", "benchmarks"] if top else [])}
    for path in sorted(folder.iterdir()):
        if path in known or (path.is_dir() and (path.name in unlisted or path.suffix == ".progress")):
            continue
        if path in folders and path.is_dir():
            yield from foreign(path, known, folders, top=False)
        else:
            yield path


def label(job: dict) -> str:
    """A job in words: its rule and wildcards."""
    return " ".join([job["rule"], *(f"{name}={value}" for name, value in job["wildcards"].items() if value)])


if __name__ == "__main__":
    exit_with_message(main)
