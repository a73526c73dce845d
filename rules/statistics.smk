"""The statistics: paired contrasts of the four arms, and the decision."""


def plan(config):
    """The analysis plan: what statistics/spec fixes, with the config's choices. Part of the job, so fixed before scores."""
    chosen = config["statistics"]
    margins = chosen["margins"]
    kinds = {"pref_acc": "binary", "pass_rate": "binary", "logp_margin": "continuous"}
    return {
        "seed": chosen["seed"],
        "alpha": chosen["alpha"],
        "q": chosen["q"],
        "primary_metric": chosen["primary_metric"],
        "primary_contrasts": ["C1", "C2", "C3"],
        "primary_scope": chosen["primary_scope"],
        "secondary_scope": "checkpoint",
        "weighting": "micro",
        "min_prompts_category": chosen["min_prompts_category"],
        "monte_carlo": {"B": 19999},
        "metrics": {
            name: {
                "kind": kind,
                "higher_is_better": True,
                "bounds": [0, 1] if kind == "binary" else None,
                "margin": margins.get(name),
                "role": "primary" if name == chosen["primary_metric"] else "secondary",
            }
            for name, kind in kinds.items()
        },
    }


rule compare:
    """Paired contrasts C1-C7 with error control, a verdict for each in words, and the decision."""
    input:
        scores=expand("<results>/scores/metric={metric}/part-{run}.parquet", metric=METRICS, run=RUNS),
        prompts="<results>/data/prompts.parquet",
        gates=[
            "<results>/parity.json",
            "<results>/data/sft.audit.json",
            "<results>/data/preferences.audit.json",
        ],
        env="envs/stats.yaml",
    output:
        contrasts="<results>/stats/contrasts.parquet",
        contrasts_csv="<results>/stats/contrasts.csv",
        arm_means="<results>/stats/arm_means.parquet",
        seed_effects="<results>/stats/seed_effects.parquet",
        decision="<results>/stats/decision.json",
        manifest="<results>/stats/manifest.json",
    params:
        job=job("compare", plan(config)),
        program=program("compare", "stats"),
        folder=lambda wildcards, output: os.path.dirname(output.decision),
    log:
        "<logs>/compare.log",
    benchmark:
        "<benchmarks>/compare.tsv"
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../envs/stats.yaml"
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --scores {input.scores:q} --prompts {input.prompts:q} --output {params.folder:q} 2>&1 | tee {log:q}
        """
