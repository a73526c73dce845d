"""What a rule hands to its program: what decides the job, and the map of its files as one quoted command line."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from study.digest import SCRIPTS, code_digest
from study.identity import environment

pins = functools.cache(environment)
Settings = Mapping | Callable[[object], Mapping] | None


class Programs:
    """The programs of one workflow. `__call__` gives a rule its params."""

    def __init__(self, home: Path, uses_conda: bool) -> None:
        self.home, self.uses_conda = home, uses_conda

    def source(self, name: str) -> str:
        """A file of the repository: relative where the working directory is the repository.

        Snakemake compares the paths of inputs as text, so a moved clone must not change them.
        """
        return name if self.home.samefile(Path.cwd()) else str(self.home / name)

    def __call__(self, rule: str, environment: str, settings: Settings = None, **more: object) -> dict[str, Callable]:
        """The params of a rule: `job`, what decides its result, and `command`, its program with its files.

        settings: of the job, a dict or a function of the wildcards; None: the rule makes nothing of the study and
        leaves no manifest. more: flags besides the names of the rule's files; see `command`.
        """
        if settings is None:
            return {"command": self.command(rule, environment, more)}
        lock = f"envs/{environment}.yaml"
        return {
            "job": job(rule, settings, self.home / lock),
            "command": self.command(rule, environment, {"lock": self.source(lock), **more}),
        }

    def command(self, rule: str, environment: str, more: dict[str, object]) -> Callable[..., str]:
        """The quoted command line of a rule's program: each input and output of the rule is a flag of the same name.

        The python is that of the rule's conda environment, or of the uv venv that `make setup` made from the same lock.
        more: further flags, a value or a function of (wildcards, output). What is empty is left out. Returns a function
        of `output`, which Snakemake does not record: neither the choice nor the place of the clone makes anything run
        again.
        """
        python = "python" if self.uses_conda else str(self.home / ".envs" / environment / "bin" / "python")

        def text(wildcards, input, output) -> str:
            flags = {name: getattr(side, name) for side in (input, output) for name, _ in side.items()}
            flags |= {name: value(wildcards, output) if callable(value) else value for name, value in more.items()}
            words = [python, str(SCRIPTS / f"{rule}.py")]
            for name, value in flags.items():
                values = [str(value)] if isinstance(value, str | int | float | Path) else [str(path) for path in value]
                if values and values != [""]:
                    words += [f"--{name.replace('_', '-')}", *values]
            return shlex.join(words)

        return text


def job(rule: str, settings: Settings, lock: Path) -> Callable[[object], str]:
    """What decides a job's result, as one canonical JSON text: rule, wildcards, its settings, code and pinned packages.

    Snakemake compares params without their names, so separate params could swap values unseen. Returns a function of
    the wildcards, which Snakemake records.
    """

    def text(wildcards) -> str:
        identity = {
            "rule": rule,
            "wildcards": dict(wildcards),
            "settings": settings(wildcards) if callable(settings) else settings,
            "code": code_digest(rule, lock.stem),
            "lock": pins(lock),
        }
        return json.dumps(identity, sort_keys=True, separators=(",", ":"))

    return text


# What every rule runs. Its parts: the program with its files (`command`), what decides the job (`job`), the log.
RUN = "{params.command} --job {params.job:q} 2>&1 | tee {log:q}"
RUN_ON_THREADS = "{params.command} --job {params.job:q} --threads {threads} 2>&1 | tee {log:q}"
SHOW = "{params.command} 2>&1 | tee {log:q}"  # a rule that makes nothing of the study

# A cluster's SIGTERM goes to every process of a job. The program needs some seconds to save; so bash, whose end would
# end the job, waits for it, and tee, which would take the last lines with it, ends with its input. A program's message
# to the user, its last line, goes to the log alone: the driver says it when all has ended (study/terminal.py). Where a
# line of progress stays at the bottom of the terminal, each line of a job clears it first (study/line.py).
SCREEN = "sed -u -e '/^error: /,$d' -e \"s/^/${{SFT_VS_DPO_CLEAR-}}/\""
SHELL_PREFIX = f"set -euo pipefail; trap : TERM; tee() {{{{ trap '' TERM; command tee \"$@\" | {SCREEN}; }}}}; "
