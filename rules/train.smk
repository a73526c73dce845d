"""SFT, then DPO from SFT and DPO from the base: one job per arm and seed."""


rule train_sft:
    """Fine-tune a fresh adapter on the SFT rows."""
    input:
        model="<results>/model/model.json",
        tokens="<results>/tokens/sft.parquet",
        env="envs/train.yaml",
    output:
        adapter="<results>/sft-seed{seed}/adapter/arm.json",
        weights="<results>/sft-seed{seed}/adapter/adapter_model.safetensors",
        config="<results>/sft-seed{seed}/adapter/adapter_config.json",
        curves="<results>/sft-seed{seed}/curves.parquet",
        observed="<results>/sft-seed{seed}/observed.json",
        manifest="<results>/sft-seed{seed}/train.manifest.json",
    log:
        "<logs>/train_sft/seed{seed}.log",
    benchmark:
        "<benchmarks>/train_sft/seed{seed}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=config["gpus"],
    params:
        job=job("train_sft", training("sft")),
        program=program("train_sft", "train"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} --tokens {input.tokens:q} --threads {threads} \
            --adapter {output.adapter:q} --curves {output.curves:q} --observed {output.observed:q} 2>&1 | tee {log:q}
        """


rule train_dpo:
    """Preference optimisation against the reference table, from SFT (sft_dpo) or from the base (dpo_only)."""
    input:
        model="<results>/model/model.json",
        tokens="<results>/tokens/train_pairs.parquet",
        start=dpo_start,
        reference=dpo_reference,
        env="envs/train.yaml",
    output:
        adapter="<results>/{arm}-seed{seed}/adapter/arm.json",
        weights="<results>/{arm}-seed{seed}/adapter/adapter_model.safetensors",
        config="<results>/{arm}-seed{seed}/adapter/adapter_config.json",
        curves="<results>/{arm}-seed{seed}/curves.parquet",
        observed="<results>/{arm}-seed{seed}/observed.json",
        manifest="<results>/{arm}-seed{seed}/train.manifest.json",
    log:
        "<logs>/train_dpo/{arm}-seed{seed}.log",
    benchmark:
        "<benchmarks>/train_dpo/{arm}-seed{seed}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=config["gpus"],
    params:
        job=job("train_dpo", training("dpo")),
        program=program("train_dpo", "train"),
        start=lambda wildcards, input: ["--start", input.start] if input.start else [],
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.start:q} --tokens {input.tokens:q} --reference {input.reference:q} \
            --threads {threads} --adapter {output.adapter:q} --curves {output.curves:q} \
            --observed {output.observed:q} 2>&1 | tee {log:q}
        """


rule check_parity:
    """Prove from what was observed that the arms of all seeds differ in nothing but where they start."""
    input:
        observed=expand("<results>/{arm}-seed{seed}/observed.json", arm=TRAINED, seed=config["seeds"]),
        env="envs/stats.yaml",
    output:
        parity="<results>/parity.json",
        manifest="<results>/parity.manifest.json",
    log:
        "<logs>/check_parity.log",
    benchmark:
        "<benchmarks>/check_parity.tsv"
    conda:
        "../envs/stats.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        job=job("check_parity", {}),
        program=program("check_parity", "stats"),
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --observed {input.observed:q} --parity {output.parity:q} 2>&1 | tee {log:q}
        """
