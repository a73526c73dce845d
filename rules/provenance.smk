"""Provenance: check a finished study against its manifests, and share it."""


rule verify:
    """Check every file of the study, from the report back to the raw data. Makes nothing, runs nothing again."""
    log:
        "<logs>/verify.log",
    conda:
        "../envs/provenance.yaml"
    params:
        **program("verify", "provenance", jobs=engine.jobs_file, results=study.results),
    shell:
        SHOW


rule crate:
    """The finished study as one zip for others."""
    input:
        f"{study.results}-crate.zip",


rule export_crate:
    """Describe workflow, data, jobs and results as a Workflow Run RO-Crate, and validate it."""
    input:
        report="<results>/report.html",
        manifests=lambda wildcards: sorted(engine.jobs()),
    output:
        crate=f"{study.results}-crate.zip",
        manifest=f"{study.results}-crate.manifest.json",
    log:
        "<logs>/export_crate.log",
    benchmark:
        "<benchmarks>/export_crate.tsv"
    conda:
        "../envs/provenance.yaml"
    params:
        **program("export_crate", "provenance", study.config, engine=engine.version),
    shell:
        RUN


use rule export_crate as publish with:
    # A folder for each adapter as the hub takes it: weights, PEFT's configuration, model card. Uploads nothing.
    input:
        report="<results>/report.html",
        model="<results>/model/model.json",
        merged=study.starting.cards,
        decision="<results>/stats/decision.json",
        means=expand("<results>/stats{variant}/arm_means.csv", variant=study.recipes),
        contrasts="<results>/stats/contrasts.csv",
        data=expand("<results>/data/{data}.manifest.json", data=study.data),
        training=expand("<results>/{run}/train.manifest.json", run=study.published),
        adapters=expand("<results>/{run}/adapter/adapter_model.safetensors", run=study.published),
        configs=expand("<results>/{run}/adapter/adapter_config.json", run=study.published),
        template=source("scripts/model_card.md.j2"),
    output:
        cards=expand(f"{study.results}-publish/{{run}}/README.md", run=study.published),
        weights=expand(f"{study.results}-publish/{{run}}/adapter_model.safetensors", run=study.published),
        settings=expand(f"{study.results}-publish/{{run}}/adapter_config.json", run=study.published),
        records=expand(f"{study.results}-publish/{{run}}/training.json", run=study.published),
        manifest=f"{study.results}-publish.manifest.json",
    log:
        "<logs>/publish.log",
    benchmark:
        "<benchmarks>/publish.tsv"
    params:
        **program("publish", "provenance", settings.publish()),
