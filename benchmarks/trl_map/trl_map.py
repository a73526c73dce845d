"""The map of TRL's versions: run the same tiny DPO and the same calls on each, and write down what each did.

    python3.11 benchmarks/trl_map/trl_map.py run            # all: environments, results.json, docs/trl-versions.md
    python3.11 benchmarks/trl_map/trl_map.py run 0.8.6      # one of them
    python3.11 benchmarks/trl_map/trl_map.py check 0.8.6    # run it again: is it as results.json says?
    python3.11 benchmarks/trl_map/trl_map.py lock           # make locks/*.txt anew from locks/*.in

Each version has a locked environment of its own, .envs/map-VERSION, which is installed where it is missing; those
of the workflow's stacks are .envs/train and .envs/train-current (`make setup`, also with STACK=current). Needs the
network only to install.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trl_page import OF_STACKS, PAGE, PINNED, page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOCKS, RESULTS = HERE / "locks", HERE / "results.json"
ENVIRONMENTS = ROOT / ".envs"
UV = ENVIRONMENTS / "uv" / "bin" / "uv"
WHEELS = ["--only-binary", ":all:"]
RESOLUTION = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", *WHEELS]
DIGITS, TOLERANCE = 6, 1e-4


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "check", "lock", "page"])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="of TRL; without any, all")
    args = parser.parse_args()
    if unknown := set(args.versions) - {*versions()}:
        sys.exit(f"error: no lock for TRL {', '.join(sorted(unknown))}; there is {', '.join(versions())}")
    wanted = args.versions or versions()
    if args.what == "lock":
        for version in wanted:
            lock(version)
    elif args.what == "check":
        differing = [line for version in wanted for line in differences(version)]
        print(*(differing or [f"TRL {', '.join(wanted)}: as results.json says"]), sep="\n")
        sys.exit(bool(differing))
    else:
        if args.what == "run":
            for version in wanted:
                record(version, probed(version))
        PAGE.write_text(page(read_results()), encoding="utf-8")


def versions() -> list[str]:
    """Every version that is tried, the oldest first."""
    found = [*OF_STACKS, *(path.stem for path in LOCKS.glob("*.in"))]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def lock(version: str) -> None:
    """Resolve locks/VERSION.in into hashed wheels for Linux on x86-64."""
    if version in OF_STACKS:
        return
    command = [str(UV), "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-annotate", *RESOLUTION]
    command += [
        "--custom-compile-command",
        "benchmarks/trl_map/trl_map.py lock",
        f"{version}.in",
        "-o",
        f"{version}.txt",
    ]
    subprocess.run(command, cwd=LOCKS, check=True)


def environment(version: str) -> Path:
    """The python of a version's environment, which is installed now if it is missing or its lock has changed."""
    if version in OF_STACKS:
        return ENVIRONMENTS / OF_STACKS[version] / "bin" / "python"
    folder, pins = ENVIRONMENTS / f"map-{version}", LOCKS / f"{version}.txt"
    python, mark = folder / "bin" / "python", folder / ".lock-sha256"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest:
        print(f"installing the locked environment of TRL {version} into .envs/{folder.name}", file=sys.stderr)
        quiet = [str(UV), "--quiet"]
        if not python.is_file():
            subprocess.run([*quiet, "venv", "--python", "python3.11", str(folder)], check=True)
        install = [*quiet, "pip", "sync", "--require-hashes", *WHEELS, "--python", str(python), str(pins)]
        subprocess.run(install, check=True)
        mark.write_text(digest, encoding="utf-8")
    return python


def run_inside(version: str, program: str, *arguments: object, folder: str) -> None:
    """Run a program of this folder in a version's environment, within `folder`; exit with its words if it fails."""
    command = [str(environment(version)), str(HERE / program), *map(str, arguments)]
    quiet = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "PYTHONWARNINGS": "ignore"}
    quiet |= {"TMPDIR": folder, "HF_HOME": folder}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **quiet}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {program} failed on TRL {version}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def probed(version: str) -> dict:
    """What probe.py finds in a version's environment, numbers rounded."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "found.json")
        run_inside(version, "probe.py", "--inputs", made_inputs().name, "--output", output, folder=folder)
        return rounded(json.loads(output.read_text(encoding="utf-8")))


@functools.cache
def made_inputs() -> tempfile.TemporaryDirectory:
    """The folder that make_inputs.py fills, once for all versions; it goes when this process ends."""
    folder = tempfile.TemporaryDirectory()
    run_inside(PINNED, "make_inputs.py", folder.name, folder=folder.name)
    return folder


def rounded(value: object):
    """The same with its floats to some digits, so that a record does not change with the last bits."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def read_results() -> dict:
    """The record; empty before the first run."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"versions": {}}


def record(version: str, found: dict) -> None:
    """Put a version into results.json."""
    results = read_results()
    found["machine"] = f"{processor()}, Python {platform.python_version()}"
    results["versions"][version] = found
    results["versions"] = {one: results["versions"][one] for one in versions() if one in results["versions"]}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"TRL {version}: {len(found['calls'])} calls and {len(found['cases'])} trainings on record")


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def differences(version: str) -> list[str]:
    """Where a run of now differs from the record; numbers may by 1e-4, since processors round otherwise."""
    known = read_results()["versions"].get(version)
    if known is None:
        return [f"TRL {version}: not in results.json; `make map` puts it there"]
    known = {name: value for name, value in known.items() if name != "machine"}
    return [f"TRL {version}, {line}" for line in differing(known, probed(version), "")]


def differing(known: object, found: object, place: str) -> Iterator[str]:
    """One line for each place where two values differ."""
    if isinstance(known, dict) and isinstance(found, dict):
        for name in {**known, **found}:
            yield from differing(known.get(name), found.get(name), f"{place} {name}".strip())
    elif isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        for number, (one, other) in enumerate(zip(known, found, strict=True)):
            yield from differing(one, other, f"{place}[{number}]")
    elif isinstance(known, float) and isinstance(found, float):
        if abs(known - found) > TOLERANCE:
            yield f"{place}: {found}, on record {known}"
    elif known != found:
        yield f"{place}: {found!r}, on record {known!r}"


if __name__ == "__main__":
    main()
