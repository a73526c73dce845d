"""Snakemake's plan of what has to run, made by content (study/reruns.py) for the jobs of a study.

Snakemake plans by the times of files and by its own records in .snakemake/, and runs all that lies below a job that ran
(no setting changes either). So methods of its DAG are wrapped: `update_needrun`, which plans; `finish`, after which
waiting jobs become ready: one that would read what it read before is taken from the plan (early cut-off); and
`check_output_mtime`, by which a job fails whose inputs come from a clock that was set back. Rules of others, when the
study is a module of another workflow, stay Snakemake's.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import Any

import snakemake.jobs
from snakemake.dag import DAG

from study.journal import label
from study.remaining import Left
from study.reruns import Reruns


class Reason(snakemake.jobs.Reason):
    """Why a job runs, in the study's words; without words it is Snakemake's own reason."""

    __slots__ = ("words",)

    def clear(self) -> None:
        """Forget all reasons."""
        super().clear()
        self.words: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.words and not self.finished) or super().__bool__()

    def __str__(self) -> str:
        if not self.words or self.forced:
            return super().__str__()
        return f"{'Finished (was: ' * self.finished}{'; '.join(self.words)}{')' * self.finished}"

    def get_names(self) -> Iterable[str]:
        """For the summary below a dry run."""
        yield from super().get_names()
        if self.words:
            yield "what they depend on changed, or what they made is missing"


class Planning:
    """The plan of one study.

    is_ours: whether a job is the study's. tell: gets `first_causes`, how many jobs run at most, and whether any job is
    the study's, once before anything happens. cut: gets each job that is left out after all.
    """

    def __init__(self, reruns: Reruns, is_ours: Callable, tell: Callable, cut: Callable) -> None:
        self.reruns, self.is_ours, self.tell, self.cut = reruns, is_ours, tell, cut
        self.dag: Any = None
        self.told = False
        plan, finish, check_times = DAG.update_needrun, DAG.finish, DAG.check_output_mtime

        async def update_needrun(dag: Any, create_inventory: bool = False) -> None:
            await self.plan(dag, plan, create_inventory)

        async def finish_and_cut(dag: Any, job: Any, update_checkpoint_dependencies: bool = True) -> bool:
            found = await finish(dag, job, update_checkpoint_dependencies)
            found = self.go_on_within_until(dag, job if job.is_group() else [job]) or found
            if not (dag.workflow.dryrun or dag.workflow.touch):
                self.cut_off(dag, job if job.is_group() else [job])
            return found

        async def check_output_mtime(dag: Any, job: Any, expanded_output: Any) -> None:
            if not self.is_ours(job):
                await check_times(dag, job, expanded_output)

        DAG.update_needrun, DAG.finish, DAG.check_output_mtime = update_needrun, finish_and_cut, check_output_mtime

    async def plan(self, dag: Any, original: Callable, create_inventory: bool) -> None:
        """Let Snakemake plan the jobs of others, then add ours that content makes run, and all below them."""
        ours = {job for job in dag.jobs if self.is_ours(job)}
        names, allowed = {job.rule.name for job in ours}, dag.rules_allowed_for_needrun
        others = {job.rule.name for job in dag.jobs} - names
        dag.rules_allowed_for_needrun = (others & set(allowed) if allowed else others) or {""}
        for job in ours:
            dag._reason[job] = Reason()
        try:
            await original(dag, create_inventory)
        finally:
            dag.rules_allowed_for_needrun = allowed
        self.dag = dag
        self.reruns.learn(ours)
        waiting: collections.deque = collections.deque()
        for job in ours:
            if not dag.finished(job) and (not allowed or job.rule.name in allowed):
                reason = dag.reason(job)
                reason.forced = self.is_forced(dag, job)
                reason.words = self.reruns.reasons(job)
                if reason:
                    reason.derived = False
                    waiting.append(job)
        self.reruns.hashes.save()
        self.add(dag, waiting)
        dag._n_until_ready.clear()
        for job in dag._needrun:
            dag._n_until_ready[job] = sum(before in dag._needrun for before in dag._dependencies[job])
        dag._len = len(dag._finished | dag._needrun)
        if not self.told:
            self.told = True
            self.tell(self.first_causes(), len(ours & dag._needrun), bool(ours))

    def add(self, dag: Any, waiting: collections.deque) -> None:
        """Add jobs to the plan, and what reads their files."""
        dag._needrun.update(waiting)
        while waiting:
            for below, files in dag.depending[waiting.popleft()].items():
                if dag.finished(below) or all(path.is_ancient for path in files):
                    continue
                dag.reason(below).updated_input_run.update(files)
                if below not in dag._needrun:
                    dag._needrun.add(below)
                    waiting.append(below)

    def is_forced(self, dag: Any, job: Any) -> bool:
        """Whether the command line, or an interrupted run, makes a job run (DAG.update_needrun's own `is_forced`)."""
        by_rule = job not in dag.omitforce and job.rule in dag.forcerules
        return by_rule or not dag.forcefiles.isdisjoint(job.output)

    def go_on_within_until(self, dag: Any, finished: Iterable[Any]) -> bool:
        """With --until RULE, make the jobs of that rule ready that wait for others of it; whether there are any.

        Snakemake takes whatever depends on a job of that rule for what lies beyond it.
        """
        waiting = [below for job in finished if dag.in_until(job) for below in dag.depending[job]]
        waiting = [job for job in waiting if dag.in_until(job) and dag.needrun(job)]
        for job in waiting:
            dag._n_until_ready[job] -= 1
        return bool(dag.update_ready(waiting)) if waiting else False

    def cut_off(self, dag: Any, finished: Iterable[Any]) -> None:
        """Take the jobs out of the plan that became ready and would read what they read before, and go on below."""
        waiting = [below for job in finished for below in dag.depending[job]]
        while waiting:
            job = waiting.pop()
            if job not in dag._ready_jobs or not self.is_ours(job) or self.is_forced(dag, job):
                continue
            if self.reruns.reasons(job):
                continue
            dag._ready_jobs.discard(job)
            dag._needrun.discard(job)
            dag._n_until_ready.pop(job, None)
            dag._len -= 1
            self.cut(job)
            below = [one for one in dag.depending[job] if dag.needrun(one) and not dag.finished(one)]
            for one in below:
                dag._n_until_ready[one] -= 1
            dag.update_ready(below)
            waiting += below

    def first_causes(self) -> dict[str, list[str]]:
        """Job -> why it runs, of all that run for a reason of their own."""
        jobs = [job for level in self.dag.toposorted() for job in sorted(level, key=str) if self.is_ours(job)]
        return {named(job): self.dag.reason(job).words for job in jobs if self.dag.reason(job).words}

    def left(self) -> list[Left]:
        """The jobs of the plan, for an estimate of how long they take."""
        dag = self.dag
        return [
            Left(
                named(job),
                job.rule.name,
                threads_of(job.rule),
                frozenset(named(before) for before in dag.dependencies[job] if dag.needrun(before)),
            )
            for job in dag.needrun_jobs()
            if self.is_ours(job)
        ]

    def unsettled(self) -> dict[str, list[str]]:
        """The same after a run: jobs whose inputs were changed, by hand or while it ran, since they were read."""
        jobs = [job for job in self.dag.jobs if self.is_ours(job)]
        settled = [job for job in jobs if self.dag.finished(job) or not self.dag.needrun(job)]
        return {named(job): words for job in sorted(settled, key=str) if (words := self.reruns.reasons(job))}


def named(job: Any) -> str:
    """A job in words: its rule and wildcards."""
    return label(job.rule.name, job.wildcards)


def threads_of(rule: Any) -> int:
    """How many threads a rule asks for."""
    threads = rule.resources.get("_cores")
    return 1 if threads.is_evaluable() else threads.value or 1
