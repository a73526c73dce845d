"""What each run thinks of pairs and answers to prompts, and the scores of both."""


def adapter_of(wildcards):
    """arm.json of a run's adapter; the base has none."""
    return [] if wildcards.run == "base" else f"<results>/{wildcards.run}/adapter/arm.json"


def adapter_flag(wildcards, input):
    """The flag that hands a run's adapter to its program."""
    return ["--adapter", input.adapter] if input.adapter else []


rule score_pairs:
    """Log-probabilities of pairs under one policy; on the training pairs, a reference table."""
    input:
        model="<results>/model/model.json",
        adapter=adapter_of,
        tokens="<results>/tokens/{split}_pairs.parquet",
        env="envs/train.yaml",
    output:
        table="<results>/{run}/{split}_logps.parquet",
        manifest="<results>/{run}/{split}_logps.manifest.json",
    params:
        job=job("score_pairs", {"precision": config["model"]["precision"], **config["scoring"]}),
        program=program("score_pairs", "train"),
        adapter=adapter_flag,
    log:
        "<logs>/score_pairs/{run}-{split}.log",
    benchmark:
        "<benchmarks>/score_pairs/{run}-{split}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=config["gpus"],
    conda:
        "../envs/train.yaml"
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.adapter:q} --tokens {input.tokens:q} --threads {threads} \
            --output {output.table:q} 2>&1 | tee {log:q}
        """


rule generate:
    """Answers of one run to the held-out prompts."""
    input:
        model="<results>/model/model.json",
        adapter=adapter_of,
        tokens="<results>/tokens/heldout_prompts.parquet",
        env="envs/train.yaml",
    output:
        generations="<results>/{run}/generations.parquet",
        manifest="<results>/{run}/generations.manifest.json",
    params:
        job=job("generate", {"precision": config["model"]["precision"], "generation": config["generation"]}),
        program=program("generate", "train"),
        adapter=adapter_flag,
    log:
        "<logs>/generate/{run}.log",
    benchmark:
        "<benchmarks>/generate/{run}.tsv"
    threads: config["threads"]
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=config["gpus"],
    conda:
        "../envs/train.yaml"
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.adapter:q} --tokens {input.tokens:q} --threads {threads} \
            --output {output.generations:q} 2>&1 | tee {log:q}
        """


rule grade:
    """Scores of one run, in the form of the statistics' data contract."""
    input:
        prompts=config["data"]["heldout_prompts"],
        generations="<results>/{run}/generations.parquet",
        logps="<results>/{run}/heldout_logps.parquet",
        env="envs/grade.yaml",
    output:
        pref_acc="<results>/scores/metric=pref_acc/part-{run}.parquet",
        pass_rate="<results>/scores/metric=pass_rate/part-{run}.parquet",
        logp_margin="<results>/scores/metric=logp_margin/part-{run}.parquet",
        manifest="<results>/scores/part-{run}.manifest.json",
    params:
        job=job("grade", {}),
        program=program("grade", "grade"),
        arm=lambda wildcards, input: wildcards.run.split("-seed")[0],
        seed=lambda wildcards, input: (wildcards.run.split("-seed") + ["-1"])[1],
    log:
        "<logs>/grade/{run}.log",
    benchmark:
        "<benchmarks>/grade/{run}.tsv"
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../envs/grade.yaml"
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --prompts {input.prompts:q} --generations {input.generations:q} --pair-logps {input.logps:q} \
            --arm {params.arm:q} --train-seed {params.seed:q} --pref-acc {output.pref_acc:q} \
            --pass-rate {output.pass_rate:q} --logp-margin {output.logp_margin:q} 2>&1 | tee {log:q}
        """
