"""The settings that decide each kind of job: its own slice of the configuration, and nothing else.

Methods take Snakemake's wildcards and return what the program finds as `job.settings`.
"""

from __future__ import annotations

import json

from study.config import Study
from study.data_config import without_paths
from study.datasets import DATA, DATASETS, TRAINED
from study.ladder import Ladder
from study.rungs import memory_key, recorded
from study.runs import Run
from study.vocabulary import METRICS, PRIMARY_CONTRASTS


class Settings:
    """The settings of one study's jobs."""

    def __init__(self, study: Study, ladder: Ladder) -> None:
        self.study, self.config, self.ladder = study, study.config, ladder

    def fetch(self) -> dict:
        """Of fetching the model: which, room for adapters, tables and caches, and what the study asks of the model."""
        use = {
            "max_length": self.config["tokens"]["max_length"],
            "target_modules": self.config["lora"]["target_modules"],
        }
        return {"model": self.config["model"], "study_bytes": 10**9, "use": use}

    def tokens(self, wildcards) -> dict:
        """Of one data set: an overlong held-out row is an error whatever the config says."""
        overlong = {} if wildcards.dataset in TRAINED.values() else {"on_overlong": "error"}
        return {**self._tokens(wildcards.dataset), **overlong, "rows": self._rows(wildcards.dataset)}

    def source(self, wildcards) -> dict:
        """Of the check of a data set: all that says what its rows are but the file, whose content counts by itself."""
        return without_paths(self.study.sets[wildcards.data])

    def kind(self, wildcards, output) -> str:
        """Which columns the rows of a data set have."""
        return DATA[DATASETS[wildcards.dataset]]

    def ahead(self, wildcards, output) -> str:
        """How many rows of each held-out set are used, which tokenising a training set also tries, as JSON."""
        return json.dumps({name: self.config["data"]["rows"].get(name) for name in self.study.heldout})

    def _tokens(self, dataset: str) -> dict:
        """How a data set becomes ids; only SFT rows have more than one answer."""
        return {
            name: value
            for name, value in self.config["tokens"].items()
            if dataset == "sft" or name != "assistant_turns"
        }

    def _rows(self, dataset: str) -> int | None:
        """How many rows of a data set are used; None: all."""
        return self.config["data"]["rows"].get(DATASETS[dataset])

    def of_model(self, **stage: object) -> dict:
        """What every job that computes log-probabilities depends on, and the settings of its stage."""
        shared = {"precision": self.config["model"]["precision"], "cpu_instructions": self.config["cpu_instructions"]}
        return {**shared, **stage}

    def training(self, **recipe: object) -> dict:
        """What every training job depends on, and the recipe of its stage."""
        return self.of_model(max_length=self.config["tokens"]["max_length"], lora=self.config["lora"], **recipe)

    def dpo(self, wildcards) -> dict:
        """Of a DPO arm: the recipe of its variant, and for sft_dpo the way it starts."""
        start = self.config["sft_dpo"] if wildcards.arm == "sft_dpo" else {}
        return self.training(dpo=self.study.recipes[wildcards.variant], **start)

    def objective(self, wildcards) -> dict:
        """Of an added arm: its objective and that one's recipe, and after SFT the way it starts."""
        name = Run(wildcards.arm).stage
        start = self.config["sft_dpo"] if wildcards.arm.startswith("sft_") else {}
        return self.training(**{"objective": name, name: self.study.objectives.recipe(name)}, **start)

    def _start(self) -> str:
        """How SFT→DPO starts as far as memory goes: on merged weights, as on the base, there is one adapter."""
        return "fresh" if self.config["sft_dpo"]["start"] == "fresh" else "adapter"

    def memory_plan(self) -> dict:
        """Of the memory plan: of each stage what decides its memory, equal DPO recipes once."""
        config = self.config
        generation = {name: config["generation"][name] for name in ("batch_size", "max_new_tokens")}
        return {
            "precision": config["model"]["precision"],
            "max_length": config["tokens"]["max_length"],
            "lora": config["lora"],
            "start": self._start(),
            "gpu_memory_gb": config["gpu_memory_gb"],
            "device": "cuda" if config["gpus"] or config["gpu_memory_gb"] else "cpu",
            "stages": {**self.ladder.stages(), "score_pairs": config["scoring"], "generate": generation},
        }

    def probe(self, wildcards) -> dict:
        """Of probing a stage, with the rungs that training itself has found too large (arms/memory/ladder.py)."""
        settings = self.of_model(
            stage=wildcards.stage,
            model=self.config["model"],
            tokens=self._tokens(TRAINED[wildcards.stage]),
            rows=self._rows(TRAINED[wildcards.stage]),
            lora=self.config["lora"],
            gpus=self.config["gpus"],
            start=self._start() if wildcards.stage == "dpo" else "adapter",
            max_lengths=[self.config["tokens"]["max_length"], *self.config["out_of_memory"]["max_length"]],
            **self.ladder.recipe(wildcards.stage, wildcards.variant),
        )
        return {**settings, "recorded": recorded(f"{self.study.results}/memory", memory_key(settings))}

    def plan(self) -> dict:
        """The analysis plan: the config's choices, and what is not for choice. Rule freeze_plan puts it on record.

        The training seeds belong to it: adding seeds after looking at scores is optional stopping.
        """
        chosen = self.config["statistics"]
        # Named only where it is chosen: the record of a plan without it stays what it was.
        named: dict[str, object] = {"pool_seed_variance": True} if chosen["pool_seed_variance"] else {}
        if self.study.objectives.arms:
            named["additions"] = self.study.objectives.contrasts
        return {
            **named,
            "seed": chosen["seed"],
            "train_seeds": sorted(self.config["seeds"]),
            "alpha": chosen["alpha"],
            "q": chosen["q"],
            "primary_metric": chosen["primary_metric"],
            "primary_contrasts": list(PRIMARY_CONTRASTS),
            "primary_scope": chosen["primary_scope"],
            "secondary_scope": "checkpoint",
            "weighting": "micro",
            "min_prompts_category": chosen["min_prompts_category"],
            "monte_carlo": {"B": 19999},
            "metrics": {
                name: {
                    **facts,
                    "bounds": [0, 1] if facts["kind"] == "binary" else None,
                    "margin": chosen["margins"].get(name),
                    "role": "primary" if name == chosen["primary_metric"] else "secondary",
                }
                for name, facts in {name: self.metric(name) for name in self.study.metrics}.items()
            },
        }

    def metric(self, name: str) -> dict:
        """Kind of a metric, and whether higher is better."""
        more = self.study.tasks.metrics | self.study.judges.metrics
        return more.get(name) or {"kind": METRICS[name][0], "higher_is_better": True}

    def task(self, wildcards) -> dict:
        """Of the requests of a task."""
        return self.study.tasks.settings(wildcards.task)

    def answers(self) -> dict:
        """Of the answers to a task's requests, which are greedy: how many are computed at a time."""
        generation = {"batch_size": self.config["generation"]["batch_size"]}
        return self.of_model(scoring=self.config["scoring"], generation=generation)

    def grades(self, wildcards) -> dict:
        """Of grading a task's answers by one metric."""
        return self.study.tasks.settings(self.study.tasks.of(wildcards.metric)) | {"metric": wildcards.metric}

    def judge(self, wildcards) -> dict:
        """Of meeting a judge: whom to ask, with which parameters."""
        return self.study.judges.settings(wildcards.judge)

    def publish(self) -> dict:
        """Of the model cards: what they say that no result does."""
        said = {name: self.config[name] for name in ("study", "seeds", "model", "tokens", "publish")}
        hub = {name: source for name, source in self.study.sets.items() if isinstance(source, dict) and "hub" in source}
        return {**said, "hub": hub, "metrics": {name: self.metric(name) for name in self.study.metrics}}

    def reward(self, wildcards) -> dict:
        """Of a reward model: which, and how precise."""
        return {"study_bytes": 0, **self.study.judges.reward_settings(wildcards.reward)}

    def plot(self) -> dict:
        """Of the figures: what they must say of the loss, if it is not measured against a reference."""
        return {"reference_free": True} if self.config["dpo"]["loss_type"] == "reference_free" else {}

    def report(self) -> dict:
        """Of the report: what its page says about the study."""
        shown = ("study", "seeds", "model", "tokens", "lora", "sft", "dpo", "generation")
        added = {name: self.study.objectives.recipe(name) for name in self.study.objectives.names}
        tasks = self.study.tasks.metrics.items()
        lower = [metric for metric, facts in tasks if not facts["higher_is_better"]]
        return (
            {name: self.config[name] for name in shown}
            | {"lower_is_better": lower}
            | ({"objectives": added} if added else {})
        )
