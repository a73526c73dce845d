"""`snakemake doctor --profile slurm`: would the study run on this cluster? Minutes instead of a night in the queue.

First what the login node can tell, before anything is submitted; then one short job on a node of each kind.
"""

DOCTOR = f".snakemake/doctor/{config['study']}"
NODE = {
    "model": json.dumps(config["model"], sort_keys=True),
    "weights": f"{study.results}/model/weights",
    "cpu_instructions": config["cpu_instructions"],
    "lock": source(f"envs/{TRAIN}.yaml"),
}


rule check_login:
    """What the machine that starts the study can tell: scheduler, partitions, account, limits, files, the model."""
    output:
        found=f"{DOCTOR}/login.json",
    log:
        f"{DOCTOR}/login.log",
    retries: 0
    conda:
        f"../envs/{TRAIN}.yaml"
    params:
        **program("check_login", TRAIN, model=NODE["model"], asked=engine.asked),
    shell:
        SHOW


rule check_node:
    """What a node tells: does it see this folder and the model, do environment, GPU and bitsandbytes work there?"""
    input:
        login=f"{DOCTOR}/login.json",
    output:
        found=f"{DOCTOR}/cpu.json",
    log:
        f"{DOCTOR}/cpu.log",
    conda:
        f"../envs/{TRAIN}.yaml"
    params:
        **program("check_node", TRAIN, kind="cpu", gpus=0, **NODE),
    shell:
        SHOW


if config["gpus"]:

    use rule check_node as check_gpu_node with:
        output:
            found=f"{DOCTOR}/gpu.json",
        log:
            f"{DOCTOR}/gpu.log",
        threads: config["threads"]
        resources:
            **resources.of_model(config["gpus"]),
        params:
            **program("check_node", TRAIN, kind="gpu", gpus=config["gpus"], **NODE),


rule doctor:
    """Check scheduler, nodes, environments, GPUs and model before anything expensive. Makes nothing."""
    input:
        login=f"{DOCTOR}/login.json",
        nodes=expand(f"{DOCTOR}/{{kind}}.json", kind=["cpu", "gpu"] if config["gpus"] else ["cpu"]),
    log:
        f"{DOCTOR}/doctor.log",
    retries: 0
    conda:
        f"../envs/{TRAIN}.yaml"
    params:
        **program("doctor", TRAIN),
    shell:
        SHOW
