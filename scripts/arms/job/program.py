"""The command line of a rule's program: what the rule calls a file is its flag, and its key in the manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

Key = Callable[[str], str] | None


class JobParser(argparse.ArgumentParser):
    """A parser with the flags that every program has, on which a program declares the files that it reads and makes.

    doc: the program's docstring, which --help shows. The parsed arguments have these files as `inputs` and
    `outputs` (key in the manifest -> path), which `Job.finish` records.

    >>> parser = JobParser(__doc__)
    >>> parser.input("tokens", help="token ids of the pairs")
    >>> parser.output("table", help="their log-probabilities")
    >>> args = parser.parse_args(
    ...     ["--job", '{"rule": "score_pairs"}', "--manifest", "m.json", "--tokens", "a", "--table", "b"]
    ... )
    >>> args.inputs, args.outputs
    ({'tokens': 'a'}, {'table': 'b'})
    """

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument(
            "--job",
            type=json.loads,
            required=True,
            metavar="JSON",
            help='{"rule": name, "wildcards": {...}, "settings": {...}, "code": digest}: what decides the result',
        )
        self.add_argument("--lock", metavar="envs/X.yaml", help="the pins that the versions found are checked against")
        self.add_argument("--manifest", required=True, metavar="PATH", help="where the manifest of this job goes")
        self.keys: dict[str, dict[str, Key]] = {"inputs": {}, "outputs": {}}
        self.input("gates", nargs="*", default=[], help="results of checks that had to pass first; only recorded")

    def input(self, name: str, *, key: Key = None, recorded: bool = True, **options: Any) -> None:
        """Declare a file that the program reads, by the flag --NAME; see `_declare`."""
        self._declare("inputs", name, key, recorded, options)

    def output(self, name: str, *, key: Key = None, **options: Any) -> None:
        """Declare a file that the program makes, by the flag --NAME; see `_declare`."""
        self._declare("outputs", name, key, True, options)

    def _declare(self, side: str, name: str, key: Key, recorded: bool, options: dict[str, Any]) -> None:
        """Add the flag, required unless it has a default. With `nargs` it is several files.

        key: makes a path's key in the manifest; without it that is the name, and of several files the path itself.
        recorded: False for what the job only looks at, such as what the rule calls ancient.
        """
        required = "default" not in options
        self.add_argument(f"--{name.replace('_', '-')}", required=required, **{"metavar": "FILE", **options})
        if recorded:
            self.keys[side][name] = key

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:  # type: ignore[override]
        """The arguments, with the files that were given as `inputs` and `outputs`."""
        parsed = super().parse_args(args, namespace)
        for side, keys in self.keys.items():
            files: dict[str, str] = {}
            for name, key in keys.items():
                value = getattr(parsed, name)
                if isinstance(value, list):
                    files |= {key(path) if key else path: path for path in value}
                elif value:
                    files[key(value) if key else name] = value
            setattr(parsed, side, files)
        return parsed
