"""The data: checked as text and written in one layout, then turned into token ids once for all arms.

Each job owns one file and looks at the other side: held-out rows must not be trained on. Tokenising, and so all training,
waits for every check. These inputs are `ancient`: another held-out prompt is no reason to train again. The checks run
where the graders are.
"""


rule check_data:
    """Check one data file as text beside the others, describe it, and write its rows in the layout that all jobs read."""
    input:
        data=lambda wildcards: study.data_files(wildcards.data),
        beside=ancient(lambda wildcards: study.beside(wildcards.data)),
        trained=ancient(lambda wildcards: study.trained_beside(wildcards.data)),
    output:
        rows="<results>/data/{data}.parquet",
        audit="<results>/data/{data}.audit.json",
        manifest="<results>/data/{data}.manifest.json",
    log:
        "<logs>/check_data/{data}.log",
    benchmark:
        "<benchmarks>/check_data/{data}.tsv"
    conda:
        "../envs/grade.yaml"
    resources:
        **resources.of_data(),
    params:
        **program("check_data", "grade", settings.source, **study.checked),
    shell:
        RUN


use rule check_data as list_heldout with:
    # List the held-out pairs and prompts for the statistics.
    input:
        heldout=expand("<results>/data/{data}.parquet", data=study.heldout) + study.tasks.items,
    output:
        prompts="<results>/data/prompts.parquet",
        audit="<results>/data/prompts.audit.json",
        manifest="<results>/data/prompts.manifest.json",
    log:
        "<logs>/list_heldout.log",
    benchmark:
        "<benchmarks>/list_heldout.tsv"
    params:
        **program("list_heldout", "grade", {}),


rule tokenize_data:
    """Turn one data set into token ids, once, for every arm."""
    input:
        ancient(lambda wildcards: study.waited_for(wildcards.dataset)),  # without a name: not for the program
        model="<results>/model/model.json",
        data=lambda wildcards: f"<results>/data/{DATASETS[wildcards.dataset]}.parquet",
        beside=ancient(lambda wildcards: study.heldout_beside(wildcards.dataset)),
        checked=ancient(lambda wildcards: study.checked_before(wildcards.dataset)),
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
        f"../envs/{TRAIN}.yaml"
    threads: 2
    resources:
        **resources.of_data(),
    params:
        **program("tokenize_data", TRAIN, settings.tokens, kind=settings.kind, ahead=settings.ahead),
    shell:
        RUN_ON_THREADS


use rule tokenize_data as mismatch_pairs with:
    # Training prompts with the answers of other pairs, for KTO's KL term.
    input:
        pairs="<results>/tokens/train_pairs.parquet",
    output:
        mismatched="<results>/tokens/mismatched_pairs.parquet",
        manifest="<results>/tokens/mismatched_pairs.manifest.json",
    log:
        "<logs>/mismatch_pairs.log",
    benchmark:
        "<benchmarks>/mismatch_pairs.tsv"
    params:
        **program("mismatch_pairs", TRAIN, {}),
