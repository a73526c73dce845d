"""GPU memory: what the stages of a study will need, predicted from the model's config.json before anything is trained."""

import sys

if "plan_memory" in sys.argv and workflow.resource_settings.cores is workflow.resource_settings.nodes is None:
    workflow.resource_settings.cores = 1  # `snakemake plan_memory` needs no --cores


rule plan_memory:
    """Predict the memory of every stage; a study that does not fit gpu_memory_gb stops here, with the cheapest cure."""
    input:
        model="<results>/model/model.json",
        env="envs/train.yaml",
    output:
        plan="<results>/memory/plan.json",
        manifest="<results>/memory/plan.manifest.json",
    log:
        "<logs>/plan_memory.log",
    benchmark:
        "<benchmarks>/plan_memory.tsv"
    localrule: True
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        job=job(
            "plan_memory",
            {
                "precision": config["model"]["precision"],
                "max_length": config["tokens"]["max_length"],
                "lora": config["lora"],
                "start": config["sft_dpo"]["start"],
                "gpu_memory_gb": config["gpu_memory_gb"],
                "device": "cuda" if config["gpus"] or config["gpu_memory_gb"] else "cpu",
                "stages": planned_stages(),
            },
        ),
        program=program("plan_memory", "train"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} --output {output.plan:q} 2>&1 | tee {log:q}
        """
