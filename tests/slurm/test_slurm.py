"""On a real SLURM of one node: the smoke study, and the faults that training on a cluster meets.

The cluster is made of Debian packages, as root (`tests/slurm/cluster`). Elsewhere these tests are skipped, loudly;
where the variable CI or SFT_VS_DPO_REQUIRE_SLURM is set, a skip is a failure.
"""

import fcntl
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import SMOKE, Clone, results
from driver import POLLING, Driver, Training, command, until

CLUSTER = str(Path(__file__).with_name("cluster"))
REQUIRED = any(os.environ.get(name) for name in ("CI", "SFT_VS_DPO_REQUIRE_SLURM"))
REPORT = "results/smoke/report.html"
MODEL_JOBS = {"probe_memory": 2, "train_sft": 2, "train_dpo": 4, "score_pairs": 10, "generate": 7}


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


def test_the_smoke_study_ends_with_the_bytes_of_the_local_run(cluster, finished, tmp_path):
    clone = Clone(tmp_path)
    clone.edit(SMOKE, "cpu_instructions:", "gpus: 1\ncpu_instructions:")
    study = Driver(clone, "all")
    study.start()
    study.finish(900)
    assert but_memory(results(clone.folder)) == but_memory(results(finished.folder))
    here, local = ((one / REPORT).read_text().splitlines() for one in (clone.folder, finished.folder))
    others = [row for row, known in zip(here, local, strict=True) if row != known]  # of the checklist
    counted = ["Pins logged", "Out-of-memory history", "Manifests"]  # the probes' manifests are read, too
    assert [re.search("<b>(.*?)</b>", row)[1] for row in others] == counted
    assert "2 stages probed, 0 attempts ran out of memory" in others[1]
    held = held_gpus(clone.folder)
    asked = {rule: gpus for rule, gpus in held.items() if any(gpus)}
    assert asked == {rule: [1] * jobs for rule, jobs in MODEL_JOBS.items()}
    assert {"check_data", "tokenize_data", "grade", "compare", "report"} <= set(held)
    assert clone.planned() == {}


def but_memory(digests: dict[str, str]) -> dict[str, str]:
    """Without what is about the memory of GPUs, which a run on CPUs lacks, and the page that says so."""
    return {name: digest for name, digest in digests.items() if not name.startswith(("memory/", "report.html"))}


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


def test_the_doctor_asks_the_scheduler_and_a_node_of_each_kind(cluster, clone):
    clone.edit(SMOKE, "cpu_instructions:", "gpus: 1\ncpu_instructions:")
    asked = ("doctor", "--profile", "slurm", *POLLING)
    wrong = clone.snakemake(*asked, SFT_VS_DPO_GPU_PARTITION="nowhere", SFT_VS_DPO_GPU_MODEL="a100")
    assert wrong.returncode != 0
    assert "FAIL  gpu jobs       there is no partition 'nowhere'; set SFT_VS_DPO_PARTITION" in wrong.stdout
    assert "submitted with SLURM jobid" not in wrong.stdout
    large = clone.snakemake(*asked, SFT_VS_DPO_GPU_MODEL="a100")
    assert re.search(r"FAIL +gpu jobs +no node of partition 'main' has .* 1 GPU a100", large.stdout)
    done = clone.snakemake(*asked)
    shown = done.stdout[done.stdout.rindex("this machine (") :]
    for line in (
        "scheduler +.* answers",
        "accounting +sacct answers",
        "cpu jobs +partition 'main' takes",
        "gpu jobs +partition",
    ):
        assert re.search(f"ok +{line}", shown), shown
    for kind in ("cpu", "gpu"):
        assert re.search(rf"{kind} node \S+ \(SLURM job \d+\)", shown), shown
    assert re.findall(r"^  FAIL +(\S+)", shown, re.MULTILINE) == ["GPU"], "the cluster's GPUs are only names"


