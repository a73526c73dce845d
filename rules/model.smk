"""The base model: fetched, checked, described in model.json, on which everything else depends."""


rule fetch_model:
    """Fetch the base model, check its files, and describe them."""
    input:
        data=list(config["data"].values()) if config["model"]["source"] == "random" else [],
        env="envs/train.yaml",
    output:
        weights=directory("<results>/model/weights"),
        card="<results>/model/model.json",
        manifest="<results>/model/manifest.json",
    params:
        job=job("fetch_model", {"model": config["model"]}),
        program=program("fetch_model", "train"),
    log:
        "<logs>/fetch_model.log",
    benchmark:
        "<benchmarks>/fetch_model.tsv"
    resources:
        mem_mb=8000,
        runtime=240,
    localrule: True
    conda:
        "../envs/train.yaml"
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --weights {output.weights:q} --card {output.card:q} --text {input.data:q} 2>&1 | tee {log:q}
        """
