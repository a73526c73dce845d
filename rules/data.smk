"""The data: checked as text, then turned into token ids once for all arms.

Each check owns its files and sees the others only to find leakage, and held-out prompts that nobody could grade: these
are `ancient`, since another held-out prompt is no reason to train again. Whichever file changes, its own check compares
it with the others before anything is made from it. The checks run where the graders are.
"""


rule check_sft:
    """Check the SFT rows as text, and that no held-out prompt is among them."""
    input:
        sft=config["data"]["sft"],
        heldout_pairs=ancient(config["data"]["heldout_pairs"]),
        heldout_prompts=ancient(config["data"]["heldout_prompts"]),
    output:
        audit="<results>/data/sft.audit.json",
        manifest="<results>/data/sft.manifest.json",
    log:
        "<logs>/check_sft.log",
    benchmark:
        "<benchmarks>/check_sft.tsv"
    conda:
        "../envs/grade.yaml"
    params:
        **program("check_sft", "grade", {}),
    shell:
        RUN


use rule check_sft as check_preferences with:
    # Check the pairs as text, and that no held-out prompt is among them.
    input:
        pairs=config["data"]["pairs"],
        heldout_pairs=ancient(config["data"]["heldout_pairs"]),
        heldout_prompts=ancient(config["data"]["heldout_prompts"]),
    output:
        audit="<results>/data/preferences.audit.json",
        manifest="<results>/data/preferences.manifest.json",
    log:
        "<logs>/check_preferences.log",
    benchmark:
        "<benchmarks>/check_preferences.tsv"
    params:
        **program("check_preferences", "grade", {}),


use rule check_sft as check_heldout with:
    # Check the held-out pairs and prompts as text, that none is trained on, and list them for the statistics.
    input:
        sft=ancient(config["data"]["sft"]),
        pairs=ancient(config["data"]["pairs"]),
        heldout_pairs=config["data"]["heldout_pairs"],
        heldout_prompts=config["data"]["heldout_prompts"],
    output:
        audit="<results>/data/heldout.audit.json",
        prompts="<results>/data/prompts.parquet",
        manifest="<results>/data/heldout.manifest.json",
    log:
        "<logs>/check_heldout.log",
    benchmark:
        "<benchmarks>/check_heldout.tsv"
    params:
        **program("check_heldout", "grade", {}),


rule tokenize_data:
    """Turn one data set into token ids, once, for every arm."""
    input:
        model="<results>/model/model.json",
        data=lambda wildcards: config["data"][DATASETS[wildcards.dataset][0]],
        gates=lambda wildcards: f"<results>/data/{DATASETS[wildcards.dataset][2]}.audit.json",
        rung=lambda wildcards: ladder.token_rungs(wildcards.dataset),
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
        runtime=60,
    params:
        **program(
            "tokenize_data", "train", settings.tokens, kind=lambda wildcards, output: DATASETS[wildcards.dataset][1]
        ),
    shell:
        RUN
