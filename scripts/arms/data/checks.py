"""The check of all data files beside each other, by a job that is about one of them."""

from __future__ import annotations

import contextlib

import numpy as np

from arms.data.audit import SHOWN, Each, Table, check_pair, first_match
from arms.data.graders import Graders
from arms.data.leakage import NearDuplicates, Prompt, digest
from arms.data.portrait import Portrait
from arms.data.rows import rows_at, writing
from arms.data.sources import DataSet, open_source
from arms.job.files import UserError
from arms.job.manifest import Job
from arms.job.progress import counted
from study.datasets import DATA, UNTRAINED

BATCH = 1000  # prompts that are Python objects at a time


class Checker:
    """Reads the data set that a job is about and the other side: of held-out rows what is trained on, and the reverse.

    sources: where each data set is. trained: checked tables of the training sets. least: how many rows training needs
    of each. graders: of held-out prompts. tables: what was read, by name. portrait: of the data set that the job is
    about.
    """

    def __init__(
        self,
        sources: dict[str, str | dict],
        trained: dict[str, str],
        least: dict[str, int],
        graders: Graders,
        job: Job,
    ) -> None:
        self.sources, self.trained, self.least, self.job = sources, trained, least, job
        self.checks = {"sft": [], "pairs": [check_pair], "prompts": [graders.check]}
        self.tables: dict[str, Table] = {}
        self.source: DataSet  # the data set that the job is about
        self.prompts: dict[str, list[tuple[str, str]]] = {}  # of each held-out set: id and normalised prompt
        self.matches: list[NearDuplicates] = []

    def read_all(self, own: str, target: str) -> None:
        """Read every held-out set and the one called `own`, whose checked table is written to `target`.

        Held-out rows are looked for in `own`, or in the checked tables of the training sets if it is held out itself.
        Raises UserError for bad rows, held-out prompts that are trained on or cannot be graded, too few rows, and ids
        that two held-out sets share.
        """
        heldout = [name for name in self.sources if name in UNTRAINED]
        for name in dict.fromkeys([*heldout, own]):
            each, source = self._comparisons(name), open_source(self.sources[name], DATA[name])
            rows = counted(self.job, source.rows(), f"rows of {source.words} read")
            with writing(target, DATA[name]) if name == own else contextlib.nullcontext() as writer:
                if writer:
                    self.portrait = Portrait(DATA[name])
                    each += [writer.add, self.portrait.add]
                self.tables[name] = table = Table(source, each, self.checks[DATA[name]], rows)
                if len(table) < self.least.get(name, 0):
                    raise UserError(
                        f"{table.path}: {len(table)} rows, and a batch takes {self.least[name]}; get more rows or "
                        f"lower {'sft' if name == 'sft' else 'dpo'}.batch_size in the config"
                    )
                self._compare(name)
            if name == own:
                self.source = source
                if source.layout != "text":
                    self.job.say(f"{source.words}: rows of layout {source.layout!r}")
        if own in UNTRAINED:
            self._look_at_training(heldout, own)

    def _comparisons(self, name: str) -> list[Each]:
        """What near-duplicates between held-out and training rows need of the rows of `name`."""
        if name in UNTRAINED:
            gathered = self.prompts[name] = []
            return [lambda row, prompt: gathered.append((row["id"], prompt.normal))]
        self.matches = [NearDuplicates(prompts) for prompts in self.prompts.values()]
        return [index.compare for index in self.matches]

    def _look_at_training(self, heldout: list[str], own: str) -> None:
        """Look for all held-out prompts in the checked tables of the training sets, near-duplicates of `own` too."""
        for path in self.trained.values():
            index = NearDuplicates(self.prompts[own])
            self.matches.append(index)
            training = Trained(path, index, self.job)
            for name in heldout:
                check_leakage(training, self.tables[name])

    def _compare(self, name: str) -> None:
        """UserError if the data set just read shares prompts or, both being held out, ids with one read before."""
        table = self.tables[name]
        for other in self.tables.keys() & set(UNTRAINED) - {name}:
            heldout = self.tables[other]
            if name not in UNTRAINED:
                check_leakage(table, heldout)
                continue
            found = first_match(table.ids, heldout.ids)
            table.findings.add_all(
                [row for row, twin in enumerate(found) if twin >= 0],
                f"'id' is also used in {heldout.path}",
                "scores are keyed by id: give every held-out row one of its own",
            )
            table.findings.refuse()

    def near(self) -> list[dict]:
        """Near-duplicates between the data set that the job is about and the other side, the closest first."""
        found = [entry for index in self.matches for entry in index.matches()]
        return sorted(found, key=lambda entry: (-entry["similarity"], entry["heldout_id"]))


class Trained:
    """The prompts of a training set's checked table: digests (n,) of dtype S16, as `Table.prompts` are."""

    def __init__(self, path: str, index: NearDuplicates, job: Job) -> None:
        """Read them, and look for each in `index`."""
        import pyarrow.parquet

        self.table, found = path, bytearray()
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(BATCH, columns=["id", "prompt"])
            rows = (row for batch in batches for row in zip(*batch.to_pydict().values(), strict=True))
            for name, text in counted(job, rows, f"prompts of {path} read"):
                prompt = Prompt(text)
                found += digest(prompt.normal)
                index.compare({"id": name}, prompt)
        self.prompts = np.frombuffer(bytes(found), dtype="S16")

    def where(self, index: int) -> str:
        """Where a row stood in its owner's file."""
        return rows_at(self.table, [index], ["_place"])[index]["_place"]


def check_leakage(training: Table | Trained, heldout: Table) -> None:
    """UserError if a held-out prompt is also trained on (after `normalise`)."""
    leaks = [(row, int(twin)) for row, twin in enumerate(first_match(heldout.prompts, training.prompts)) if twin >= 0]
    if leaks:
        shown = ", ".join(f"{heldout.words(here)} ({training.where(there)})" for here, there in leaks[:SHOWN])
        more = f", and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        raise UserError(
            f"{heldout.path}: {len(leaks)} held-out prompt{'s are' if len(leaks) > 1 else ' is'} also trained on: "
            f"{shown}{more}; what was learnt by heart measures nothing, so remove it from one of the two files"
        )