def test_status_tells_what_waits_and_why_and_what_runs_where(cluster, clone):
    def shown() -> str:
        done = clone.snakemake("status", "--profile", "slurm")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def seen(pattern: str) -> re.Match | None:
        return re.search(pattern, shown(), re.MULTILINE)

    study = Driver(clone, "--until", "check_data")
    try:
        study.start(SFT_VS_DPO_PARTITION="parked")
        waits = r"^  check_data data=sft: SLURM job (\d+) waits in the queue since [\d:]+: (?!None$)\w+$"
        waiting = until(lambda: seen(waits), "status shows a job that waits", 120, study.state)
        assert command("squeue", "--noheader", "--format=%T", f"--jobs={waiting[1]}") == "PENDING"
        assert seen(
            rf"^run by process {study.process.pid} on \S+, since [\d:]+ \(snakemake --profile slurm --until check_data "
        )
        study.kill()
        assert seen(rf"^not running: the last run \(process {study.process.pid} on \S+, since [\d:]+\) was killed; ")
        assert seen(waits)[1] == waiting[1]
        study.start()
        runs = rf"^  check_data data=\w+: SLURM job \d+ on {os.uname().nodename}, running since [\d:]+, \d+ s(;|$)"
        until(lambda: seen(runs), "status shows a job that runs", 240, study.state)
        study.finish(400)
    finally:
        study.kill()
    assert not seen("SLURM job")
    assert seen(r"^results/smoke: 4 of 45 jobs are done, 41 left; ")


class Undisturbed:
    """The finished study with one more seed and a longer SFT, not trained yet; and what a local training makes."""

    def __init__(self, finished: Clone, folder: Path) -> None:
        self.ready = finished.copy(folder / "ready")
        self.ready.edit(SMOKE, "seeds: [1, 2]", "seeds: [1, 2, 3]")
        self.ready.edit(SMOKE, "sft:\n", "sft:\n  epochs: 6\n")
        trained = self.ready.copy(folder / "trained")
        done = trained.snakemake("--cores", "2", Training.target)
        assert done.returncode == 0, done.stdout[-5000:]
        self.results = results(trained.folder)
        self.steps = int(re.search(r"training: (\d+) steps", done.stdout)[1])


@pytest.fixture(scope="session")
def undisturbed(finished, tmp_path_factory) -> Undisturbed:
    return Undisturbed(finished, tmp_path_factory.mktemp("undisturbed"))


# Each fault starts a training, disturbs it, and returns the step up to which no work may be done again; None: no work
# at all may be done again. `hold` and `release` stop the training program meanwhile, so that no machine is too fast.


def time_limit(training: Training) -> int:
    """The job hits its time limit, one minute; the profile submits it again with three."""
    training.clone.edit(SMOKE, "seeds:", "job_hours: 0.033\nseeds:")
    training.start()
    step = training.hold(10)
    training.finish(1500)  # on a slow machine it hits the next limits, too
    first, *others = training.states()
    assert (first, others[-1]) == ("TIMEOUT", "COMPLETED")
    assert set(others[:-1]) <= {"TIMEOUT"}  # on a slow machine
    return step


def requeue(training: Training) -> int:
    """`scontrol requeue`, as a preemption does it: the job goes back to the queue and keeps its number."""
    training.start()
    step = training.reach(10)
    command("scontrol", "requeue", training.job())
    training.finish(400)
    assert training.states() == ["COMPLETED"]
    return step


def scancel(training: Training) -> int:
    """`scancel`: the profile submits the job again."""
    training.start()
    step = training.reach(10)
    command("scancel", training.job())
    training.finish(400)
    assert training.states() == ["CANCELLED", "COMPLETED"]
    return step


def driver_killed(training: Training) -> None:
    """The driver is killed and started again at once: it waits for the job, which goes on."""
    training.start()
    training.hold(10)
    training.kill()
    training.start()
    training.wait_for(lambda: "Jobs of an earlier driver" in training.output(), "the driver waits")
    training.release()
    training.finish(400)
    assert training.states() == ["COMPLETED"]


def driver_killed_for_long(training: Training) -> None:
    """The driver is killed and started again after its job has ended: nothing is left to do, and edits still count."""
    training.start()
    training.reach(10)
    training.kill()
    training.wait_for(lambda: training.states() == ["COMPLETED"], "the job ends without its driver")
    training.start()
    training.finish(120)
    assert training.states() == ["COMPLETED"]
    assert training.clone.planned(training.target) == {}
    training.clone.edit(SMOKE, "2.0e-3", "2.1e-3")
    assert training.clone.planned(training.target) == {"train_sft": 1}


