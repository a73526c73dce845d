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
        return int(60 * min(config["job_hours"] * attempt, longest))

    try:
        longest = float(ENVIRONMENT.get("SFT_VS_DPO_MAX_HOURS") or "inf")
    except ValueError:
        hours = ENVIRONMENT["SFT_VS_DPO_MAX_HOURS"]
        raise WorkflowError(f"SFT_VS_DPO_MAX_HOURS is {hours!r}; give a number of hours, such as 24 or 0.5")

    site = {resource: ENVIRONMENT[name] for resource, name in GPU_SITE.items() if gpus and ENVIRONMENT.get(name)}
    if not re.fullmatch("[a-zA-Z0-9_.]*", site.get("gpu_model", "")):  # the plugin would, after the first jobs
        raise WorkflowError(
            f"SFT_VS_DPO_GPU_MODEL is {site['gpu_model']!r}, but Snakemake's SLURM plugin only takes letters, digits, _ and "
            ". there. Unset it, and choose the cards by SFT_VS_DPO_GPU_CONSTRAINT or SFT_VS_DPO_GPU_PARTITION"
        )
    return {"gpu": gpus, "mem_mb": mem_mb, "runtime": runtime, **site}


def asked_of_scheduler():
    """What an ordinary job, and one that runs the model on a GPU, ask for in their first and last attempt."""
    ordinary = {"gpu": 0, "mem_mb": 4000, "runtime": 60, "threads": 1}
    kinds = {"cpu": ordinary}
    if config["gpus"]:
        kinds["gpu"] = {**model_resources(config["gpus"]), "threads": config["threads"]}
    attempts = {"first": 1, "last": 1 + (workflow.execution_settings.retries or 0)}

    def values(resources, attempt):
        chosen = {name: value(None, attempt) if callable(value) else value for name, value in resources.items()}
        return {"slurm_partition": ENVIRONMENT["SFT_VS_DPO_PARTITION"], **chosen}

    return {
        kind: {name: values(resources, attempt) for name, attempt in attempts.items()}
        for kind, resources in kinds.items()
    }


def runs_on_slurm():
    """Whether this Snakemake submits its jobs to SLURM."""
    return workflow.executor_plugin.name == "slurm"
