"""GPU memory: before anything trains, find the micro-batches that fit. Only for studies that ask for GPUs."""


rule probe_memory:
    """Train a few steps on the worst micro-batches of a stage: smaller ones, then shorter rows, until they fit."""
    input:
        model="<results>/model/model.json",
        data=lambda wildcards: config["data"][DATASETS[TRAINED[wildcards.stage]][0]],
        audit=lambda wildcards: f"<results>/data/{DATASETS[TRAINED[wildcards.stage]][2]}.audit.json",
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
            --gates {input.audit:q} --model {input.model:q} --data {input.data:q} --threads {threads} \
            --rung {output.rung:q} 2>&1 | tee {log:q}
        """
