"""Which micro-batches fit a GPU: who asks for it, and what depends on it. On CPUs there is nothing to ask (arms/memory/ladder.py)."""

from arms.memory.ladder import memory_key, recorded

TRAINED = {"sft": "sft", "dpo": "train_pairs"}  # the data set that a stage trains on


def memory_recipe(stage, variant):
    """What of a stage's recipe decides how much memory it needs, and how far its micro-batches may shrink."""
    recipe = config["sft"] if stage == "sft" else RECIPES[variant]
    sorts = recipe.get("loss_type", "").startswith("aot")  # over one whole batch (rules/config.smk)
    chosen = {name: recipe[name] for name in ("batch_size", "micro_batch_size", "gradient_checkpointing")}
    return {**chosen, "least_micro_batch_size": recipe["batch_size"] if sorts else 1}


def rung(stage, variant=""):
    """The file that says which micro-batches of a stage fit: one for all variants that need the same memory."""
    alike = (label for label in RECIPES if memory_recipe(stage, label) == memory_recipe(stage, variant))
    return f"<results>/memory/{stage}{next(alike)}.json"


def training_rungs(stage, variant=""):
    """What a training job's --rung gets: nothing on CPUs; its own rung, and all others if they may shorten its rows."""
    if not config["gpus"]:
        return []
    return list(dict.fromkeys([rung(stage, variant), *length_rungs()]))


def probed():
    """Every rung of the study; none on CPUs."""
    rungs = [rung("sft"), *(rung("dpo", variant) for variant in RECIPES)] if config["gpus"] else []
    return list(dict.fromkeys(rungs))


def length_rungs():
    """The rungs that decide how long a training row may be: all, or none if the configuration allows no shorter ones."""
    return probed() if config["out_of_memory"]["max_length"] else []


def token_rungs(wildcards):
    """What tokenising a data set waits for: held-out rows keep their length whatever fits."""
    return length_rungs() if wildcards.dataset in TRAINED.values() else []


def rung_flag(wildcards, input):
    """The flag that hands the rungs to a program, or nothing."""
    return ["--rung", *input.rung] if input.rung else []


def probe_settings(wildcards):
    """What probing a stage depends on, with the rungs that training itself has found too large (arms/memory/ladder.py)."""
    settings = torch_settings(
        stage=wildcards.stage,
        model=config["model"],
        tokens=config["tokens"],
        rows=config["data"]["rows"].get(DATASETS[TRAINED[wildcards.stage]][0]),
        lora=config["lora"],
        gpus=config["gpus"],
        start=config["sft_dpo"]["start"] if wildcards.stage == "dpo" else "adapter",
        max_lengths=[config["tokens"]["max_length"], *config["out_of_memory"]["max_length"]],
        **memory_recipe(wildcards.stage, wildcards.variant),
    )
    return {**settings, "recorded": recorded(f"results/{config['study']}/memory", memory_key(settings))}


def planned_stages():
    """The settings of each stage that decide its memory; DPO recipes that need the same memory are one stage."""
    stages = {f"dpo{variant}": memory_recipe("dpo", variant) for variant in reversed(RECIPES)}
    alike = {json.dumps(recipe): stage for stage, recipe in stages.items()}  # the first recipe of those comes last
    generation = {name: config["generation"][name] for name in ("batch_size", "max_new_tokens")}
    return {
        "sft": memory_recipe("sft", ""),
        **{stage: stages[stage] for stage in reversed(alike.values())},
        "score_pairs": config["scoring"],
        "generate": generation,
    }
