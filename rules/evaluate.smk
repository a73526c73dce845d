"""What each run thinks of pairs and answers to prompts, and the scores of both."""

SAVED = {"checkpoint_minutes": config["checkpoint_minutes"]}


rule score_pairs:
    """Log-probabilities of pairs under one policy; on the training pairs, a reference table."""
    input:
        model=study.starting.model_of,
        adapter=study.starting.adapter_of,
        tokens=study.starting.pairs_of,
    output:
        table="<results>/{run}/{split}_logps.parquet",
        manifest="<results>/{run}/{split}_logps.manifest.json",
    log:
        "<logs>/score_pairs/{run}-{split}.log",
    benchmark:
        "<benchmarks>/score_pairs/{run}-{split}.tsv"
    conda:
        f"../envs/{TRAIN}.yaml"
    threads: config["threads"]
    resources:
        **resources.of_model(min(config["gpus"], 1)),
    params:
        **program("score_pairs", TRAIN, settings.of_model(**config["scoring"]), **SAVED),
    shell:
        RUN_ON_THREADS


use rule score_pairs as generate with:
    # Answers of one run to the held-out prompts.
    input:
        model=lambda wildcards: study.starting.base(wildcards.run),
        adapter=lambda wildcards: study.starting.adapter(wildcards.run),
        tokens="<results>/tokens/heldout_prompts.parquet",
    output:
        generations="<results>/{run}/generations.parquet",
        manifest="<results>/{run}/generations.manifest.json",
    log:
        "<logs>/generate/{run}.log",
    benchmark:
        "<benchmarks>/generate/{run}.tsv"
    params:
        **program("generate", TRAIN, settings.of_model(generation=config["generation"]), **SAVED),


rule grade:
    """Scores of one run, in the form of the statistics' data contract."""
    input:
        **study.graded,
        pair_logps="<results>/{run}/heldout_logps.parquet",
    output:
        **study.of_prompts(pass_rate="<results>/scores/metric=pass_rate/part-{run}.parquet"),
        pref_acc="<results>/scores/metric=pref_acc/part-{run}.parquet",
        logp_margin="<results>/scores/metric=logp_margin/part-{run}.parquet",
        manifest="<results>/scores/part-{run}.manifest.json",
    log:
        "<logs>/grade/{run}.log",
    benchmark:
        "<benchmarks>/grade/{run}.tsv"
    conda:
        "../envs/grade.yaml"
    params:
        **program("grade", "grade", {}),
    shell:
        RUN
