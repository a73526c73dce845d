"""sft-vs-dpo: does DPO help, and does it need SFT first?

Four arms of one base model (base, sft, sft_dpo, dpo_only), one training run per seed, paired statistics.
Read the files below in order: each is one stage of the experiment.
"""

from snakemake.utils import min_version

min_version("9.27.1")


include: "rules/guard.smk"
include: "rules/config.smk"
include: "rules/common.smk"


pathvars:
    results=f"results/{config['study']}",
    logs=f"results/{config['study']}/logs",
    benchmarks=f"results/{config['study']}/benchmarks",


wildcard_constraints:
    run=f"base|sft-seed[0-9]+|(sft_dpo|dpo_only)({'|'.join(map(re.escape, RECIPES))})-seed[0-9]+",
    arm="sft_dpo|dpo_only",
    variant=f"(?:{'|'.join(map(re.escape, RECIPES))})",  # "" for the study's own recipe
    seed="[0-9]+",
    split="train|heldout",
    dataset="sft|train_pairs|heldout_pairs|heldout_prompts",


localrules:
    all,


rule all:
    """The report, and the weights (kept whole even if somebody cleaned them away)."""
    input:
        "<results>/report.html",
        "<results>/model/weights",


include: "rules/model.smk"
include: "rules/data.smk"
include: "rules/memory.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/statistics.smk"
include: "rules/report.smk"
include: "rules/provenance.smk"
