"""GPU memory, before anything trains: what the stages will need by prediction, then which micro-batches really fit.

With `gpus: 0` neither belongs to the study; `snakemake plan_memory` predicts all the same.
"""


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
    retries: 0
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


rule probe_memory:
    """Train a few steps on the worst micro-batches of a stage: smaller ones, then shorter rows, until they fit."""
    input:
        model="<results>/model/model.json",
        data=lambda wildcards: config["data"][DATASETS[TRAINED[wildcards.stage]][0]],
        audit=lambda wildcards: f"<results>/data/{DATASETS[TRAINED[wildcards.stage]][2]}.audit.json",
        plan="<results>/memory/plan.json",
        env="envs/train.yaml",
    output:
        rung="<results>/memory/{stage}{variant}.json",
        manifest="<results>/memory/{stage}{variant}.manifest.json",
    log:
        "<logs>/probe_memory/{stage}{variant}.log",
    benchmark:
        "<benchmarks>/probe_memory/{stage}{variant}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"]
    resources:
        **model_resources(1),
    params:
        job=job("probe_memory", probe_settings),
        program=program("probe_memory", "train"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --gates {input.audit:q} {input.plan:q} --model {input.model:q} --data {input.data:q} --threads {threads} \
            --rung {output.rung:q} 2>&1 | tee {log:q}
        """
