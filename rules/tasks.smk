"""Tasks of lm-evaluation-harness: it asks and grades, the study's own policies answer (docs/tasks.md)."""


rule task_requests:
    """What the harness asks in a task; stops the study where it could not ask or grade."""
    input:
        files=lambda wildcards: study.tasks.files(wildcards.task),
    output:
        requests="<results>/tasks/{task}.requests.parquet",
        heldout="<results>/tasks/{task}.items.parquet",
        manifest="<results>/tasks/{task}.requests.manifest.json",
    log:
        "<logs>/task_requests/{task}.log",
    benchmark:
        "<benchmarks>/task_requests/{task}.tsv"
    conda:
        "../envs/grade.yaml"
    params:
        **program("task_requests", "grade", settings.task),
    shell:
        RUN


use rule task_requests as grade_task with:
    # Scores of one run's answers by one metric of a task, as the harness grades them.
    input:
        files=lambda wildcards: study.tasks.files(study.tasks.of(wildcards.metric)),
        requests=lambda wildcards: f"<results>/tasks/{study.tasks.of(wildcards.metric)}.requests.parquet",
        answers=lambda wildcards: f"<results>/{wildcards.run}/{study.tasks.of(wildcards.metric)}.answers.parquet",
    output:
        scores="<results>/scores/metric={metric}/part-{run}.parquet",
        manifest="<results>/scores/metric={metric}/part-{run}.manifest.json",
    log:
        "<logs>/grade_task/{metric}-{run}.log",
    benchmark:
        "<benchmarks>/grade_task/{metric}-{run}.tsv"
    params:
        **program("grade_task", "grade", settings.grades),


use rule tokenize_data as tokenize_task with:
    # What a task asks as token ids, once for every arm.
    input:
        model="<results>/model/model.json",
        requests="<results>/tasks/{task}.requests.parquet",
    output:
        tokens="<results>/tasks/{task}.tokens.parquet",
        manifest="<results>/tasks/{task}.tokens.manifest.json",
    log:
        "<logs>/tokenize_task/{task}.log",
    benchmark:
        "<benchmarks>/tokenize_task/{task}.tsv"
    params:
        **program("tokenize_task", TRAIN, {}),


use rule score_pairs as answer_task with:
    # One run's answers to what a task asks.
    input:
        model=lambda wildcards: study.starting.base(wildcards.run),
        adapter=lambda wildcards: study.starting.adapter(wildcards.run),
        tokens="<results>/tasks/{task}.tokens.parquet",
    output:
        answers="<results>/{run}/{task}.answers.parquet",
        manifest="<results>/{run}/{task}.answers.manifest.json",
    log:
        "<logs>/answer_task/{run}-{task}.log",
    benchmark:
        "<benchmarks>/answer_task/{run}-{task}.tsv"
    params:
        **program("answer_task", TRAIN, settings.answers(), **SAVED),
