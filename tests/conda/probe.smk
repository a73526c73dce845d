"""One job in each environment of the workflow, behind its guard: what does a rule's program see?"""

import os
import sys

sys.path.insert(0, "scripts")
from study.environment import clean

clean(os.environ)


rule all:
    input:
        expand("probe/{environment}.json", environment=("train", "grade", "stats")),


for environment in ("train", "grade", "stats"):

    rule:
        name:
            environment
        input:
            program="tests/conda/probe.py",
            env=f"envs/{environment}.yaml",
        output:
            f"probe/{environment}.json",
        conda:
            f"../../envs/{environment}.yaml"
        shell:
            "python {input.program:q} {input.env:q} > {output:q}"
