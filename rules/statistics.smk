"""The statistics: what the plan can decide, the plan on record, paired contrasts of the four arms, the decision."""


rule power:
    """The chance of GO, HOLD and NO-GO of each number of seeds and prompts; needs nothing, no model and no scores."""
    log:
        "<logs>/power.log",
    conda:
        "../envs/stats.yaml"
    params:
        **program(
            "power",
            "stats",
            study=study.results,
            plan=json.dumps(settings.plan()),
            output=f"{study.results}-power",
            **power_flags(config),
        ),
    shell:
        SHOW


rule freeze_plan:
    """Put the analysis plan on record before any score exists; a plan changed after that is marked exploratory.

It waits for nothing and goes first; no score waits for it, so that another plan makes no score again.
"""
    output:
        record=update("<results>/plan.json"),
        manifest="<results>/plan.manifest.json",
    log:
        "<logs>/freeze_plan.log",
    benchmark:
        "<benchmarks>/freeze_plan.tsv"
    priority: 1000
    retries: 0
    conda:
        "../envs/stats.yaml"
    params:
        **program("freeze_plan", "stats", settings.plan(), scores=f"{study.results}/scores"),
    shell:
        RUN


rule compare:
    """Paired contrasts C1-C7 with error control, a verdict for each in words, and the decision."""
    input:
        scores=lambda wildcards: study.scores(wildcards.variant),
        prompts="<results>/data/prompts.parquet",
        plan_lock="<results>/plan.json",
        gates=["<results>/parity{variant}.json", *study.data_audits],
    output:
        tables=expand("<results>/stats{{variant}}/{table}.parquet", table=[*TABLES, *study.judges.tables]),
        csv=expand("<results>/stats{{variant}}/{table}.csv", table=[*TABLES, *study.judges.tables]),
        decision="<results>/stats{variant}/decision.json",
        manifest="<results>/stats{variant}/manifest.json",
    log:
        "<logs>/compare{variant}.log",
    benchmark:
        "<benchmarks>/compare{variant}.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        runtime=60,
    params:
        **program("compare", "stats", settings.plan()),
    shell:
        RUN
