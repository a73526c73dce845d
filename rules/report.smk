"""Figures, and the report that holds everything a reader needs in one page."""


rule plot:
    """The figures, as SVG for the report and PNG for slides."""
    input:
        contrasts="<results>/stats/contrasts.parquet",
        arm_means="<results>/stats/arm_means.parquet",
        seed_effects="<results>/stats/seed_effects.parquet",
        projection="<results>/stats/projection.parquet",
        decision="<results>/stats/decision.json",
        curves=expand("<results>/{run}/curves.parquet", run=runs("")[1:]),
        env="envs/stats.yaml",
    output:
        svg=report(
            expand("<results>/figures/{figure}.svg", figure=FIGURES),
            category="Figures",
            caption="../config/captions/figures.rst",
        ),
        png=expand("<results>/figures/{figure}.png", figure=FIGURES),
        manifest="<results>/figures/manifest.json",
    log:
        "<logs>/plot.log",
    benchmark:
        "<benchmarks>/plot.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("plot", {}),
        program=program("plot", "stats"),
        stats=lambda wildcards, input: os.path.dirname(input.decision),
        figures=lambda wildcards, output: os.path.dirname(output.manifest),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --stats {params.stats:q} --curves {input.curves:q} --figures {params.figures:q} 2>&1 | tee {log:q}
        """


rule report:
    """One self-contained page: question, answer, figures, tables, examples, data audit, versions."""
    input:
        decision="<results>/stats/decision.json",
        tables=expand(
            "<results>/stats/{table}.parquet",
            table=("contrasts", "arm_means", "heterogeneity", "projection", "missing"),
        ),
        template="scripts/report.html.j2",
        figures=expand("<results>/figures/{figure}.svg", figure=FIGURES),
        audits=[
            "<results>/data/sft.audit.json",
            "<results>/data/preferences.audit.json",
            "<results>/data/heldout.audit.json",
            *expand("<results>/tokens/{dataset}.audit.json", dataset=DATASETS),
        ],
        parity="<results>/parity.json",
        variants=expand("<results>/stats{variant}/contrasts.parquet", variant=list(RECIPES)[1:]),
        prompts=config["data"]["heldout_prompts"],
        generations=expand("<results>/{run}/generations.parquet", run=runs("")),
        scores=expand("<results>/scores/metric=pass_rate/part-{run}.parquet", run=runs("")),
        manifests=[
            "<results>/model/manifest.json",
            "<results>/stats/manifest.json",
            "<results>/scores/part-base.manifest.json",
            *expand("<results>/{run}/train.manifest.json", run=runs("")[1:]),
            *(path.replace(".json", ".manifest.json") for path in probed()),
        ],
        env="envs/stats.yaml",
    output:
        html=report("<results>/report.html", category="Report", caption="../config/captions/report.rst"),
        manifest="<results>/report.manifest.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job(
            "report",
            {name: config[name] for name in ("study", "seeds", "model", "tokens", "lora", "sft", "dpo", "generation")},
        ),
        program=program("report", "stats"),
        stats=lambda wildcards, input: os.path.dirname(input.decision),
        figures=lambda wildcards, input: os.path.dirname(input.figures[0]),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --stats {params.stats:q} --figures {params.figures:q} --audits {input.audits:q} --parity {input.parity:q} \
            --variants {input.variants:q} \
            --prompts {input.prompts:q} --generations {input.generations:q} --scores {input.scores:q} \
            --manifests {input.manifests:q} --output {output.html:q} 2>&1 | tee {log:q}
        """
