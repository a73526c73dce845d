"""What the rules share: the runs of the study, what decides a job, and the environment that its program runs in."""

import ast
import functools
import hashlib
import json
import shlex
from pathlib import Path

from snakemake.io import is_flagged
from snakemake.iocontainers import Wildcards

SCRIPTS = Path(workflow.basedir) / "scripts"
FIGURES = ("forest", "arms", "seeds", "categories", "power", "curves")
STATISTICS = ("contrasts", "arm_means", "seed_effects", "variance", "projection", "heterogeneity", "missing")
METRICS = ("pref_acc", "pass_rate", "logp_margin")
STARTS = ["base", *(f"sft-seed{seed}" for seed in config["seeds"])]  # what DPO starts from, and its references
PROCESSES = max(1, config["gpus"])  # of a training job
USES_CONDA = "conda" in {method.name.lower() for method in workflow.deployment_settings.deployment_method}

# A cluster's SIGTERM goes to every process of a job. The program needs some seconds to save; so bash, whose end would end
# the job, waits for it, and tee, which would take the last lines with it, ends with its input.
shell.prefix("set -euo pipefail; trap : TERM; tee() {{ trap '' TERM; command tee \"$@\"; }}; ")


@functools.cache
def module_facts(path):
    """A module's code without comments and docstrings, which never make a job run again; and the project files that it
    imports, at its top or inside functions, by absolute or relative name.
    """
    tree, files = ast.parse(path.read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                body[0].value.value = ""
        folder, names = SCRIPTS, []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1] if node.level else SCRIPTS
            stem = f"{node.module}." if node.module else ""
            names = [stem.rstrip("."), *(stem + alias.name for alias in node.names)]
        for name in names:
            file = folder.joinpath(*name.split("."))
            files += filter(Path.is_file, (file.with_suffix(".py"), file / "__init__.py"))
    return ast.unparse(tree), files


@functools.cache
def code_digest(rule):
    """sha256 over the program of a rule and every project module that it really imports."""
    found, waiting = {}, [SCRIPTS / f"{rule}.py"]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(SCRIPTS))
        if name not in found:
            found[name], files = module_facts(path)
            waiting.extend(files)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def job(rule, settings):
    """What decides a job's result, as one canonical JSON text: rule, wildcards, its settings, its code.

    Snakemake compares params without their names, so separate params could swap values unseen. `settings` is a dict, or
    a function of the wildcards.
    """

    def text(wildcards):
        chosen = settings(wildcards) if callable(settings) else settings
        identity = {"rule": rule, "wildcards": dict(wildcards), "settings": chosen, "code": code_digest(rule)}
        return json.dumps(identity, sort_keys=True, separators=(",", ":"))

    return text


def program(rule, environment):
    """The quoted command that starts a rule's program in its pinned environment.

    Under --sdm conda that is the python of the rule's conda environment, else the one of the uv venv that `make setup`
    made from the same lock. A function of `output` is not recorded by Snakemake, so neither the choice nor the place of
    the clone makes anything run again.
    """

    def command(wildcards, output):
        python = "python" if USES_CONDA else str(Path(workflow.basedir) / ".envs" / environment / "bin" / "python")
        return shlex.join([python, str(SCRIPTS / f"{rule}.py")])

    return command


DATASETS = {
    # data set of the token files: (key in the config's data section, kind of rows, the audit that must have passed)
    "sft": ("sft", "sft", "sft"),
    "train_pairs": ("pairs", "pairs", "preferences"),
    "heldout_pairs": ("heldout_pairs", "pairs", "heldout"),
    "heldout_prompts": ("heldout_prompts", "prompts", "heldout"),
}


def token_settings(wildcards):
    """Token settings of one data set: an overlong held-out row is an error whatever the config says."""
    overlong = {} if wildcards.dataset in ("sft", "train_pairs") else {"on_overlong": "error"}
    rows = config["data"]["rows"].get(DATASETS[wildcards.dataset][0])
    return {**config["tokens"], **overlong, "rows": rows}


def dpo_runs(variant):
    """The runs of both DPO arms with one recipe."""
    return [f"{arm}{variant}-seed{seed}" for arm in ("sft_dpo", "dpo_only") for seed in config["seeds"]]


def runs(variant):
    """The runs that one recipe's statistics compare."""
    return STARTS + dpo_runs(variant)


def parent(wildcards):
    """The run whose policy an arm's DPO starts from, and which is its reference."""
    return f"sft-seed{wildcards.seed}" if wildcards.arm == "sft_dpo" else "base"


def adapter_of(wildcards):
    """arm.json of a run's adapter; the base has none. A DPO job gets the adapter that it starts from."""
    run = wildcards.run if "run" in wildcards.keys() else parent(wildcards)
    return [] if run == "base" else f"<results>/{run}/adapter/arm.json"


