"""What the jobs that run the model ask of a cluster. slurm/config.yaml is the profile.

config/README.md says how to use both. Nothing here makes a job run again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from study.config import ConfigError

# A site's names, from the user's environment. Account, QOS, constraint and reservation of all jobs are SLURM's own
# variables (SBATCH_ACCOUNT, ...), which sbatch reads by itself. The profile needs this one, even if empty.
PARTITION = "SFT_VS_DPO_PARTITION"
LONGEST = "SFT_VS_DPO_MAX_HOURS"
GPU_SITE = {
    # resource of the SLURM plugin: variable
    "slurm_partition": "SFT_VS_DPO_GPU_PARTITION",
    "gpu_model": "SFT_VS_DPO_GPU_MODEL",
    "constraint": "SFT_VS_DPO_GPU_CONSTRAINT",
    "qos": "SFT_VS_DPO_GPU_QOS",
}


class Resources:
    """Requests of one study's jobs at one site.

    Memory and time grow with each attempt: the profile submits a failed job again. A job that was stopped goes on from
    its checkpoint, so a time limit costs nothing but another wait in the queue.
    """

    def __init__(self, config: dict, environ: Mapping[str, str]) -> None:
        self.config, self.partition = config, environ.get(PARTITION, "")
        self.processes = max(1, config["gpus"])  # of a training job
        try:
            self.longest = float(environ.get(LONGEST) or "inf")
        except ValueError:
            raise ConfigError(f"{LONGEST} is {environ[LONGEST]!r}; give a number of hours, such as 24 or 0.5") from None
        self.site = {name: environ[variable] for name, variable in GPU_SITE.items() if environ.get(variable)}
        model = self.site.get("gpu_model", "") if config["gpus"] else ""
        if not re.fullmatch("[a-zA-Z0-9_.]*", model):  # the plugin would, after the first jobs
            raise ConfigError(
                f"SFT_VS_DPO_GPU_MODEL is {model!r}, but Snakemake's SLURM plugin only takes letters, digits, _ and "
                ". there. Unset it, and choose the cards by SFT_VS_DPO_GPU_CONSTRAINT or SFT_VS_DPO_GPU_PARTITION"
            )

    def of_model(self, gpus: int) -> dict[str, object]:
        """Of a job that runs the model. Without GPUs it goes where all others go, so GPU nodes stay free."""

        def mem_mb(wildcards, attempt):
            return int(1000 * self.config["job_memory_gb"] * attempt)

        def runtime(wildcards, attempt):
            return int(60 * min(self.config["job_hours"] * attempt, self.longest))

        return {"gpu": gpus, "mem_mb": mem_mb, "runtime": runtime, **(self.site if gpus else {})}

    @staticmethod
    def of_data() -> dict[str, object]:
        """Of a job that reads data row by row, by the size of its files; benchmarks/data_size.py measures the need.

        Memory grows with the rows, of which compressed files hold several times as many.
        """

        def mem_mb(wildcards, input, attempt):
            return int(max(4000, 2000 + 1.5 * input.size_mb) * attempt)

        def runtime(wildcards, input, attempt):
            return int((60 + input.size_mb / 10) * attempt)

        return {"mem_mb": mem_mb, "runtime": runtime}

    def asked(self, retries: int) -> dict[str, dict[str, dict]]:
        """What an ordinary job, and one that runs the model on a GPU, ask for in their first and last attempt."""
        kinds: dict[str, dict[str, object]] = {"cpu": {"gpu": 0, "mem_mb": 4000, "runtime": 60, "threads": 1}}
        if self.config["gpus"]:
            kinds["gpu"] = {**self.of_model(self.config["gpus"]), "threads": self.config["threads"]}

        def values(resources: dict, attempt: int) -> dict:
            chosen = {name: value(None, attempt) if callable(value) else value for name, value in resources.items()}
            return {"slurm_partition": self.partition, **chosen}

        attempts = {"first": 1, "last": 1 + retries}
        return {
            kind: {name: values(resources, attempt) for name, attempt in attempts.items()}
            for kind, resources in kinds.items()
        }
