"""Write envs/*.yaml from uv.lock: python and pip from conda-forge, every other package pinned and hashed.

    python tools/pin_envs.py            # writes envs/*.yaml
    python tools/pin_envs.py --check    # exit code 1 if a file is out of step with the lock

The shape (hashed items inside the pip section, no pin file, no requirements file) is the one that conda 24.7-26.7
installs with --require-hashes and that Snakemake hashes as a whole. Only what has no wheel on PyPI is built from its
(hashed) source. Needs `uv` on PATH.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    "train": "train_sft, train_dpo, score_pairs, generate and everything that reads the model",
    "train-current": "the same programs with `stack: current`",
    "grade": "grade: the IFEval checkers of lm-evaluation-harness",
    "stats": "checks of the data, statistics, figures and the report",
    "provenance": "verify, and export_crate with its validator",
}
HEADER = """\
# Generated from uv.lock by `make envs`; do not edit. Used by: {use}.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11.7
  - pip=25.3
  - pip:
      - "--require-hashes"
      - "--only-binary=:all:"
"""


def environment(group: str) -> str:
    """Text of envs/<group>.yaml."""
    command = ["uv", "export", "--quiet", "--frozen", "--project", str(ROOT), "--only-group", group]
    command += ["--no-emit-project", "--no-annotate", "--no-header"]
    exported = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    items = sorted(" ".join(line.split()) for line in exported.replace("\\\n", "").splitlines() if line.strip())
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    without_wheel = {package["name"] for package in locked if not package.get("wheels")}
    source = sorted(without_wheel & {re.split(r"[\[=]", item)[0] for item in items})
    if source:
        items.insert(0, f"--no-binary={','.join(source)}")
    return HEADER.format(use=GROUPS[group]) + "".join(f'      - "{item}"\n' for item in items)


def main() -> None:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 on a difference")
    check = parser.parse_args().check
    for group in GROUPS:
        path, text = ROOT / "envs" / f"{group}.yaml", environment(group)
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"{path.relative_to(ROOT)} is out of step with uv.lock: run `make envs` and commit the result")
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
