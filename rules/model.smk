"""The base model: fetched, checked, described in model.json, on which everything else depends."""


rule fetch_model:
    """Fetch the base model, check its files, and describe them."""
    input:
        files=base_files(config),
        loader=loader_file(config["model"]),
    output:
        weights=directory("<results>/model/weights"),
        card="<results>/model/model.json",
        manifest="<results>/model/manifest.json",
    log:
        "<logs>/fetch_model.log",
    benchmark:
        "<benchmarks>/fetch_model.tsv"
    retries: 0
    conda:
        f"../envs/{TRAIN}.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        **program("fetch_model", TRAIN, settings.fetch()),
    shell:
        RUN
