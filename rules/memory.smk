"""GPU memory, before anything trains: what the stages will need by prediction, then which micro-batches really fit.

With `gpus: 0` neither belongs to the study; `snakemake plan_memory` predicts all the same.
"""


rule plan_memory:
    """Predict the memory of every stage; a study that does not fit gpu_memory_gb stops here, with the cheapest cure."""
    input:
        model="<results>/model/model.json",
        tasks=study.tasks.tokens,
    output:
        plan="<results>/memory/plan.json",
        manifest="<results>/memory/plan.manifest.json",
    log:
        "<logs>/plan_memory.log",
    benchmark:
        "<benchmarks>/plan_memory.tsv"
    retries: 0
    conda:
        f"../envs/{TRAIN}.yaml"
    params:
        **program("plan_memory", TRAIN, settings.memory_plan()),
    shell:
        RUN


rule probe_memory:
    """Train a few steps on the worst micro-batches of a stage: smaller ones, then shorter rows, until they fit."""
    input:
        model="<results>/model/model.json",
        data=lambda wildcards: f"<results>/data/{DATASETS[TRAINED[wildcards.stage]]}.parquet",
        gates="<results>/memory/plan.json",
    output:
        rung="<results>/memory/{stage}{variant}.json",
        manifest="<results>/memory/{stage}{variant}.manifest.json",
    log:
        "<logs>/probe_memory/{stage}{variant}.log",
    benchmark:
        "<benchmarks>/probe_memory/{stage}{variant}.tsv"
    conda:
        f"../envs/{TRAIN}.yaml"
    threads: config["threads"]
    resources:
        **resources.of_model(1),
    params:
        **program("probe_memory", TRAIN, settings.probe),
    shell:
        RUN_ON_THREADS
