"""Provenance: check a finished study against its manifests, and share it."""

if "verify" in sys.argv and workflow.resource_settings.cores is workflow.resource_settings.nodes is None:
    workflow.resource_settings.cores = 1  # `snakemake verify` needs no --cores: it only reads


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
