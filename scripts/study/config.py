"""The configuration: what the schema does not know is refused, what was left out is filled in.

`load` reads and checks; it changes neither its argument nor anything outside.
"""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import yaml

from study.base_files import checked_model, data_files
from study.data_config import checked_data, data_sets
from study.datasets import DATASETS, DEVELOPMENT, HELDOUT, TRAINED, UNTRAINED
from study.defaults import plain, refuse_infinite, with_defaults
from study.errors import ConfigError
from study.judges import Judges, check_judges
from study.objectives import Objectives, check_objectives, with_sections
from study.runs import Run
from study.stacks import check_precision
from study.starts import Starts, check_start
from study.tasks import Tasks, check_tasks
from study.vocabulary import DPO_ARMS, METRICS, OF_ANSWERS

NOTHING = "(?!)"  # a regular expression that no text matches
SMOOTHED = (
    "sigmoid",
    "robust",
    "exo_pair",
    "aot",
    "aot_pair",
    "reference_free",
)  # losses on which label smoothing has an effect


@dataclass(frozen=True)
class Study:
    """A checked configuration.

    config: every key of config/schema.yaml, defaults filled in; its `dpo` is the study's own recipe. recipes: each DPO
    recipe that the configuration asks for, by its label; the first, "", is the study's own.
    """

    config: dict
    recipes: dict[str, dict]

    @property
    def results(self) -> str:
        """The folder of everything that the study makes."""
        return f"results/{self.config['study']}"

    @property
    def targets(self) -> list[str]:
        """What rule all asks for: the report, and the weights (kept whole even if somebody cleaned them away)."""
        weights = ["model/weights", *self.starting.weights]
        return [f"{self.results}/report.html", *(f"{self.results}/{folder}" for folder in weights)]

    @property
    def starts(self) -> list[str]:
        """The runs that DPO starts from, which are its references."""
        return ["base", *(str(Run("sft", "", seed)) for seed in self.config["seeds"])]

    def dpo_runs(self, variant: str = "") -> list[str]:
        """The runs of both DPO arms with one recipe."""
        return [str(Run(arm, variant, seed)) for arm in DPO_ARMS for seed in self.config["seeds"]]

    def runs(self, variant: str = "") -> list[str]:
        """The runs that one recipe's statistics compare."""
        return self.starts + self.dpo_runs(variant) + self.objectives.runs(variant)

    def trained(self, variant: str = "") -> list[str]:
        """Those of them that were trained."""
        return self.runs(variant)[1:]

    @property
    def published(self) -> list[str]:
        """Every run with an adapter, those of other recipes included."""
        return list(dict.fromkeys(run for variant in self.recipes for run in self.trained(variant)))

    @functools.cached_property
    def starting(self) -> Starts:
        """What each run starts from, and what its adapter lies on."""
        return Starts(self.config)

    @functools.cached_property
    def sets(self) -> dict[str, str | dict]:
        """Every data set, those that are split off included: where it is, or which part of a split."""
        return data_sets(self.config["data"])

    @property
    def data(self) -> list[str]:
        """The data sets that the report is about: held-out prompts may be left out, development pairs are."""
        return [name for name in self.sets if name != DEVELOPMENT]

    @property
    def heldout(self) -> list[str]:
        """Those that no arm is trained on."""
        return [name for name in HELDOUT if name in self.data]

    @property
    def datasets(self) -> list[str]:
        """Their token files."""
        return [dataset for dataset, name in DATASETS.items() if name in self.data]

    @property
    def development(self) -> list[str]:
        """What scores the development pairs, for choosing recipes; [] without them."""
        runs = dict.fromkeys(run for variant in self.recipes for run in self.runs(variant))
        return [f"{self.results}/{run}/development_logps.parquet" for run in runs if DEVELOPMENT in self.sets]

    @property
    def metrics(self) -> list[str]:
        """What the arms are compared by: without held-out prompts no answer is."""
        own = [name for name in METRICS if name not in OF_ANSWERS or "heldout_prompts" in self.data]
        return [*own, *self.tasks.metrics, *self.judges.metrics]

    @property
    def tasks(self) -> Tasks:
        """The tasks of lm-evaluation-harness."""
        return Tasks(self.config)

    @property
    def objectives(self) -> Objectives:
        """The added arms."""
        return Objectives(self.config)

    @property
    def judges(self) -> Judges:
        """Who compares answers in pairs."""
        return Judges(self.config)

    def scores(self, variant: str) -> list[str]:
        """The score files of one recipe's statistics: by run, and of judges by pair of runs."""
        parts = [f"part-{run}.parquet" for run in self.runs(variant)]
        by_run = [metric for metric in self.metrics if metric not in self.judges.metrics]
        own = [f"<results>/scores/metric={one}/{part}" for one in by_run for part in parts]
        return own + self.judges.scores(variant)

    def waited_for(self, dataset: str) -> list[str]:
        """What a training set waits for: that every request of a task can be answered, and that judges answer."""
        return [*self.tasks.waited_for(dataset), *(self.judges.waited_for if dataset in TRAINED.values() else [])]

    def of_prompts(self, **files: str | list[str]) -> dict[str, str | list[str]]:
        """Files of a rule that there are only with held-out prompts: these, or none."""
        return files if "heldout_prompts" in self.data else {}

    @property
    def graded(self) -> dict[str, str | list[str]]:
        """What a run's grades are made of: its answers to the held-out prompts, and how these are graded."""
        return self.of_prompts(
            prompts="<results>/data/heldout_prompts.parquet",
            generations="<results>/{run}/generations.parquet",
            graders=self.graders,
        )

    @property
    def answers(self) -> dict[str, str | list[str]]:
        """What the report shows of answers to held-out prompts, and to the items of tasks."""
        own = self.of_prompts(
            prompts="<results>/data/heldout_prompts.parquet",
            generations=[f"<results>/{run}/generations.parquet" for run in self.runs()],
            scores=[f"<results>/scores/metric=pass_rate/part-{run}.parquet" for run in self.runs()],
        )
        return own | self.tasks.answers(self.runs())

    @property
    def graders(self) -> list[str]:
        """The user's file with graders of held-out prompts, or none."""
        return [path for path in (self.config["data"].get("graders"),) if path]

    def data_files(self, *names: str) -> list[str]:
        """The files of data sets, and with held-out prompts those that grade them."""
        files = [path for name in names for path in data_files(self.sets[name])]
        return files + self.graders if "heldout_prompts" in names else files

    def beside(self, data: str) -> list[str]:
        """The held-out files that a check looks at beside its own."""
        own = self.data_files(data)
        return [path for path in dict.fromkeys(self.data_files(*self.heldout)) if path not in own]

    def trained_beside(self, data: str) -> list[str]:
        """The checked tables that the check of held-out data looks at: of what is trained on."""
        trained = [DATASETS[dataset] for dataset in TRAINED.values()] if data in UNTRAINED else []
        return [f"<results>/data/{name}.parquet" for name in trained]

    def checked_before(self, dataset: str) -> list[str]:
        """The checked tables that tokenising waits for beside those that it reads, so that all checks come first."""
        tables = (f"<results>/data/{name}.parquet" for name in self.data if name != DATASETS[dataset])
        return [path for path in tables if path not in self.heldout_beside(dataset)]

    def heldout_beside(self, dataset: str) -> list[str]:
        """The held-out tables that tokenising a training set also tries to tokenise."""
        return [f"<results>/data/{name}.parquet" for name in self.heldout if dataset in TRAINED.values()]

    def sources(self, wildcards, output) -> str:
        """Where the data sets are that a check reads, as JSON: development pairs only in their own."""
        return json.dumps({name: self.sets[name] for name in self.sets if name in (*self.data, wildcards.data)})

    @property
    def checked(self) -> dict[str, object]:
        """What every check of data is told: where each set is, how prompts are graded, the largest batch of each."""
        pairs = max(recipe["batch_size"] for recipe in self.recipes.values())
        return {
            "sources": self.sources,
            "graders": self.graders,
            "least": json.dumps({"sft": self.config["sft"]["batch_size"], "pairs": pairs}),
        }

    @property
    def data_audits(self) -> list[str]:
        """What the checks of the data files found."""
        return [f"<results>/data/{name}.audit.json" for name in (*self.data, "prompts")]

    @property
    def audits(self) -> list[str]:
        """These, and what tokenising found."""
        return [*self.data_audits, *(f"<results>/tokens/{name}.audit.json" for name in self.datasets)]

    @property
    def wildcards(self) -> dict[str, str]:
        """What each wildcard of the rules may be, as regular expressions. variant is "" for the study's own recipe."""
        variant, plain = f"(?:{'|'.join(map(re.escape, self.recipes))})", "|".join(["sft", *self.objectives.arms])
        runs = f"base|(?:{plain})-seed[0-9]+|(?:{'|'.join(DPO_ARMS)}){variant}-seed[0-9]+"
        return {
            **dict.fromkeys(("run", "other"), runs),
            "arm": "|".join(DPO_ARMS),
            "variant": variant,
            "seed": "[0-9]+",
            "split": "|".join(["train", "heldout", "development", "mismatched", *self.starting.splits]),
            "stage": "|".join(TRAINED),
            "data": "|".join(self.sets),
            "dataset": "|".join(dataset for dataset, name in DATASETS.items() if name in self.sets),
            "task": "|".join(self.tasks) or NOTHING,
            "metric": "|".join(map(re.escape, self.tasks.metrics)) or NOTHING,
            "judge": "|".join(self.judges.asking) or NOTHING,
            "reward": "|".join(self.judges.scoring) or NOTHING,
        }


