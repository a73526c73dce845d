"""On a real SLURM of one node: the smoke study, and the faults that training on a cluster meets.

The cluster is made of Debian packages, as root (`tests/slurm/cluster`). Elsewhere these tests are skipped, loudly; where
the variable CI or SFT_VS_DPO_REQUIRE_SLURM is set, a skip is a failure.
"""

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import SMOKE, Clone, results
from driver import Driver, Training, command

CLUSTER = str(Path(__file__).with_name("cluster"))
REQUIRED = any(os.environ.get(name) for name in ("CI", "SFT_VS_DPO_REQUIRE_SLURM"))
MODEL_JOBS = {"train_sft": 2, "train_dpo": 4, "score_pairs": 10, "generate": 7}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster for this test session alone; another session of this machine waits for its turn."""
    checked = subprocess.run([CLUSTER, "foreign"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if checked.returncode:
        (pytest.fail if REQUIRED else pytest.skip)(f"NOTHING WAS TESTED ON A REAL SLURM: {checked.stdout.strip()}")
    with open("/run/lock/sft-vs-dpo-slurm-tests", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command(CLUSTER, "down")  # what a killed session left
        try:
            command(CLUSTER, "up")
            yield
        finally:
            command(CLUSTER, "down")


def test_the_smoke_study_ends_with_the_bytes_of_the_local_run(finished, cluster, tmp_path):
    clone = Clone(tmp_path)
    clone.edit(SMOKE, "cpu_instructions:", "gpus: 1\ncpu_instructions:")
    study = Driver(clone, "all")
    study.finish(600)
    assert results(clone.folder) == results(finished.folder)
    held = held_gpus(clone.folder)
    assert {rule: gpus for rule, gpus in held.items() if any(gpus)} == {
        rule: [1] * jobs for rule, jobs in MODEL_JOBS.items()
    }
    assert {"check_sft", "tokenize_data", "grade", "compare", "report"} <= set(held)
    assert clone.planned() == {}


def held_gpus(folder: Path) -> dict[str, list[int]]:
    """rule -> for each of its SLURM jobs, as the accounting has it, how many GPUs it was given."""
    numbers = {log.stem: log for log in folder.glob("results/slurm_logs/rule_*/**/*.log")}
    lines = command("sacct", "-X", "-n", "-P", "-o", "JobID,State,AllocTRES", "-j", ",".join(numbers)).splitlines()
    held: dict[str, list[int]] = {}
    for line in lines:
        number, state, resources = line.split("|")
        assert state == "COMPLETED", line
        gpus = re.search(r"gres/gpu=(\d+)", resources)
        rule = next(part for part in numbers[number].parts if part.startswith("rule_")).removeprefix("rule_")
        held.setdefault(rule, []).append(int(gpus[1]) if gpus else 0)
    return held


class Undisturbed:
    """The finished study with one seed more and a longer SFT, which is to be trained; and what a local training makes."""

    def __init__(self, finished: Clone, folder: Path) -> None:
        self.ready = finished.copy(folder / "ready")
        self.ready.edit(SMOKE, "seeds: [1, 2]", "seeds: [1, 2, 3]")
        self.ready.edit(SMOKE, "sft:\n", "sft:\n  epochs: 10\n")
        trained = self.ready.copy(folder / "trained")
        done = trained.snakemake("--cores", "2", Training.target)
        assert done.returncode == 0, done.stdout[-5000:]
        self.results = results(trained.folder)
        self.steps = int(re.search(r"training: (\d+) steps", done.stdout)[1])


@pytest.fixture(scope="session")
def undisturbed(finished, tmp_path_factory) -> Undisturbed:
    return Undisturbed(finished, tmp_path_factory.mktemp("undisturbed"))


Met = tuple[Training, int | None]  # and the step before which no work may be repeated; None: nothing at all


def time_limit(start) -> Met:
    """The training job hits its time limit: SLURM ends it, the profile submits it again."""
    training = start("--set-resources", "train_sft:runtime=1")
    step = training.hold(10)  # or a fast machine would be done within the minute
    first = training.job()
    training.finish(400)
    assert state_of(first) == "TIMEOUT"
    assert len(training.logs()) == 2
    return training, step


def requeue(start) -> Met:
    """`scontrol requeue`, or preemption: the job goes back to the queue and keeps its number."""
    training = start()
    step = training.reach(10)
    command("scontrol", "requeue", training.job())
    training.finish(300)
    assert len(training.logs()) == 1
    return training, step


def scancel(start) -> Met:
    """`scancel`: the profile submits the job again."""
    training = start()
    step = training.reach(10)
    first = training.job()
    command("scancel", first)
    training.finish(300)
    assert state_of(first).startswith("CANCELLED")
    assert len(training.logs()) == 2
    return training, step


def driver_killed(start) -> Met:
    """The driver is killed and started again at once: it waits for its job, which was never interrupted."""
    training = start()
    training.hold(10)
    training.kill()
    training.start()
    training.wait_for(lambda: "Jobs of an earlier driver" in training.output(), "the driver waits")
    training.release()
    training.finish(300)
    assert len(training.logs()) == 1
    return training, None


def driver_killed_for_long(start) -> Met:
    """The driver is killed and started again after its job has ended: nothing is left to do, and edits still count."""
    training = start()
    training.reach(10)
    training.kill()
    training.wait_for(lambda: state_of(training.job()) == "COMPLETED", "the job ends without its driver")
    training.start()
    training.finish(100)
    assert len(training.logs()) == 1
    assert training.clone.planned(training.target) == {}
    training.clone.edit(SMOKE, "2.0e-3", "2.1e-3")
    assert training.clone.planned(training.target) == {"train_sft": 1}
    return training, None


def slurmd_killed(start) -> Met:
    """slurmd is killed and started again: the job may go on or start again from its checkpoint."""
    training = start()
    step = training.hold(10)
    command(CLUSTER, "kill", "slurmd")
    training.release()
    training.reach(step + 5)
    command(CLUSTER, "start", "slurmd")
    training.finish(300)
    return training, step


def slurmctld_down(start) -> Met:
    """slurmctld is killed and comes back after a minute; the job ends meanwhile."""
    training = start()
    step = training.reach(10)
    down_for_a_minute("slurmctld", training)
    training.finish(400)
    return training, step


def slurmdbd_down(start) -> Met:
    """slurmdbd, of which the driver asks the job's state, is killed and comes back after a minute."""
    training = start()
    step = training.reach(10)
    down_for_a_minute("slurmdbd", training)
    training.finish(400)
    return training, step


