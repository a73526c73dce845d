"""Load the configuration, refuse what the schema does not know, fill in defaults."""

import difflib
import itertools
import sys

import jsonschema
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

sys.path.insert(0, os.path.join(workflow.basedir, "scripts"))
from arms.model.cpu import INSTRUCTIONS

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


SCHEMA = os.path.join(workflow.basedir, "config", "schema.yaml")
CONFIG_FILES = ", ".join(str(path) for path in workflow.overwrite_configfiles) or "config/config.yaml"


def config_complaint(error):
    """One schema error in the user's words: key, what is wrong, the cure."""
    key = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties" and "properties" in error.schema:
        unknown = [name for name in error.instance if name not in error.schema["properties"]]
        close = difflib.get_close_matches(unknown[0], error.schema["properties"], n=1)
        known = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(error.schema['properties'])}"
        return f"unknown key {'.'.join([key, unknown[0]]).strip('.')!r}; {known}"
    if error.validator == "type" and isinstance(error.instance, str) and "number" in str(error.schema.get("type")):
        try:
            number = float(error.instance)
        except ValueError:
            pass
        else:
            return f"{key}: {error.instance!r} is text to YAML, not a number; write {number:.6e}".replace("000e", "e")
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{f'{key}.' if key else ''}{missing[0]} is missing; add it (config/README.md describes every key)"
    return f"{key}: {error.message}; {error.schema.get('description', 'see config/README.md')}"


def variants(recipe):
    """The DPO recipes that a configuration asks for, by label: lists make every combination, the first is "".

    Another variant's label names what differs from the first, such as "-beta~0.3", and becomes part of its paths.
    """
    lists = {key: value if isinstance(value, list) else [value] for key, value in sorted(recipe.items())}
    first = {key: values[0] for key, values in lists.items()}
    found = {}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values))
        found["".join(f"-{key}~{value}" for key, value in chosen.items() if value != first[key])] = chosen
    return found


def check_config(config):
    """Raise WorkflowError on the first thing that is wrong with the configuration."""
    with open(SCHEMA, encoding="utf-8") as stream:
        schema = yaml.safe_load(stream)
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(config), key=lambda error: len(error.path))
    if errors:
        raise WorkflowError(f"{CONFIG_FILES}: {config_complaint(errors[0])}")
    validate(config, SCHEMA)
    for stage in ("sft", "dpo"):
        rows, micro, gpus = config[stage]["batch_size"], config[stage]["micro_batch_size"], max(1, config["gpus"])
        if rows % (micro * gpus):
            several = f"gpus ({gpus}) times " if gpus > 1 else ""  # a step's micro-batches are dealt out
            raise WorkflowError(
                f"{CONFIG_FILES}: {several}{stage}.micro_batch_size ({micro}) must divide {stage}.batch_size ({rows}); "
                + ("lower one of the first two" if gpus > 1 else "change one of them")
            )
    loss_type = config["dpo"]["loss_type"]
    if loss_type.startswith("aot") and config["dpo"]["batch_size"] != config["dpo"]["micro_batch_size"]:
        raise WorkflowError(
            f"{CONFIG_FILES}: dpo.loss_type {loss_type} sorts the pairs of one forward pass, so dpo.micro_batch_size must "
            "equal dpo.batch_size"
        )
    if config["dpo"]["label_smoothing"] and loss_type in ("hinge", "ipo", "nca_pair", "sppo_hard"):
        raise WorkflowError(
            f"{CONFIG_FILES}: dpo.label_smoothing has no effect on dpo.loss_type {loss_type}; remove one of them"
        )
    shorter = [config["tokens"]["max_length"], *config["out_of_memory"]["max_length"]]
    if shorter != sorted(set(shorter), reverse=True):
        raise WorkflowError(
            f"{CONFIG_FILES}: out_of_memory.max_length must be lengths below tokens.max_length, each below the one before"
        )
    if shorter[1:] and config["tokens"]["on_overlong"] == "error":
        raise WorkflowError(
            f"{CONFIG_FILES}: out_of_memory.max_length shortens rows, which tokens.on_overlong: error forbids; "
            "set it to drop or truncate, or remove out_of_memory.max_length"
        )
    for name in ("sft", "pairs", "heldout_pairs", "heldout_prompts"):
        path = config["data"][name]
        if not os.path.isfile(path):
            raise WorkflowError(f"{CONFIG_FILES}: data.{name}: no such file: {path} (relative to {os.getcwd()})")
    if config["model"]["precision"] in ("int8", "nf4") and not config["gpus"]:
        raise WorkflowError(f"{CONFIG_FILES}: model.precision {config['model']['precision']} needs gpus: 1")


def check_variants(config):
    """Check the configuration with each DPO recipe that it asks for; return the recipes by label, defaults filled in."""
    asked = config.get("dpo") if isinstance(config.get("dpo"), dict) else {}
    if any(value == [] for value in asked.values()):
        raise WorkflowError(f"{CONFIG_FILES}: dpo: an empty list stands for no recipe; give it a value")
    recipes = {}
    for label, recipe in reversed(variants(asked).items()):  # the first comes last and stays in `config`
        config["dpo"] = recipe
        check_config(config)
        recipes[label] = config["dpo"]
    return dict(reversed(recipes.items()))


RECIPES = check_variants(config)
os.environ.update(INSTRUCTIONS[config["cpu_instructions"]])

# An environment variable and no setting of a job: it must not make anything run again.
ENVIRONMENT.update(SFT_VS_DPO_ALLOW_OFF_LOCK=str(int(config["allow_off_lock"])))
if not config["gpus"]:
    ENVIRONMENT["CUDA_VISIBLE_DEVICES"] = ""  # a study on CPUs uses no GPU, also where there is one