def load(config: dict, schema: str | Path, *, where: str = "the configuration", home: str | Path = ".") -> Study:
    """The study that a configuration asks for.

    schema: path of config/schema.yaml. where: how messages call the configuration. home: the repository, in which data
    files are looked for that the working directory does not have. Raises ConfigError on the first thing that is wrong.
    """
    rules = yaml.safe_load(Path(schema).read_text(encoding="utf-8"))
    try:
        recipe = config.get("dpo")
        asked = recipe if isinstance(recipe, dict) else {}
        if any(value == [] for value in asked.values()):
            raise ConfigError("dpo: an empty list stands for no recipe; give it a value")
        checked = {
            label: _checked({**config, "dpo": recipe} if asked else config, rules, home)
            for label, recipe in _variants(asked).items()
        }
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Study(checked[""], {label: found["dpo"] for label, found in checked.items()})


def refuse_double_keys(path: str | Path) -> None:
    """ConfigError if a YAML file has a key twice in one place: YAML would take the last without a word."""
    waiting = [yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        lines: dict[str, int] = {}
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting.append(value)
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    raise ConfigError(
                        f"{path}, line {line}: {name!r} is there already, in line {lines[name]}; remove one"
                    )
                lines[name] = line


def _variants(recipe: dict) -> dict[str, dict]:
    """The DPO recipes that a configuration asks for, by label: lists make every combination, the first is "".

    Another variant's label names what differs from the first, such as "-beta~0.3", and becomes part of its paths. 1 and
    1.0 are the same setting.
    """
    lists = {key: value if isinstance(value, list) else [value] for key, value in sorted(recipe.items())}
    first = {key: values[0] for key, values in lists.items()}
    found = {}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        found["".join(f"-{key}~{plain(value)}" for key, value in chosen.items() if value != first[key])] = chosen
    return found


def _checked(config: dict, schema: dict, home: str | Path) -> dict:
    """A copy of one recipe's configuration with defaults; ConfigError on the first thing that is wrong with it."""
    refuse_infinite(config)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    for error in sorted(errors, key=lambda error: len(error.path)):
        raise ConfigError(_complaint(error))
    filled = with_defaults(copy.deepcopy(with_sections(config)), schema, schema["$defs"])
    filled["model"] = checked_model(filled["model"])
    filled["data"] = checked_data(filled["data"], home)
    check_judges(filled, home)
    check_tasks(filled, home)
    metric = filled["statistics"]["primary_metric"]
    if metric in OF_ANSWERS and "heldout_prompts" not in filled["data"]:
        raise ConfigError(
            f"statistics.primary_metric: {metric} is judged on data.heldout_prompts, which is missing; add it, or "
            "choose pref_acc"
        )
    for stage in ("sft", "dpo"):
        _check_batches(filled, stage)
    if filled["dpo"].get("engine") == "trl":  # as without the key
        del filled["dpo"]["engine"]
    _check_loss(filled["dpo"])
    check_objectives(filled)
    check_start(filled)
    _check_lengths(filled)
    guesses = filled["statistics"]["power"]
    if guesses["same_arm"] < guesses["same_prompt"]:
        raise ConfigError(
            f"statistics.power.same_arm ({guesses['same_arm']}) must be at least same_prompt "
            f"({guesses['same_prompt']}): two seeds of one arm are no less alike than two arms"
        )
    check_precision(filled)
    return filled


def _complaint(error: jsonschema.ValidationError) -> str:
    """One schema error in the user's words: key, what is wrong, the cure."""
    key = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties" and "properties" in error.schema:
        allowed = "|".join(error.schema.get("patternProperties", [NOTHING]))
        unknown = [name for name in error.instance if name not in error.schema["properties"]]
        unknown = [name for name in unknown if not re.search(allowed, name)]
        close = difflib.get_close_matches(unknown[0], error.schema["properties"], n=1)
        known = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(error.schema['properties'])}"
        return f"unknown key {'.'.join([key, unknown[0]]).strip('.')!r}; {known}"
    if error.validator == "type" and isinstance(error.instance, str) and "number" in str(error.schema.get("type")):
        try:
            number = float(error.instance)
        except ValueError:
            pass
        else:
            cure = f"write {number:.6e}".replace("000e", "e") if math.isfinite(number) else "write a finite number"
            return f"{key}: {error.instance!r} is text to YAML, not a number; {cure}"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{f'{key}.' if key else ''}{missing[0]} is missing; add it (config/README.md describes every key)"
    if key.startswith("evaluation.judges.") and error.validator == "pattern":  # what stands there may be a secret
        return f"{key} does not look as it should; {' '.join(error.schema['description'].split())}"
    return f"{key}: {error.message}; {error.schema.get('description', 'see config/README.md')}"


