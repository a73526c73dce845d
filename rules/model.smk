"""The base model: fetched, checked, described in model.json, on which everything else depends."""


rule fetch_model:
    """Fetch the base model, check its files, and describe them."""
    input:
        text=config["data"]["sft"] if config["model"]["source"] == "random" else [],
        env="envs/train.yaml",
    output:
        weights=directory("<results>/model/weights"),
        card="<results>/model/model.json",
        manifest="<results>/model/manifest.json",
    log:
        "<logs>/fetch_model.log",
    benchmark:
        "<benchmarks>/fetch_model.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        job=job("fetch_model", {"model": config["model"], "study_bytes": 10**9}),  # adapters, tables, caches
        program=program("fetch_model", "train"),
        text=lambda wildcards, input: ["--text", input.text] if input.text else [],
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --weights {output.weights:q} --card {output.card:q} {params.text:q} 2>&1 | tee {log:q}
        """
