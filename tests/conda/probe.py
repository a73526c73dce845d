"""What a job sees in its environment, as JSON: probe.py envs/X.yaml. Every package of the file is imported."""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

MARKS = ("torch", "lm_eval", "matplotlib", "snakemake")  # each is in one environment of the project only
pinned = dict(re.findall(r'^ +- "([\w.-]+?)(?:\[[^]]*])?==([^ ;"]+)', Path(sys.argv[1]).read_text(), re.MULTILINE))
modules = set()
for name in pinned:
    for file in importlib.metadata.files(name):
        top = file.parts[0].partition(".")[0] if file.suffix in (".py", ".so") else ""
        if top.isidentifier() and not top.startswith("__"):
            modules.add(top)
for module in sorted(modules):
    importlib.import_module(module)
json.dump(
    {
        "prefix": sys.prefix,
        "python": sys.version.split()[0],
        "not as pinned": {
            name: importlib.metadata.version(name)
            for name, version in pinned.items()
            if importlib.metadata.version(name) != version
        },
        "modules": sorted(modules),
        "visible": [name for name in MARKS if importlib.util.find_spec(name)],
        "variables": dict(os.environ),
    },
    sys.stdout,
)
