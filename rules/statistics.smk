"""The statistics: paired contrasts of the four arms, and the decision."""


rule compare:
    """Paired contrasts C1-C7 with error control, a verdict for each in words, and the decision."""
    input:
        scores=expand("<results>/scores/metric={metric}/part-{run}.parquet", metric=METRICS, run=RUNS),
        prompts="<results>/data/prompts.parquet",
        gates=[
            "<results>/parity.json",
            "<results>/data/sft.audit.json",
            "<results>/data/preferences.audit.json",
            "<results>/data/heldout.audit.json",
        ],
        env="envs/stats.yaml",
    output:
        contrasts="<results>/stats/contrasts.parquet",
        arm_means="<results>/stats/arm_means.parquet",
        seed_effects="<results>/stats/seed_effects.parquet",
        more=expand("<results>/stats/{table}.parquet", table=("variance", "projection", "heterogeneity", "missing")),
        csv=expand("<results>/stats/{table}.csv", table=STATISTICS),
        decision="<results>/stats/decision.json",
        manifest="<results>/stats/manifest.json",
    log:
        "<logs>/compare.log",
    benchmark:
        "<benchmarks>/compare.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        job=job("compare", plan(config)),
        program=program("compare", "stats"),
        folder=lambda wildcards, output: os.path.dirname(output.decision),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --gates {input.gates:q} --scores {input.scores:q} --prompts {input.prompts:q} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """
