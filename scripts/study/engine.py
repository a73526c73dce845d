"""Everything that reaches into Snakemake's inside, at one place: it is written for one version, which is asserted.

Each reach says why the public interface does not do. tests/workflow/test_engine.py tries each on the pinned version.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Wildcards
from snakemake.logging import logger
from snakemake.shell import shell

from study import command, environment, journal, line, slurm, status
from study.checksums import portable
from study.config import ConfigError, load, refuse_double_keys
from study.datasets import DATA, DEVELOPMENT
from study.hashes import Hashes
from study.instructions import INSTRUCTIONS
from study.ladder import Ladder
from study.planning import Planning, named, threads_of
from study.remaining import seconds_by_rule
from study.reruns import NOT_MADE, Reruns
from study.resources import PARTITION, Resources
from study.settings import Settings
from study.terminal import Terminal, stand_before

SNAKEMAKE = "9.27.1"
STATUS = "status"  # a command rather than a target
READ_ONLY = {"verify", "plan_memory", "power", STATUS}  # what reads, or predicts: it needs no --cores
WHY = "SFT_VS_DPO_WHY"  # set in a dry run that only tells why jobs would run
ASKING = {"meet_judge", "judge"}  # rules that ask an endpoint


class StudyError(WorkflowError):
    """What the study itself found wrong. The terminal shows its text and nothing around it (study/terminal.py)."""


@contextlib.contextmanager
def in_words():
    """Turn a ConfigError inside the block into an error that is said without a traceback."""
    try:
        yield
    except ConfigError as error:
        raise StudyError(str(error)) from None


class Engine:
    """A study inside a Snakemake workflow: what the rules ask for, and what happens before and after the jobs."""

    def __init__(self, workflow, config: dict, home: Path) -> None:
        self.workflow, self.home = workflow, home
        self.terminal: Terminal | None = None
        self.say_errors_last()
        environment.clean(os.environ)
        with in_words():
            files = workflow.overwrite_configfiles or [home / "config" / "config.yaml"]
            for path in files:
                refuse_double_keys(path)
            self.configfiles = ", ".join(portable(os.path.realpath(path)) for path in files)
            where = ", ".join(map(str, workflow.overwrite_configfiles)) or "config/config.yaml"
            if given := workflow.config_settings.config:  # of the command line, over the files
                where += f" with --config {' '.join(given)}"
            self.study = load(config, home / "config" / "schema.yaml", where=where, home=home)
            environment.refuse_other_stack(self.study.results, self.study.config["stack"])
            self.require_version("snakemake", SNAKEMAKE)
            if workflow.is_main_process and not READ_ONLY.intersection(sys.argv):
                self.refuse_bad_data(where)
            os.environ.setdefault(PARTITION, "")
            self.resources = Resources(self.study.config, os.environ)
        self.ladder = Ladder(self.study)
        self.settings = Settings(self.study, self.ladder)
        os.environ.update(environment.of_study(self.study.config, INSTRUCTIONS))
        # `deployment_settings` is what --sdm says; no public name tells a Snakefile.
        self.uses_conda = "conda" in {one.name.lower() for one in workflow.deployment_settings.deployment_method}
        self.program = command.Programs(home, self.uses_conda)
        self.version = importlib.metadata.version("snakemake")
        shell.prefix(command.SHELL_PREFIX)
        self.alone, self.at_most = False, 0
        self.journal: journal.Journal | None = None
        if workflow.is_main_process:  # not one of the Snakemakes that run a single job of it
            self.only_reads = self.reads_only()
            if not self.only_reads:
                self.alive = environment.Alive(Path(".snakemake"))
                self.alone = self.alive.alone
            self.answer_why()
            if self.alone:
                self.take_what_outlived_its_driver()
            reruns = Reruns(self.study.results, Hashes(Path(".snakemake/sha256.json"), logger.info))
            self.planning = Planning(reruns, self.is_ours, self.planned, self.left_out)

    def say_errors_last(self) -> None:
        """Let a failed job's message be the last that the terminal shows, unless --verbose asks for everything."""
        if not self.workflow.is_main_process or self.workflow.output_settings.verbose:
            return
        params = lambda name: self.workflow.get_rule(name).params  # noqa: E731
        self.terminal = stand_before(
            logger,
            ours=lambda name: hasattr(params(name), "command"),
            shows=lambda name: not hasattr(params(name), "job"),
            locked=lambda: journal.refused(self.study.config["study"], list(journal.living()), self.again),
        )

    def refuse_bad_data(self, where: str) -> None:
        """ConfigError for what the first rows of a data file show already; a dry run tells it, too."""
        from arms.data.head import refused

        data = self.study.config["data"]
        if found := refused({name: data[name] for name in DATA if name in data}):
            raise ConfigError(f"{where}: {found}")

    def require_version(self, package: str, version: str) -> None:
        """StudyError if a package whose inside is reached is not of the version that this was written for."""
        found = importlib.metadata.version(package)
        if found != version:
            message = f"{package} {found} is installed, and this workflow reaches into the inside of {version}"
            if not self.study.config["allow_off_lock"]:
                raise StudyError(
                    f"{message}: use .envs/driver/bin/snakemake (`make setup` installs it), or set allow_off_lock: true"
                )
            logger.warning(f"{message}; allowed by allow_off_lock")

    def reads_only(self) -> bool:
        """Whether every target of this command only reads. Then it runs without --cores, and says only its answer.

        Snakemake asks for --cores after it has read the Snakefile, and tells a Snakefile no targets: its own parser of
        the command line does.
        """
        if not READ_ONLY.intersection(sys.argv):
            return False
        given, asked = self.arguments(), self.workflow.resource_settings
        targets = given.targets
        if not targets or not READ_ONLY.issuperset(targets):
            return False
        if STATUS in targets and len(targets) > 1:
            raise StudyError(f"`snakemake {STATUS}` stands alone, without other targets")
        if asked.cores is asked.nodes is None:
            asked.cores = 1
        if self.terminal:
            self.terminal.bare = not given.dryrun
        return True

    @staticmethod
    def arguments() -> argparse.Namespace:
        """What the command line says, whose parser would say again which profile it found."""
        logger.disabled = True
        try:
            return parse_args(sys.argv[1:])[1]
        finally:
            logger.disabled = False

    def answer_why(self) -> None:
        """`snakemake why [TARGET...]` is a dry run of the targets that tells first causes only."""
        if "why" not in sys.argv or WHY in os.environ:
            return
        if (targets := self.arguments().targets) and targets[0] == "why":
            words = sys.argv[1:]
            words.remove("why")
            os.environ[WHY] = "1"
            os.execv(sys.executable, [sys.executable, "-m", "snakemake", *words, "--dry-run", "--quiet", "host"])  # noqa: S606

    @property
    def on_slurm(self) -> bool:
        """Whether this Snakemake submits its jobs to SLURM."""
        return self.workflow.executor_plugin.name == "slurm"

    def asked(self, wildcards, output) -> str:
        """What the study's jobs ask of the scheduler, for the doctor; {} without one."""
        retries = self.workflow.execution_settings.retries or 0
        return json.dumps(self.resources.asked(retries) if self.on_slurm else {})

    def is_ours(self, job) -> bool:
        """Whether a job makes something of this study: it has a `job` in its params and a manifest in its outputs."""
        manifest = str(job.output.get("manifest", ""))
        return hasattr(job.params, "job") and manifest.startswith((f"{self.study.results}/", f"{self.study.results}-"))

    def planned(self, causes: dict[str, list[str]], at_most: int, ours: bool) -> None:
        """What Snakemake's plan means: told once, before any job runs or a dry run lists them.

        causes: job -> why, of those that run for a reason of their own. at_most: how many run with all that is below.
        ours: whether any target is the study's. StudyError if another run makes them, or if they would replace what
        another configuration made.
        """
        self.at_most = at_most
        old = {job: words for job, words in causes.items() if words != [NOT_MADE]}
        made_with = self.configuration.read_text(encoding="utf-8") if self.configuration.exists() else self.configfiles
        if old and made_with != self.configfiles:
            job, words = next(iter(old.items()))
            raise StudyError(
                f"{self.study.results} was made with {made_with}, and {self.configfiles} has the same `study` name: "
                f"up to {at_most} of its jobs would be made again ({job}: {words[0]} ...). Give this one another name; "
                f"or, if it takes the other's place, delete {self.configuration}"
            )
        with in_words():
            asked = {job.wildcards.judge for job in self.planning.dag._needrun if job.rule.name in ASKING}
            self.study.judges.refuse_without_key(asked - {None}, os.environ)
        if ours and self.workflow.executor_plugin is not None and not self.workflow.dryrun:
            self.begin_run()
        if WHY in os.environ:
            for job, words in causes.items():
                print(f"{job}: {'; '.join(words)}")
            below = f"At most {at_most} jobs run: these, and what is below them." if causes else "Nothing has to run."
            print(below, flush=True)
            os._exit(0)
        if old and self.workflow.dryrun:
            logger.info("At most these jobs run: where one makes the same as before, what only reads that does not.")

    def begin_run(self) -> None:
        """Begin the journal of this run and clear what a killed one left; StudyError if one of this study lives."""
        study = self.study.config["study"]
        words = shlex.join(["snakemake", *sys.argv[1:]])
        self.journal, before = journal.begin(study, command=words, slots=self.slots)
        if self.journal is None:
            raise StudyError(journal.refused(study, [(study, before)], self.again))
        logger.addHandler(self.journal)
        if before.killed:
            logger.info(f"The run before this one ({before}) was killed; this one goes on from what it left.")
            for lock in before.locks:
                Path(lock).unlink(missing_ok=True)

    @property
    def again(self) -> str:
        """The option that names this study's configuration, for commands that are proposed."""
        files = self.workflow.overwrite_configfiles
        return f" --configfile {shlex.join(portable(path) for path in files)}" if files else ""

    def answer_status(self) -> None:
        """`snakemake status` answers when the rules are known, and ends: nothing is planned, made or locked."""
        if not self.workflow.is_main_process or STATUS not in sys.argv or not self.only_reads:
            return
        jobs = status.jobs(list(self.expanded(self.study.targets)), self.planning.reruns)
        run = journal.read(self.study.config["study"])
        print(*status.lines(self.study.results, jobs, run, self.again), sep="\n")
        sys.stdout.flush()
        os._exit(0)

    @property
    def configuration(self) -> Path:
        """The record of the configuration files that a study was made with: it goes where the results go."""
        return Path(self.study.results, "logs", "configuration.txt")

    def left_out(self, job) -> None:
        """Tell, and put on record for the report, that a job did not have to run after all."""
        logger.info(f"Not run: {named(job)}; what it reads came out as before.")
        if self.terminal and self.terminal.line:
            self.terminal.line.drop(named(job))
        self.skipped.parent.mkdir(parents=True, exist_ok=True)
        with self.skipped.open("a", encoding="utf-8") as record:
            record.write(f"{named(job)}\n")

    @property
    def skipped(self) -> Path:
        """The record of the jobs that the last run left out, one a line."""
        return Path(self.study.results, "logs", "skipped.txt")

    def jobs(self, targets: list[str] | None = None) -> dict[str, dict]:
        """Every job behind the report, from the rules and this config alone: manifest -> {job, lock, inputs, outputs}.

        targets: other files, behind which the jobs are to be.

        Snakemake's own DAG holds only what has to run, and only after the Snakefile was read; so the rules are expanded
        here. inputs are what the job's manifest must record: not what Snakemake calls ancient, which may have changed
        since without making the job run again.
        """
        jobs = {}
        for one in self.expanded(targets or self.study.targets):
            job = json.loads(one.params.job)
            jobs[str(one.output.manifest)] = {
                "job": job,
                "lock": self.program.source(f"envs/{job['lock']['file']}"),
                "inputs": [str(path) for path in one.input if not path.is_ancient],
                "outputs": [str(path) for path in one.output if path != one.output.manifest],
            }
        return jobs

    def expanded(self, targets: list[str]) -> Iterator[SimpleNamespace]:
        """Every job behind some files: its rule, wildcards, threads, `params.job`, input and output."""
        producers = [made_by for made_by in self.workflow.rules if made_by.output]
        waiting = list(targets)
        seen: set[str] = set()
        while waiting:
            path = waiting.pop()
            made_by = next((made_by for made_by in producers if made_by.is_producer(path)), None)
            if made_by is None or path in seen:
                continue
            wildcards = Wildcards(fromdict=made_by.get_wildcards(path))
            inputs, outputs = made_by.expand_input(wildcards)[0], made_by.expand_output(wildcards)[0]
            seen.update(map(str, outputs))
            waiting.extend(map(str, inputs))
            yield SimpleNamespace(
                rule=made_by.name,
                wildcards=wildcards,
                threads=threads_of(made_by),
                params=SimpleNamespace(job=made_by.params.job(wildcards)),
                input=inputs,
                output=outputs,
            )

    def jobs_file(self, wildcards, output) -> str:
        """The path of a file with `jobs`, written now: five seeds are more text than one argument may hold.

        Jobs for development, which nobody has to run, are there too, marked.
        """
        path = Path(".snakemake", f"{self.study.config['study']}.jobs.json")
        jobs = self.jobs([*self.study.targets, *self.study.development])
        for entry in jobs.values():
            entry["development"] = bool({"development", DEVELOPMENT} & set(entry["job"]["wildcards"].values()))
        path.write_text(json.dumps(jobs), encoding="utf-8")
        return str(path)

    def before_jobs(self) -> None:
        """Are the environments and the scheduler there? Are jobs of a killed driver under way?"""
        if not self.uses_conda:
            with in_words():
                environment.require_installed(self.home / ".envs", self.study.config["stack"])
        if self.journal:
            self.journal.write("locks", files=list(self.workflow.persistence._lockfile.values()))
        with in_words():
            if self.on_slurm:
                self.require_version("snakemake-executor-plugin-slurm", slurm.PLUGIN)
                slurm.understand_cancelled()
                if not slurm.keeps_accounts():  # sacct would fail for ever, and Snakemake wait
                    self.workflow.executor_settings.status_command = "squeue"
            # Without the profile a killed driver's jobs matter too, but most machines with `squeue` never ran this
            # folder there.
            left = Path("results/slurm_logs").is_dir() and any(Path(".snakemake/incomplete").glob("*"))
            asks = self.journal and self.alone and (self.on_slurm or (left and shutil.which("squeue")))
            if asks and slurm.finish_earlier_jobs(logger.info):
                if self.journal:
                    self.journal.close()
                os.execv(sys.executable, [sys.executable, "-m", "snakemake", *sys.argv[1:]])  # noqa: S606
        if self.at_most:
            self.skipped.parent.mkdir(parents=True, exist_ok=True)
            self.skipped.write_text("", encoding="utf-8")
            self.configuration.write_text(self.configfiles, encoding="utf-8")
        self.show_line()

    def show_line(self) -> None:
        """Let a line of progress stay at the bottom of the terminal, if there is one."""
        quiet = {one.name.lower() for one in self.workflow.output_settings.quiet or ()}
        if not (self.terminal and self.journal and line.wanted(self.terminal.inner.stream, sys.stdout, quiet)):
            return
        usual = seconds_by_rule(Path(self.study.results, "benchmarks"))
        self.terminal.line = line.Line(self.terminal.inner.stream, self.planning.left(), usual, self.slots)
        if not self.on_slurm:
            os.environ[line.VARIABLE] = line.CLEAR

    @property
    def slots(self) -> int:
        """Threads, or jobs on a cluster, that may run at a time."""
        asked = self.workflow.resource_settings
        return (asked.nodes if self.on_slurm else asked.cores) or 1

    def take_what_outlived_its_driver(self) -> None:
        """Forget Snakemake's mark "incomplete" on targets whose manifest is there: it is written last.

        A job may go on when its driver was killed. Whether its targets are still those of today's configuration is for
        their manifest to tell. The object that keeps the marks is made after the Snakefile was read, too late.
        """
        for path in Path(self.study.results).glob("**/*manifest.json"):
            if mark_path(str(path)).exists():
                with contextlib.suppress(ValueError, KeyError):
                    outputs = json.loads(path.read_text(encoding="utf-8"))["outputs"].values()
                    for target in [str(path), *(entry["path"] for entry in outputs)]:
                        mark_path(target).unlink(missing_ok=True)

    def after_success(self) -> None:
        """Are all results of what is there now? Then remove what jobs saved on their way.

        Not the jobs themselves: a scheduler may call one failed (its time limit, in its last second) after its end.
        """
        for job, words in self.planning.unsettled().items():
            logger.error(f"{job} is not of what is there now: {'; '.join(words)}. Somebody changed it; run again.")
        for pattern, made in (("*/checkpoints", "../train.manifest.json"), ("*/*.progress", "../{stem}.parquet")):
            for folder in Path(self.study.results).glob(pattern):
                if Path(os.path.normpath(folder / made.format(stem=folder.stem))).exists():
                    shutil.rmtree(folder, ignore_errors=True)


def mark_path(target: str) -> Path:
    """Where Snakemake marks a target as incomplete."""
    name = base64.urlsafe_b64encode(target.encode()).decode()
    *folders, name = [name[start : start + 254] for start in range(0, len(name), 254)]
    return Path(".snakemake", "incomplete", *(f"@{folder}" for folder in folders), name)
