"""SFT, then DPO from SFT and DPO from the base: one job per arm, seed and (for DPO) variant of the recipe."""

SAVING = {
    "checkpoints": lambda wildcards, output: Path(output.observed).parent / "checkpoints",
    "checkpoint_minutes": config["checkpoint_minutes"],
}


rule train_sft:
    """Fine-tune a fresh adapter on the SFT rows."""
    input:
        model="<results>/model/model.json",
        tokens="<results>/tokens/sft.parquet",
        rung=ladder.training_rungs("sft"),
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
    threads: config["threads"] * resources.processes
    resources:
        **resources.of_model(config["gpus"]),
    params:
        **program("train_sft", "train", settings.training(sft=config["sft"]), processes=resources.processes, **SAVING),
    shell:
        RUN_ON_THREADS


use rule train_sft as train_dpo with:
    # Preference optimisation against the reference table, from SFT (sft_dpo) or from the base (dpo_only).
    input:
        model="<results>/model/model.json",
        start=lambda wildcards: study.adapter(study.parent(wildcards)),
        tokens="<results>/tokens/train_pairs.parquet",
        reference=lambda wildcards: f"<results>/{study.parent(wildcards)}/train_logps.parquet",
        rung=lambda wildcards: ladder.training_rungs("dpo", wildcards.variant),
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
    params:
        **program("train_dpo", "train", settings.dpo, processes=resources.processes, **SAVING),


rule check_parity:
    """Prove from what was observed that the arms of one recipe differ in nothing but where they start."""
    input:
        observed=lambda wildcards: expand("<results>/{run}/observed.json", run=study.trained(wildcards.variant)),
    output:
        parity="<results>/parity{variant}.json",
        manifest="<results>/parity{variant}.manifest.json",
    log:
        "<logs>/check_parity{variant}.log",
    benchmark:
        "<benchmarks>/check_parity{variant}.tsv"
    conda:
        "../envs/stats.yaml"
    params:
        **program("check_parity", "stats", {}),
    shell:
        RUN
