"""Load the configuration, refuse what the schema does not know, fill in defaults."""

import difflib

import jsonschema
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

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


def check_config(config):
    """Raise WorkflowError on the first thing that is wrong with the configuration."""
    with open(SCHEMA, encoding="utf-8") as stream:
        schema = yaml.safe_load(stream)
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(config), key=lambda error: len(error.path))
    if errors:
        raise WorkflowError(f"{CONFIG_FILES}: {config_complaint(errors[0])}")
    validate(config, SCHEMA)
    for stage in ("sft", "dpo"):
        if config[stage]["batch_size"] % config[stage]["micro_batch_size"]:
            raise WorkflowError(f"{CONFIG_FILES}: {stage}.micro_batch_size must divide {stage}.batch_size")
    for name in ("sft", "pairs", "heldout_pairs", "heldout_prompts"):
        path = config["data"][name]
        if not os.path.isfile(path):
            raise WorkflowError(f"{CONFIG_FILES}: data.{name}: no such file: {path} (relative to {os.getcwd()})")
    if config["model"]["precision"] in ("int8", "nf4") and not config["gpus"]:
        raise WorkflowError(f"{CONFIG_FILES}: model.precision {config['model']['precision']} needs gpus: 1")


check_config(config)

# An environment variable and no setting of a job: it must not make anything run again.
ENVIRONMENT.update(SFT_VS_DPO_ALLOW_OFF_LOCK=str(int(config["allow_off_lock"])))
