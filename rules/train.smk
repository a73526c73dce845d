"""SFT, then DPO from SFT and DPO from the base: one job per arm, seed and (for DPO) variant of the recipe."""


rule train_sft:
    """Fine-tune a fresh adapter on the SFT rows."""
    input:
        model="<results>/model/model.json",
        tokens="<results>/tokens/sft.parquet",
        rung=training_rungs("sft"),
        env="envs/train.yaml",
    output:
        adapter="<results>/sft-seed{seed}/adapter/arm.json",
        weights="<results>/sft-seed{seed}/adapter/adapter_model.safetensors",
        config="<results>/sft-seed{seed}/adapter/adapter_config.json",
        curves="<results>/sft-seed{seed}/curves.parquet",
        speed="<benchmarks>/train_sft/seed{seed}.speed.parquet",
        observed="<results>/sft-seed{seed}/observed.json",
        manifest="<results>/sft-seed{seed}/train.manifest.json",
    log:
        "<logs>/train_sft/seed{seed}.log",
    benchmark:
        "<benchmarks>/train_sft/seed{seed}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"] * PROCESSES
    resources:
        **model_resources(config["gpus"]),
    params:
        job=job("train_sft", sft_settings),
        program=program("train_sft", "train"),
        rung=rung_flag,
        flags=training_flags,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} --tokens {input.tokens:q} {params.rung:q} --threads {threads} {params.flags:q} \
            --adapter {output.adapter:q} --curves {output.curves:q} --speed {output.speed:q} \
            --observed {output.observed:q} 2>&1 | tee {log:q}
        """


rule train_dpo:
    """Preference optimisation against the reference table, from SFT (sft_dpo) or from the base (dpo_only)."""
    input:
        model="<results>/model/model.json",
        tokens="<results>/tokens/train_pairs.parquet",
        adapter=adapter_of,
        reference=lambda wildcards: f"<results>/{parent(wildcards)}/train_logps.parquet",
        rung=lambda wildcards: training_rungs("dpo", wildcards.variant),
        env="envs/train.yaml",
    output:
        adapter="<results>/{arm}{variant}-seed{seed}/adapter/arm.json",
        weights="<results>/{arm}{variant}-seed{seed}/adapter/adapter_model.safetensors",
        config="<results>/{arm}{variant}-seed{seed}/adapter/adapter_config.json",
        curves="<results>/{arm}{variant}-seed{seed}/curves.parquet",
        speed="<benchmarks>/train_dpo/{arm}{variant}-seed{seed}.speed.parquet",
        observed="<results>/{arm}{variant}-seed{seed}/observed.json",
        manifest="<results>/{arm}{variant}-seed{seed}/train.manifest.json",
    log:
        "<logs>/train_dpo/{arm}{variant}-seed{seed}.log",
    benchmark:
        "<benchmarks>/train_dpo/{arm}{variant}-seed{seed}.tsv"
    conda:
        "../envs/train.yaml"
    threads: config["threads"] * PROCESSES
    resources:
        **model_resources(config["gpus"]),
    params:
        job=job("train_dpo", dpo_settings),
        program=program("train_dpo", "train"),
        start=adapter_flag("--start"),
        rung=rung_flag,
        flags=training_flags,
    shell:
        r"""
        {params.program} --job {params.job:q} --lock {input.env:q} --manifest {output.manifest:q} \
            --model {input.model:q} {params.start:q} --tokens {input.tokens:q} --reference {input.reference:q} \
            {params.rung:q} --threads {threads} {params.flags:q} --adapter {output.adapter:q} --curves {output.curves:q} \
            --speed {output.speed:q} --observed {output.observed:q} 2>&1 | tee {log:q}
        """


rule check_parity:
    """Prove from what was observed that the arms of one recipe differ in nothing but where they start."""
    input:
        observed=lambda wildcards: expand("<results>/{run}/observed.json", run=runs(wildcards.variant)[1:]),
        env="envs/stats.yaml",
    output:
        parity="<results>/parity{variant}.json",
        manifest="<results>/parity{variant}.manifest.json",
    log:
        "<logs>/check_parity{variant}.log",
    benchmark:
        "<benchmarks>/check_parity{variant}.tsv"
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
