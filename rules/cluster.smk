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
