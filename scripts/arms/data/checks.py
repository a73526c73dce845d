"""The check of all data files beside each other, by a job that is about one of them."""

from __future__ import annotations

import contextlib

from arms.data.audit import SHOWN, Each, Table, check_pair, first_match
from arms.data.graders import Graders
from arms.data.leakage import NearDuplicates
from arms.data.portrait import Portrait
from arms.data.rows import writing
from arms.data.sources import DataSet, open_source
from arms.job.files import UserError
from arms.job.manifest import Job
from arms.job.progress import counted
from study.datasets import DATA, UNTRAINED


class Checker:
    """Reads the data files of a study, held-out ones first, and says what they have in common.

    sources: where each data set is. least: how many rows training needs of each. graders: of held-out prompts. tables:
    what was read, by name. portrait: of the data set that the job is about.
    """

    def __init__(self, sources: dict[str, str | dict], least: dict[str, int], graders: Graders, job: Job) -> None:
        self.sources, self.least, self.job = sources, least, job
        self.checks = {"sft": [], "pairs": [check_pair], "prompts": [graders.check]}
        self.tables: dict[str, Table] = {}
        self.source: DataSet  # the data set that the job is about
        self.prompts: dict[str, list[tuple[str, str]]] = {}  # of each held-out set: id and normalised prompt
        self.matches: list[NearDuplicates] = []

    def read_all(self, own: str, target: str) -> None:
        """Read every data set, and write the checked table of the one called `own` to `target`.

        Raises UserError for bad rows, held-out prompts that are trained on or cannot be graded, too few rows, and ids
        that two held-out sets share.
        """
        for name in sorted(self.sources, key=lambda name: name not in UNTRAINED):
            each, source = self._comparisons(own, name), open_source(self.sources[name], DATA[name])
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

    def _comparisons(self, own: str, name: str) -> list[Each]:
        """What near-duplicates between the data set `own` and the other side need of the rows of `name`."""
        if name in UNTRAINED:
            gathered = self.prompts[name] = []
            return [lambda row, normal: gathered.append((row["id"], normal))]
        wanted = [other for other in UNTRAINED if own in (name, other) and other in self.prompts]
        indices = [NearDuplicates(self.prompts[other]) for other in wanted]
        self.matches += indices
        return [index.compare for index in indices]

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


def check_leakage(training: Table, heldout: Table) -> None:
    """UserError if a held-out prompt is also trained on (after `normalise`)."""
    leaks = [(row, int(twin)) for row, twin in enumerate(first_match(heldout.prompts, training.prompts)) if twin >= 0]
    if leaks:
        shown = ", ".join(
            f"{heldout.words(here)} ({training.path}, {training.words(there)})" for here, there in leaks[:SHOWN]
        )
        more = f", and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        raise UserError(
            f"{heldout.path}: {len(leaks)} held-out prompt{'s are' if len(leaks) > 1 else ' is'} also trained on: "
            f"{shown}{more}; what was learnt by heart measures nothing, so remove it from one of the two files"
        )
