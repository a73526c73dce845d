"""Provenance: check a finished study against its manifests, and share it."""

if "verify" in sys.argv and workflow.resource_settings.cores is workflow.resource_settings.nodes is None:
    workflow.resource_settings.cores = 1  # `snakemake verify` needs no --cores: it only reads


rule verify:
    """Check every file of the study, from the report back to the raw data; makes nothing and runs nothing again."""
    localrule: True
    params:
        program=shlex.join([sys.executable, str(SCRIPTS / "verify.py")]),
        results=f"results/{config['study']}",
    run:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as jobs:
            json.dump(study_jobs(), jobs)
            jobs.flush()
            shell("{params.program} --jobs {jobs.name:q} --results {params.results:q}")
