"""What each run thinks of pairs and answers to prompts, and the scores of both."""


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
    log:
        "<logs>/score_pairs/{run}-{split}.log",
    benchmark:
        "<benchmarks>/score_pairs/{run}-{split}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"]
    resources:
        **model_resources(min(config["gpus"], 1)),
    params:
        job=job("score_pairs", torch_settings(**config["scoring"])),
        program=program("score_pairs", "train"),
        adapter=adapter_flag("--adapter"),
        minutes=checkpoint_minutes,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.adapter:q} --tokens {input.tokens:q} --threads {threads} \
            --output {output.table:q} --checkpoint-minutes {params.minutes:q} 2>&1 | tee {log:q}
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
    log:
        "<logs>/generate/{run}.log",
    benchmark:
        "<benchmarks>/generate/{run}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"]
    resources:
        **model_resources(min(config["gpus"], 1)),
    params:
        job=job("generate", torch_settings(generation=config["generation"])),
        program=program("generate", "train"),
        adapter=adapter_flag("--adapter"),
        minutes=checkpoint_minutes,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.adapter:q} --tokens {input.tokens:q} --threads {threads} \
            --output {output.generations:q} --checkpoint-minutes {params.minutes:q} 2>&1 | tee {log:q}
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
    log:
        "<logs>/grade/{run}.log",
    benchmark:
        "<benchmarks>/grade/{run}.tsv"
    conda:
        "../envs/grade.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("grade", {}),
        program=program("grade", "grade"),
        arm=lambda wildcards, input: wildcards.run.split("-")[0],
        seed=lambda wildcards, input: (wildcards.run.split("-seed") + ["-1"])[1],
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --prompts {input.prompts:q} --generations {input.generations:q} --pair-logps {input.logps:q} \
            --arm {params.arm:q} --train-seed {params.seed:q} --pref-acc {output.pref_acc:q} \
            --pass-rate {output.pass_rate:q} --logp-margin {output.logp_margin:q} 2>&1 | tee {log:q}
        """