def driver_killed_while_waiting(training: Training) -> None:
    """The driver is killed while its job waits in the queue: the next one cancels it and submits its own."""
    training.start(SFT_VS_DPO_PARTITION="parked")
    submitted = r"submitted with SLURM jobid (\d+)"
    training.wait_for(lambda: re.search(submitted, training.output()), "the job is submitted")
    (waiting,) = re.findall(submitted, training.output())
    training.kill()
    assert command("squeue", "--noheader", "--format=%T", f"--jobs={waiting}") == "PENDING"
    training.start()
    training.finish(400)
    assert f"Cancelling jobs of an earlier driver that wait in the queue: {waiting}\n" in training.output()
    assert command("sacct", "-X", "-n", "-P", "-o", "State", "-j", waiting).startswith("CANCELLED")
    assert training.states() == ["COMPLETED"]


def slurmd_killed(training: Training) -> int:
    """slurmd is killed and started again: the job may go on, or start again from its checkpoint."""
    training.start()
    step = training.hold(10)
    with DAEMONS:
        command(CLUSTER, "kill", "slurmd")
        training.release()
        training.reach(step + 5)
        command(CLUSTER, "start", "slurmd")
    training.finish(600)
    return step


def slurmctld_down(training: Training) -> int:
    """slurmctld is killed and comes back after a minute; the training goes on meanwhile."""
    return without("slurmctld", training)


def slurmdbd_down(training: Training) -> int:
    """slurmdbd, which the driver asks how the job is, is killed and comes back after a minute."""
    return without("slurmdbd", training)


def without(daemon: str, training: Training) -> int:
    """SIGKILL a daemon, start it again a minute later."""
    training.start()
    step = training.hold(10)
    with DAEMONS:
        command(CLUSTER, "kill", daemon)
        training.release()
        time.sleep(60)  # the fault itself, not a wait for something
        assert training.alive(), training.state()
        command(CLUSTER, "start", daemon)
    training.finish(600)
    return step


DAEMONS = threading.Lock()  # one daemon is down at a time
DRIVER_KILLED = (driver_killed, driver_killed_for_long, driver_killed_while_waiting)
QUIET = {fault.__name__: fault for fault in (time_limit, requeue, scancel, *DRIVER_KILLED)}
OUTAGES = {fault.__name__: fault for fault in (slurmd_killed, slurmctld_down, slurmdbd_down)}


def meet(fault: Callable[[Training], int | None], undisturbed: Undisturbed, folder: Path) -> None:
    """Meet one fault, and require the result of an undisturbed training and that no work was done twice."""
    training = Training(undisturbed.ready.copy(folder))
    try:
        step = fault(training)
    finally:
        training.kill()
    started = training.started()
    assert started[0] == undisturbed.steps
    assert all(steps <= undisturbed.steps - step for steps in started[1:]) if step else len(started) == 1, started
    assert "another process is training" not in training.state()
    kept = results(folder)
    assert kept == undisturbed.results, {
        name for name, digest in kept.items() if undisturbed.results.get(name) != digest
    }


def side_by_side(faults: dict[str, Callable], request, folder: Path) -> dict[str, Future]:
    """The outcomes of the faults that are to be tested; all are met at once, each in a clone of its own."""
    request.getfixturevalue("cluster")
    undisturbed = request.getfixturevalue("undisturbed")
    chosen = [item.callspec.params.get("fault") for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(len(faults)) as pool:
        return {
            name: pool.submit(meet, fault, undisturbed, folder / f"{name}'s clone")
            for name, fault in faults.items()
            if name in chosen
        }


@pytest.fixture(scope="session")
def quiet(request, tmp_path_factory) -> dict[str, Future]:
    return side_by_side(QUIET, request, tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="session")
def outages(request, tmp_path_factory) -> dict[str, Future]:
    return side_by_side(OUTAGES, request, tmp_path_factory.mktemp("outages"))


@pytest.mark.parametrize("fault", QUIET)
def test_training_survives(fault, quiet):
    quiet[fault].result()


@pytest.mark.test_all("waits for daemons that are down; in every run jobs and drivers fail")
@pytest.mark.parametrize("fault", OUTAGES)
def test_training_survives_an_outage(fault, outages):
    outages[fault].result()
