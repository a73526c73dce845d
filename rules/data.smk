"""The data: checked as text, then turned into token ids once for all arms.

Each check owns its files and sees the others only to find leakage: these are `ancient`, since another held-out prompt
is no reason to train again. Whichever file changes, its own check compares it with the others before anything is made
from it.
"""


rule check_sft:
    """Check the SFT rows as text, and that no held-out prompt is among them."""
    input:
        sft=config["data"]["sft"],
        heldout_pairs=ancient(config["data"]["heldout_pairs"]),
        heldout_prompts=ancient(config["data"]["heldout_prompts"]),
        env="envs/stats.yaml",
    output:
        audit="<results>/data/sft.audit.json",
        manifest="<results>/data/sft.manifest.json",
    log:
        "<logs>/check_sft.log",
    benchmark:
        "<benchmarks>/check_sft.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("check_sft", {}),
        program=program("check_sft", "stats"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --sft {input.sft:q} --heldout-pairs {input.heldout_pairs:q} --heldout-prompts {input.heldout_prompts:q} \
            --audit {output.audit:q} 2>&1 | tee {log:q}
        """


rule check_preferences:
    """Check the pairs as text, and that no held-out prompt is among them."""
    input:
        pairs=config["data"]["pairs"],
        heldout_pairs=ancient(config["data"]["heldout_pairs"]),
        heldout_prompts=ancient(config["data"]["heldout_prompts"]),
        env="envs/stats.yaml",
    output:
        audit="<results>/data/preferences.audit.json",
        manifest="<results>/data/preferences.manifest.json",
    log:
        "<logs>/check_preferences.log",
    benchmark:
        "<benchmarks>/check_preferences.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("check_preferences", {}),
        program=program("check_preferences", "stats"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --pairs {input.pairs:q} --heldout-pairs {input.heldout_pairs:q} \
            --heldout-prompts {input.heldout_prompts:q} --audit {output.audit:q} 2>&1 | tee {log:q}
        """


rule check_heldout:
    """Check the held-out pairs and prompts as text, that none is trained on, and list them for the statistics."""
    input:
        sft=ancient(config["data"]["sft"]),
        pairs=ancient(config["data"]["pairs"]),
        heldout_pairs=config["data"]["heldout_pairs"],
        heldout_prompts=config["data"]["heldout_prompts"],
        env="envs/stats.yaml",
    output:
        audit="<results>/data/heldout.audit.json",
        prompts="<results>/data/prompts.parquet",
        manifest="<results>/data/heldout.manifest.json",
    log:
        "<logs>/check_heldout.log",
    benchmark:
        "<benchmarks>/check_heldout.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        job=job("check_heldout", {}),
        program=program("check_heldout", "stats"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --sft {input.sft:q} --pairs {input.pairs:q} --heldout-pairs {input.heldout_pairs:q} \
            --heldout-prompts {input.heldout_prompts:q} --audit {output.audit:q} --prompts {output.prompts:q} \
            2>&1 | tee {log:q}
        """


rule tokenize_data:
    """Turn one data set into token ids, once, for every arm."""
    input:
        model="<results>/model/model.json",
        data=lambda wildcards: config["data"][DATASETS[wildcards.dataset][0]],
        audit=lambda wildcards: f"<results>/data/{DATASETS[wildcards.dataset][2]}.audit.json",
        rung=token_rungs,
        env="envs/train.yaml",
    output:
        tokens="<results>/tokens/{dataset}.parquet",
        audit="<results>/tokens/{dataset}.audit.json",
        manifest="<results>/tokens/{dataset}.manifest.json",
    log:
        "<logs>/tokenize_data/{dataset}.log",
    benchmark:
        "<benchmarks>/tokenize_data/{dataset}.tsv"
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        job=job("tokenize_data", token_settings),
        program=program("tokenize_data", "train"),
        kind=lambda wildcards, input: DATASETS[wildcards.dataset][1],
        rung=rung_flag,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --gates {input.audit:q} --model {input.model:q} --data {input.data:q} --kind {params.kind:q} \
            {params.rung:q} --output {output.tokens:q} --audit {output.audit:q} 2>&1 | tee {log:q}
        """
