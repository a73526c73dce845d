"""Provenance: check a finished study against its manifests, and share it."""


rule verify:
    """Check every file of the study, from the report back to the raw data. Makes nothing, runs nothing again."""
    input:
        env="envs/provenance.yaml",
    log:
        "<logs>/verify.log",
    localrule: True
    conda:
        "../envs/provenance.yaml"
    params:
        program=program("verify", "provenance"),
        jobs=study_jobs_file,
        results=f"results/{config['study']}",
    shell:
        r"""
        {params.program} --jobs {params.jobs:q} --results {params.results:q} 2>&1 | tee {log:q}
        """


rule crate:
    """The finished study as one zip for others."""
    input:
        f"results/{config['study']}-crate.zip",
    localrule: True


rule export_crate:
    """Describe workflow, data, jobs and results as a Workflow Run RO-Crate, and validate it."""
    input:
        report="<results>/report.html",
        manifests=lambda wildcards: sorted(study_jobs()),
        env="envs/provenance.yaml",
    output:
        crate=f"results/{config['study']}-crate.zip",
        manifest=f"results/{config['study']}-crate.manifest.json",
    log:
        "<logs>/export_crate.log",
    benchmark:
        "<benchmarks>/export_crate.tsv"
    conda:
        "../envs/provenance.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("export_crate", config),
        program=program("export_crate", "provenance"),
        engine=snakemake.__version__,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --manifests {input.manifests:q} --engine {params.engine:q} --output {output.crate:q} 2>&1 | tee {log:q}
        """
