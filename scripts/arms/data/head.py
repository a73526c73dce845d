"""The head of each data file, read before anything runs: what of it would be refused, in the environment that there is.

Snakemake's own environment has no pyarrow: of parquet and Arrow files only first and last bytes are looked at there. A
data set on the hub is not looked for. What takes all rows, or the graders, is for rule check_data.
"""

from __future__ import annotations

from itertools import islice

from arms.data.audit import check_pair
from arms.data.rows import BadRow
from arms.data.sources import Source
from arms.job.files import UserError
from arms.job.formats import files_of
from study.datasets import DATA

ROWS = 100  # of a file
SHOWN = 5  # bad rows in a message


def refused(data: dict[str, str | dict]) -> str | None:
    """What would be refused of the files of a configuration's data section, a line for each; None if nothing is.

    data: the section's data sets, by name. Only the first that has something is told.
    """
    for name, source in data.items():
        members = source["mix"] if isinstance(source, dict) and "mix" in source else [source]
        for one in members:
            spec = one if isinstance(one, dict) else {"path": one}
            if "path" in spec and (found := bad_rows(spec, DATA[name])):
                return "\n".join(f"data.{name}: {line}" for line in found)
    return None


def bad_rows(spec: dict, kind: str) -> list[str]:
    """What is wrong with the first rows of a data set."""
    found: list[str] = []
    try:
        source = Source(spec, kind)
        for row in islice(source.all_rows(), ROWS):
            try:
                made = source.complete(row)
                if kind == "pairs":
                    check_pair(made)
            except BadRow as bad:
                found.append(f"{row['_place']}: {bad}")
    except UserError as error:
        found.append(str(error))
    except ModuleNotFoundError as missing:
        if missing.name != "pyarrow":
            raise
        found += cut_short(spec)
    more = [f"and {len(found) - SHOWN} more of the first {ROWS} rows"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def cut_short(spec: dict) -> list[str]:
    """Parquet and Arrow files that do not end as they begin."""
    for file in files_of(spec["path"]):
        with file.open("rb") as stream:
            start = stream.read(6)
            magic = next((magic for magic in (b"PAR1", b"ARROW1") if start.startswith(magic)), b"")
            stream.seek(-len(magic), 2)
            if stream.read() != magic:
                return [f"{file}: cut short: its last bytes are missing; copy it again"]
    return []
