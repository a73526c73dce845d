"""Judges: a model behind an endpoint, or a reward model, compares answers of two runs to held-out prompts (docs/judge.md).

meet_judge and judge are local: they wait for somebody else's machine, and the key stays where the study is started.
"""


rule meet_judge:
    """Ask a judge one question before anything trains: does it answer, as which model, and with a verdict?"""
    input:
        prompt=lambda wildcards: study.judges.prompt(wildcards.judge),
    output:
        met="<results>/judge/{judge}.json",
        manifest="<results>/judge/{judge}.manifest.json",
    log:
        "<logs>/meet_judge/{judge}.log",
    benchmark:
        "<benchmarks>/meet_judge/{judge}.tsv"
    retries: 0
    conda:
        "../envs/grade.yaml"
    params:
        **program("meet_judge", "grade", settings.judge, reach=study.judges.reach),
    shell:
        RUN


use rule meet_judge as judge with:
    # One judge's verdicts about the answers of two runs, in both orders, and what it wrote.
    input:
        met="<results>/judge/{judge}.json",
        prompts="<results>/data/heldout_prompts.parquet",
        first="<results>/{run}/generations.parquet",
        second="<results>/{other}/generations.parquet",
    output:
        scores="<results>/scores/metric=judge.{judge}/part-{run}-vs-{other}.parquet",
        answers="<results>/judge/{judge}/{run}-vs-{other}.parquet",
        manifest="<results>/judge/{judge}/{run}-vs-{other}.manifest.json",
    log:
        "<logs>/judge/{judge}-{run}-vs-{other}.log",
    benchmark:
        "<benchmarks>/judge/{judge}-{run}-vs-{other}.tsv"
    params:
        **program("judge", "grade", {}, reach=study.judges.reach),


use rule meet_judge as fetch_reward with:
    # A reward model: fetched, checked, described like a judge.
    input:
        files=lambda wildcards: study.judges.reward_files(wildcards.reward),
    output:
        weights=directory("<results>/judge/{reward}.weights"),
        met="<results>/judge/{reward}.json",
        manifest="<results>/judge/{reward}.manifest.json",
    log:
        "<logs>/fetch_reward/{reward}.log",
    benchmark:
        "<benchmarks>/fetch_reward/{reward}.tsv"
    conda:
        f"../envs/{TRAIN}.yaml"
    params:
        **program("fetch_reward", TRAIN, settings.reward),


use rule score_pairs as score_answers with:
    # What a reward model thinks of each answer of one run.
    input:
        met="<results>/judge/{reward}.json",
        prompts="<results>/data/heldout_prompts.parquet",
        generations="<results>/{run}/generations.parquet",
    output:
        rewards="<results>/{run}/{reward}.rewards.parquet",
        manifest="<results>/{run}/{reward}.rewards.manifest.json",
    log:
        "<logs>/score_answers/{run}-{reward}.log",
    benchmark:
        "<benchmarks>/score_answers/{run}-{reward}.tsv"
    params:
        **program("score_answers", TRAIN, {"cpu_instructions": config["cpu_instructions"]}, **SAVED),


use rule judge as prefer with:
    # Which of two runs' answers a reward model prefers.
    input:
        met="<results>/judge/{reward}.json",
        prompts="<results>/data/heldout_prompts.parquet",
        first="<results>/{run}/generations.parquet",
        second="<results>/{other}/generations.parquet",
        first_rewards="<results>/{run}/{reward}.rewards.parquet",
        second_rewards="<results>/{other}/{reward}.rewards.parquet",
    output:
        scores="<results>/scores/metric=judge.{reward}/part-{run}-vs-{other}.parquet",
        answers="<results>/judge/{reward}/{run}-vs-{other}.parquet",
        manifest="<results>/judge/{reward}/{run}-vs-{other}.manifest.json",
    log:
        "<logs>/prefer/{reward}-{run}-vs-{other}.log",
    benchmark:
        "<benchmarks>/prefer/{reward}-{run}-vs-{other}.tsv"
    params:
        **program("prefer", "grade", {}),
