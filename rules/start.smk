"""Before the first job: is everything there, do jobs of an earlier driver still run, and what did it leave?"""

import base64
import shutil
import subprocess
import time

ASKED = workflow.resource_settings
if ASKED.cores is ASKED.nodes is None and {"verify", "plan_memory"}.intersection(sys.argv):
    ASKED.cores = 1  # they need no --cores: they read, and predict


def slurm(*command):
    """Output lines of a SLURM command; WorkflowError in the user's words if it is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise WorkflowError(
            f"--profile slurm: this machine has no SLURM (no {command[0]} on the PATH). Run the same command on a login "
            "node of your cluster, or here without it: snakemake --cores all"
        )
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 1, "", "no answer within 2 minutes")
    if done.returncode:
        raise WorkflowError(
            f"--profile slurm: the scheduler does not answer ({' '.join(command)}: {done.stderr.strip()}). Nothing was "
            "submitted; run the same command again when it does (`sinfo` tells)"
        )
    return done.stdout.splitlines()


def earlier_jobs():
    """SLURM job id -> state of the jobs of this folder. At the start they are those of a driver that was killed."""
    states = {}
    for line in slurm("squeue", "--noheader", "--me", "--format", "%i|%T|%k|%Z"):
        number, state, comment, folder = line.split("|", 3)
        if comment.startswith("rule_") and os.path.realpath(folder) == os.path.realpath(os.getcwd()):
            states[number] = state
    return states


def finish_earlier_jobs():
    """Let the jobs of a killed driver finish, then plan again: a second job on the same target would undo the first.

    What waits in the queue is cancelled (nothing is lost), what runs goes on.
    """
    if not (states := earlier_jobs()):
        return
    waiting = [number for number, state in states.items() if state == "PENDING"]
    if waiting:
        logger.info(f"Cancelling jobs of an earlier driver that wait in the queue: {' '.join(waiting)}")
        slurm("scancel", "--state=PENDING", *waiting)
    said = None
    while states:
        if set(states) != said:
            said = set(states)
            logger.info(
                f"Jobs of an earlier driver, which was killed, still run: {' '.join(states)}. Waiting for them, since "
                "their work counts; `scancel` them to go on from their checkpoints at once"
            )
        time.sleep(5)
        with contextlib.suppress(WorkflowError):  # the scheduler is away for a while: they may well go on without it
            states = earlier_jobs()
    logger.info("They have ended; planning again")
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *sys.argv[1:]])


def record_path(kind, target):
    """Where Snakemake 9.27 keeps what it knows of a target: kind is "metadata" or "incomplete"."""
    name = base64.urlsafe_b64encode(target.encode()).decode()
    *folders, name = [name[start : start + 254] for start in range(0, len(name), 254)]
    return Path(".snakemake", kind, *(f"@{folder}" for folder in folders), name)


def distrust_unrecorded():
    """Make targets run again that Snakemake has no record of and that are of other settings or code.

    A job that outlives its driver leaves its targets but no record, and Snakemake would take them for up to date
    whatever has been edited since. Their manifests tell.
    """
    found = [str(path) for path in Path("results", config["study"]).glob("**/*manifest.json")]
    unrecorded = [path for path in found if not record_path("metadata", path).exists()]
    jobs = study_jobs() if unrecorded else {}
    for path in unrecorded:
        try:
            manifest = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            manifest = {}
        expected = jobs.get(path, {}).get("job")
        if expected and any(manifest.get(key) != value for key, value in expected.items()):
            marker = record_path("incomplete", path)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(json.dumps({"external_jobid": None}), encoding="utf-8")


if workflow.is_main_process:
    distrust_unrecorded()


def understand_cancelled():
    """Let the SLURM plugin 2.8.0 see a cancelled job: sacct says "CANCELLED by 1000", for which it would wait for ever."""
    import snakemake_executor_plugin_slurm as plugin

    ask = plugin.query_job_status

    async def query_job_status(command, logger):
        states, seconds = await ask(command, logger)
        return states and {number: state.partition(" ")[0] for number, state in states.items()}, seconds

    plugin.query_job_status = query_job_status


onstart:
    check_environments()
    if runs_on_slurm():
        understand_cancelled()
        lines = slurm("scontrol", "show", "config")
        accounting = next((line for line in lines if line.startswith("AccountingStorageType")), "")
        if "none" in accounting or "(null)" in accounting:
            workflow.executor_settings.status_command = "squeue"  # sacct would fail for ever, and Snakemake wait
    # Without the profile a killed driver's jobs matter too, but most machines with `squeue` never ran this folder there.
    left = Path("results/slurm_logs").is_dir() and any(Path(".snakemake/incomplete").glob("*"))
    if ALONE and (runs_on_slurm() or left and shutil.which("squeue")):
        finish_earlier_jobs()


onsuccess:
    # Not the jobs themselves: a scheduler may call one failed (its time limit, in its last second) after its end.
    for pattern, made in (("*/checkpoints", "../train.manifest.json"), ("*/*.progress", "../{stem}.parquet")):
        for folder in Path("results", config["study"]).glob(pattern):
            if Path(os.path.normpath(folder / made.format(stem=folder.stem))).exists():
                shutil.rmtree(folder, ignore_errors=True)