def _check_batches(config: dict, stage: str) -> None:
    rows, micro, gpus = config[stage]["batch_size"], config[stage]["micro_batch_size"], max(1, config["gpus"])
    if rows % (micro * gpus):
        several = f"gpus ({gpus}) times " if gpus > 1 else ""  # a step's micro-batches are dealt out
        raise ConfigError(
            f"{several}{stage}.micro_batch_size ({micro}) must divide {stage}.batch_size ({rows}); "
            + ("lower one of the first two" if gpus > 1 else "change one of them")
        )


def _check_loss(dpo: dict) -> None:
    loss_type = dpo["loss_type"]
    if sorts_a_batch(dpo) and dpo["batch_size"] != dpo["micro_batch_size"]:
        raise ConfigError(
            f"dpo.loss_type {loss_type} sorts the pairs of one forward pass, so dpo.micro_batch_size must "
            "equal dpo.batch_size"
        )
    if dpo["label_smoothing"] and loss_type not in SMOOTHED:
        raise ConfigError(f"dpo.label_smoothing has no effect on dpo.loss_type {loss_type}; remove one of them")


def _check_lengths(config: dict) -> None:
    shorter = [config["tokens"]["max_length"], *config["out_of_memory"]["max_length"]]
    if shorter != sorted(set(shorter), reverse=True):
        raise ConfigError("out_of_memory.max_length must be lengths below tokens.max_length, each below the one before")
    if shorter[1:] and config["tokens"]["on_overlong"] == "error":
        raise ConfigError(
            "out_of_memory.max_length shortens rows, which tokens.on_overlong: error forbids; "
            "set it to drop or truncate, or remove out_of_memory.max_length"
        )


def sorts_a_batch(recipe: dict) -> bool:
    """Whether the loss compares the pairs of one forward pass, which then must be a whole batch."""
    return recipe.get("loss_type", "").startswith("aot")