def adapter_flag(flag):
    """The flag that hands the adapter of `adapter_of` to a program, or nothing for the base."""
    return lambda wildcards, input: [flag, input.adapter] if input.adapter else []


def torch_settings(**stage):
    """What every job that computes log-probabilities depends on, and the settings of its stage."""
    shared = {"precision": config["model"]["precision"], "cpu_instructions": config["cpu_instructions"]}
    return {**shared, **stage}


def sft_settings(wildcards):
    """What a training job of the SFT arm depends on."""
    return torch_settings(max_length=config["tokens"]["max_length"], lora=config["lora"], sft=config["sft"])


def dpo_settings(wildcards):
    """What a training job of a DPO arm depends on: the recipe of its variant, and for sft_dpo the way it starts."""
    start = config["sft_dpo"] if wildcards.arm == "sft_dpo" else {}
    recipe = RECIPES[wildcards.variant]
    return torch_settings(max_length=config["tokens"]["max_length"], lora=config["lora"], dpo=recipe, **start)


def checkpoint_minutes(wildcards, output):
    """How often a job saves. A function of `output`: Snakemake does not record it."""
    return str(config["checkpoint_minutes"])


def training_flags(wildcards, output):
    """Where and how often a training job saves, and over how many GPUs it is spread. A function of `output`, too."""
    folder = Path(output.observed).parent / "checkpoints"
    flags = ["--checkpoints", str(folder), "--checkpoint-minutes", str(config["checkpoint_minutes"])]
    return [*flags, "--processes", str(PROCESSES)] if PROCESSES > 1 else flags


def plan(config):
    """The analysis plan: the config's choices, and what is not for choice. Rule freeze_plan puts it on record.

    The training seeds belong to it: adding seeds after looking at scores is optional stopping.
    """
    chosen = config["statistics"]
    margins = chosen["margins"]
    kinds = {"pref_acc": "binary", "pass_rate": "binary", "logp_margin": "continuous"}
    return {
        "seed": chosen["seed"],
        "train_seeds": sorted(config["seeds"]),
        "alpha": chosen["alpha"],
        "q": chosen["q"],
        "primary_metric": chosen["primary_metric"],
        "primary_contrasts": ["C1", "C2", "C3"],
        "primary_scope": chosen["primary_scope"],
        "secondary_scope": "checkpoint",
        "weighting": "micro",
        "min_prompts_category": chosen["min_prompts_category"],
        "monte_carlo": {"B": 19999},
        "metrics": {
            name: {
                "kind": kind,
                "higher_is_better": True,
                "bounds": [0, 1] if kind == "binary" else None,
                "margin": margins.get(name),
                "role": "primary" if name == chosen["primary_metric"] else "secondary",
            }
            for name, kind in kinds.items()
        },
    }


def study_jobs():
    """Every job behind the report, from the rules and this config alone: manifest -> {job, lock, inputs, outputs}.

    inputs are what the job's manifest must record: not the environment file, whose checksum has a place of its own
    (lock), and not what Snakemake calls ancient, which may have changed since without making the job run again.
    """
    producers = [made_by for made_by in workflow.rules if made_by.output]
    waiting, seen, jobs = [str(path) for path in workflow.get_rule("all").expand_input({})[0]], set(), {}
    while waiting:
        path = waiting.pop()
        made_by = next((made_by for made_by in producers if made_by.is_producer(path)), None)
        if made_by is None or path in seen:
            continue
        wildcards = Wildcards(fromdict=made_by.get_wildcards(path))
        inputs, outputs = made_by.expand_input(wildcards)[0], made_by.expand_output(wildcards)[0]
        seen.update(map(str, outputs))
        waiting.extend(map(str, inputs))
        jobs[str(outputs.manifest)] = {
            "job": json.loads(made_by.params.job(wildcards)),
            "lock": str(inputs.env),
            "inputs": [str(path) for path in inputs if path != inputs.env and not is_flagged(path, "ancient")],
            "outputs": [str(path) for path in outputs if path != outputs.manifest],
        }
    return jobs


def study_jobs_file(wildcards):
    """The path of a file with `study_jobs`, written now: five seeds are more text than one argument may hold."""
    path = Path(".snakemake", f"{config['study']}.jobs.json")
    path.write_text(json.dumps(study_jobs()), encoding="utf-8")
    return str(path)


def check_environments():
    """Raise WorkflowError if the rules' environments are not installed."""
    missing = [
        name for name in ("train", "grade", "stats", "provenance") if not Path(workflow.basedir, ".envs", name).is_dir()
    ]
    if missing and not USES_CONDA:
        raise WorkflowError(
            f"the rules' environments are not installed ({', '.join(missing)} missing in .envs/): "
            "run `make setup`, or add --sdm conda if you have conda >= 24.7.1"
        )
