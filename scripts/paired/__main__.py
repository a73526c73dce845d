"""The command `paired`, also `python -m paired`: compare models, plan a study, or put an analysis plan on record.

paired compare --lm-eval base=logs/base tuned=logs/tuned --metric acc --output out
paired power --metric acc --margin 0.03 --design 3x200
paired freeze --plan plan.json --scores scores --output plan.lock.json
"""

from __future__ import annotations

import argparse
import os
import sys

from . import compare, freeze, prospects
from .files import ContractError

COMMANDS = {"compare": compare.main, "freeze": freeze.main, "power": prospects.main}


def main() -> None:
    """Run the command that is named; a ContractError becomes one clear line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="paired", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, help="its own --help says more")
    command = parser.parse_args(sys.argv[1:2]).command
    try:
        COMMANDS[command](sys.argv[2:])
    except ContractError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without Python's teardown, in which threads of pyarrow 16 sometimes abort the process


if __name__ == "__main__":
    main()
