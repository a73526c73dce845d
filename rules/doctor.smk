"""`snakemake doctor --profile slurm`: would the study run on this cluster? Minutes instead of a night in the queue.

First what the login node can tell, before anything is submitted; then one short job on a node of each kind.
"""

DOCTOR = f".snakemake/doctor/{config['study']}"
NODE = {
    "model": json.dumps(config["model"], sort_keys=True),
    "weights": f"results/{config['study']}/model/weights",
    "cpu": config["cpu_instructions"],
}


rule check_login:
    """What the machine that starts the study can tell: scheduler, partitions, account, limits, files, the model."""
    input:
        env="envs/train.yaml",
    output:
        found=f"{DOCTOR}/login.json",
    log:
        f"{DOCTOR}/login.log",
    retries: 0
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        program=program("check_login", "train"),
        model=NODE["model"],
        asked=lambda wildcards, output: json.dumps(asked_of_scheduler() if runs_on_slurm() else {}),
    shell:
        r"""
        {params.program} --model {params.model:q} --asked {params.asked:q} --output {output.found:q} 2>&1 | tee {log:q}
        """


rule check_node:
    """What a node tells: does it see this folder and the model, do environment, GPU and bitsandbytes work there?"""
    input:
        login=f"{DOCTOR}/login.json",
        env="envs/train.yaml",
    output:
        found=f"{DOCTOR}/cpu.json",
    log:
        f"{DOCTOR}/cpu.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        **NODE,
        program=program("check_node", "train"),
        kind="cpu",
        gpus=0,
    shell:
        r"""
        {params.program} --login {input.login:q} --lock {input.env:q} --kind {params.kind:q} --gpus {params.gpus:q} \
            --model {params.model:q} --weights {params.weights:q} --cpu-instructions {params.cpu:q} \
            --output {output.found:q} 2>&1 | tee {log:q}
        """


if config["gpus"]:

    use rule check_node as check_gpu_node with:
        output:
            found=f"{DOCTOR}/gpu.json",
        log:
            f"{DOCTOR}/gpu.log",
        threads: config["threads"]
        resources:
            **{**model_resources(config["gpus"]), "runtime": 10},
        params:
            **NODE,
            program=program("check_node", "train"),
            kind="gpu",
            gpus=config["gpus"],


rule doctor:
    """Check scheduler, nodes, environments, GPUs and model before anything expensive. Makes nothing."""
    input:
        login=f"{DOCTOR}/login.json",
        nodes=expand(f"{DOCTOR}/{{kind}}.json", kind=["cpu", "gpu"] if config["gpus"] else ["cpu"]),
        env="envs/train.yaml",
    log:
        f"{DOCTOR}/doctor.log",
    retries: 0
    localrule: True
    conda:
        "../envs/train.yaml"
    params:
        program=program("doctor", "train"),
    shell:
        r"""
        {params.program} {input.login:q} {input.nodes:q} 2>&1 | tee {log:q}
        """
