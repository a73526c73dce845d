"""sft-vs-dpo: does DPO help, and does it need SFT first?

Four arms of one base model (base, sft, sft_dpo, dpo_only), one training run per seed, paired statistics.
Read the files below in order: each is one stage of the experiment. ARCHITECTURE.md draws the whole.
"""

import json
import sys
from pathlib import Path

# not workflow.source_path, which copies single files: the programs need their packages beside them
HOME = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).absolute()
sys.path.insert(0, str(HOME / "scripts"))

from study.base_files import base_files, loader_file
from study.command import RUN, RUN_ON_THREADS, SHOW
from study.engine import Engine
from study.forecast import power_flags, say_before_training
from study.datasets import DATASETS, TRAINED
from study.stacks import STACKS
from study.vocabulary import FIGURES, REPORTED_TABLES, TABLES

if not workflow.overwrite_configfiles:

    configfile: str(HOME / "config" / "config.yaml")


engine = Engine(workflow, config, HOME)  # checks the configuration, and is all that reaches into Snakemake
study, settings, ladder, resources = engine.study, engine.settings, engine.ladder, engine.resources
program, source = engine.program, engine.program.source
TRAIN = STACKS[study.config["stack"]]  # the environment of everything that trains, scores and answers
config.update(study.config)  # defaults filled in


pathvars:
    results=study.results,
    logs=f"{study.results}/logs",
    benchmarks=f"{study.results}/benchmarks",


wildcard_constraints:
    **study.wildcards,


localrules:
    all,
    development,
    fetch_model,
    plan_memory,
    freeze_plan,
    power,
    meet_judge,
    judge,
    fetch_reward,
    verify,
    crate,
    check_login,
    doctor,


rule all:
    """The report, and the weights."""
    input:
        study.targets,


rule development:
    """Scores of the pairs that data.development sets aside, for choosing a recipe; the report never reads them."""
    input:
        study.development,


include: "rules/model.smk"
include: "rules/data.smk"
include: "rules/memory.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/tasks.smk"
include: "rules/judges.smk"
include: "rules/statistics.smk"
include: "rules/report.smk"
include: "rules/provenance.smk"
include: "rules/doctor.smk"


engine.answer_status()
say_before_training(study, workflow)


onstart:
    engine.before_jobs()


onsuccess:
    engine.after_success()
