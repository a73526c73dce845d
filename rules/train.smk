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
        f"../envs/{TRAIN}.yaml"
    threads: config["threads"] * resources.processes
    resources:
        **resources.of_model(config["gpus"]),
    params:
        **program("train_sft", TRAIN, settings.training(sft=config["sft"]), processes=resources.processes, **SAVING),
    shell:
        RUN_ON_THREADS


use rule train_sft as train_dpo with:
    # Preference optimisation against the reference table, from SFT (sft_dpo) or from the base (dpo_only).
    input:
        model=study.starting.model,
        start=study.starting.start,
        tokens="<results>/tokens/train_pairs.parquet",
        reference=study.starting.reference,
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
        **program("train_dpo", TRAIN, settings.dpo, processes=resources.processes, **SAVING),


use rule train_dpo as train_objective with:
    # The same pairs under another objective (ORPO, KTO, SimPO), for the arms that a study adds.
    input:
        unpack(study.objectives.needs),
        model=study.starting.model,
        start=study.starting.start,
        tokens="<results>/tokens/train_pairs.parquet",
        rung=ladder.training_rungs("dpo"),
    log:
        "<logs>/train_objective/{arm}{variant}-seed{seed}.log",
    benchmark:
        "<benchmarks>/train_objective/{arm}{variant}-seed{seed}.tsv"
    wildcard_constraints:
        arm="|".join(study.objectives.arms) or "(?!)",
    params:
        **program("train_objective", TRAIN, settings.objective, processes=resources.processes, **SAVING),


use rule train_sft as merge_sft with:
    # The SFT adapter merged into the base, a model of its own for what starts from it (sft_dpo.start: merged).
    input:
        model="<results>/model/model.json",
        adapter="<results>/sft-seed{seed}/adapter/arm.json",
    output:
        weights=directory("<results>/sft-seed{seed}/merged/weights"),
        card="<results>/sft-seed{seed}/merged/model.json",
        manifest="<results>/sft-seed{seed}/merged/manifest.json",
    log:
        "<logs>/merge_sft/seed{seed}.log",
    benchmark:
        "<benchmarks>/merge_sft/seed{seed}.tsv"
    threads: config["threads"]
    resources:
        **resources.of_model(min(config["gpus"], 1)),
    params:
        **program("merge_sft", TRAIN, settings.of_model()),


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
