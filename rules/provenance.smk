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