def down_for_a_minute(daemon: str, training: Training) -> None:
    """SIGKILL a daemon, start it again a minute later; the driver must live."""
    command(CLUSTER, "kill", daemon)
    time.sleep(60)  # the fault itself, not a wait for something
    assert training.process.poll() is None, training.state()
    command(CLUSTER, "start", daemon)


def state_of(job: str) -> str:
    """State of a SLURM job in the accounting."""
    return command("sacct", "-X", "-n", "-P", "-o", "State", "-j", job)


SIDE_BY_SIDE = {fault.__name__: fault for fault in (time_limit, requeue, scancel, driver_killed, driver_killed_for_long)}
ALONE = {fault.__name__: fault for fault in (slurmd_killed, slurmctld_down, slurmdbd_down)}


@pytest.fixture(scope="session")
def faults(request, cluster, undisturbed, tmp_path_factory) -> dict[str, Future]:
    """The outcomes of the selected faults that do not touch daemons: all at once, each in a clone of its own."""
    folder = tmp_path_factory.mktemp("faults")
    chosen = [item.callspec.params["fault"] for item in request.session.items if "fault" in item.fixturenames]
    pool = ThreadPoolExecutor(len(SIDE_BY_SIDE))
    return {name: pool.submit(meet, SIDE_BY_SIDE[name], undisturbed, folder / name) for name in chosen}


def meet(fault: Callable, undisturbed: Undisturbed, folder: Path) -> None:
    """Meet one fault, and require the result of an undisturbed training and that no work was done twice."""
    made = []

    def start(*arguments: str) -> Training:
        made.append(Training(undisturbed.ready.copy(folder), *arguments))
        return made[0]
    try:
        training, step = fault(start)
    finally:
        if made and made[0].process.poll() is None:
            made[0].kill()
    started = training.started()
    assert started[0] == undisturbed.steps
    if step is None:
        assert len(started) == 1
    assert all(steps <= undisturbed.steps - step for steps in started[1:]), (started, step)
    assert "another process is training" not in training.state()
    assert results(folder) == undisturbed.results


@pytest.mark.parametrize("fault", SIDE_BY_SIDE)
def test_training_survives(fault, faults):
    faults[fault].result()


@pytest.mark.parametrize("outage", ALONE)
def test_training_survives_an_outage(outage, cluster, undisturbed, tmp_path):
    meet(ALONE[outage], undisturbed, tmp_path / "clone")
