"""Figures, and the report that holds everything a reader needs in one page."""


rule plot:
    """The figures, as SVG for the report and PNG for slides."""
    input:
        contrasts="<results>/stats/contrasts.parquet",
        arm_means="<results>/stats/arm_means.parquet",
        seed_effects="<results>/stats/seed_effects.parquet",
        projection="<results>/stats/projection.parquet",
        decision="<results>/stats/decision.json",
        curves=expand("<results>/{run}/curves.parquet", run=study.trained()),
        audits=study.data_audits,
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
    params:
        **program("plot", "stats", settings.plot()),
    shell:
        RUN


use rule plot as report with:
    # One self-contained page: question, answer, figures, tables, examples, data audit, versions.
    input:
        **study.answers,
        **study.judges.report,
        decision="<results>/stats/decision.json",
        tables=expand("<results>/stats/{table}.parquet", table=[*REPORTED_TABLES, *study.judges.tables]),
        template=source("scripts/report.html.j2"),
        style=source("scripts/report.css"),
        script=source("scripts/report.js"),
        figures=expand("<results>/figures/{figure}.svg", figure=FIGURES),
        audits=study.audits,
        parity="<results>/parity.json",
        variants=expand("<results>/stats{variant}/contrasts.parquet", variant=list(study.recipes)[1:]),
        manifests=[
            "<results>/model/manifest.json",
            "<results>/stats/manifest.json",
            "<results>/scores/part-base.manifest.json",
            *expand("<results>/{run}/train.manifest.json", run=study.trained()),
            *(path.replace(".json", ".manifest.json") for path in ladder.rungs()),
        ],
    output:
        html=report("<results>/report.html", category="Report", caption="../config/captions/report.rst"),
        manifest="<results>/report.manifest.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    params:
        **program("report", "stats", settings.report(), skipped=engine.skipped),
