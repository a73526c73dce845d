"""The statistics: the plan on record, paired contrasts of the four arms, and the decision."""


rule freeze_plan:
    """Put the analysis plan on record before any score exists; a plan changed after that is marked exploratory.

It waits for nothing and goes first. No score may wait for it through `ancient`: whenever the plan changed,
Snakemake 9.27.1 would then overlook every other reason to make the score again.
"""
    input:
        env="envs/stats.yaml",
    output:
        plan=update("<results>/plan.json"),
        manifest="<results>/plan.manifest.json",
    log:
        "<logs>/freeze_plan.log",
    benchmark:
        "<benchmarks>/freeze_plan.tsv"
    priority: 1000
    retries: 0
    localrule: True
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        job=job("freeze_plan", plan(config)),
        program=program("freeze_plan", "stats"),
        scores=lambda wildcards, output: os.path.join(os.path.dirname(output.plan), "scores"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --scores {params.scores:q} --output {output.plan:q} 2>&1 | tee {log:q}
        """


rule compare:
    """Paired contrasts C1-C7 with error control, a verdict for each in words, and the decision."""
    input:
        scores=lambda wildcards: expand(
            "<results>/scores/metric={metric}/part-{run}.parquet", metric=METRICS, run=runs(wildcards.variant)
        ),
        prompts="<results>/data/prompts.parquet",
        plan="<results>/plan.json",
        gates=[
            "<results>/parity{variant}.json",
            "<results>/data/sft.audit.json",
            "<results>/data/preferences.audit.json",
            "<results>/data/heldout.audit.json",
        ],
        env="envs/stats.yaml",
    output:
        contrasts="<results>/stats{variant}/contrasts.parquet",
        arm_means="<results>/stats{variant}/arm_means.parquet",
        seed_effects="<results>/stats{variant}/seed_effects.parquet",
        more=expand(
            "<results>/stats{{variant}}/{table}.parquet", table=("variance", "projection", "heterogeneity", "missing")
        ),
        csv=expand("<results>/stats{{variant}}/{table}.csv", table=STATISTICS),
        decision="<results>/stats{variant}/decision.json",
        manifest="<results>/stats{variant}/manifest.json",
    log:
        "<logs>/compare{variant}.log",
    benchmark:
        "<benchmarks>/compare{variant}.tsv"
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
            --plan-lock {input.plan:q} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """
