"""What the jobs that run the model ask of a cluster. slurm/config.yaml is the profile; config/README.md says how to use both.

Nothing here makes a job run again.
"""

# A site's names, from the user's environment. Account, QOS, constraint and reservation of all jobs are SLURM's own
# variables (SBATCH_ACCOUNT, ...), which sbatch reads by itself. The profile needs the first one, even if empty.
ENVIRONMENT.setdefault("SFT_VS_DPO_PARTITION", "")
GPU_SITE = {
    # resource of the SLURM plugin: variable
    "slurm_partition": "SFT_VS_DPO_GPU_PARTITION",
    "gpu_model": "SFT_VS_DPO_GPU_MODEL",
    "constraint": "SFT_VS_DPO_GPU_CONSTRAINT",
    "qos": "SFT_VS_DPO_GPU_QOS",
}


def model_resources(gpus):
    """Resources of a job that runs the model. Without GPUs it goes where all others go, so GPU nodes stay free.

    Memory and time grow with each attempt: the profile submits a failed job again. A job that was stopped goes on from
    its checkpoint, so a time limit costs nothing but another wait in the queue.
    """

    def mem_mb(wildcards, attempt):
        return int(1000 * config["job_memory_gb"] * attempt)

    def runtime(wildcards, attempt):
        longest = float(ENVIRONMENT.get("SFT_VS_DPO_MAX_HOURS") or "inf")
        return int(60 * min(config["job_hours"] * attempt, longest))

    site = {resource: ENVIRONMENT[name] for resource, name in GPU_SITE.items() if ENVIRONMENT.get(name)}
    return {"gpu": gpus, "mem_mb": mem_mb, "runtime": runtime, **(site if gpus else {})}


# What the doctor asks for: threads and resources of an ordinary job and, if the study uses GPUs, of one that runs the model.
CPU_RESOURCES = {"gpu": 0, "mem_mb": 4000, "runtime": 60}
KINDS = {"cpu": (1, CPU_RESOURCES), "gpu": (config["threads"], model_resources(config["gpus"]))}
if not config["gpus"]:
    del KINDS["gpu"]


def asked_for(kind, attempt):
    """What a job of this kind asks of the scheduler in one of its attempts."""
    threads, resources = KINDS[kind]
    values = {name: value(None, attempt) if callable(value) else value for name, value in resources.items()}
    return {"slurm_partition": ENVIRONMENT["SFT_VS_DPO_PARTITION"], **values, "threads": threads}


def asked_of_scheduler(wildcards, output):
    """All kinds of jobs, in their first and their last attempt, as JSON; empty where there is no scheduler."""
    attempts = {"first": 1, "last": 1 + (workflow.execution_settings.retries or 0)}
    asked = {kind: {name: asked_for(kind, attempt) for name, attempt in attempts.items()} for kind in KINDS}
    return json.dumps(asked if workflow.executor_plugin.name == "slurm" else {})
