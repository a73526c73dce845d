"""Where the results come from, for the page: the data audits, the model, code, versions, devices, memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from arms.job.files import UserError, read_json
from display.words import listed, recipe_words
from study.datasets import DATASETS, HELDOUT

DATASET_NAMES = {
    "sft": "SFT rows",
    "train_pairs": "Training pairs",
    "heldout_pairs": "Held-out pairs",
    "heldout_prompts": "Held-out prompts",
}
SHOWN_PACKAGES = (
    "python", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "tokenizers",
    "lm-eval", "numpy", "scipy", "pandas", "pyarrow", "statsmodels", "matplotlib",
)  # fmt: skip


def data_audit(paths: list[str]) -> dict:
    """The audits as tables: one row for each data file, counts by category and by negative, warnings.

    paths: data/<data set>.audit.json and tokens/<data set>.audit.json.
    """
    audits: dict[str, dict[str, dict]] = {"data": {}, "tokens": {}}
    for path in map(Path, paths):
        audits.setdefault(path.parent.name, {})[path.name.removesuffix(".audit.json")] = read_json(path)
    data, tokens = audits["data"], audits["tokens"]
    try:
        rows = [
            {"name": DATASET_NAMES[dataset], **data[key], "tokens": tokens[dataset]}
            for dataset, key in DATASETS.items()
            if key in data or key in ("sft", "pairs", "heldout_pairs")  # it may do without the others
        ]
    except KeyError as error:
        found = sorted(f"{folder}/{name}" for folder, names in audits.items() for name in names)
        raise UserError(f"--audits: {error} is missing; found {', '.join(found)}") from None
    told = [line for row in rows for line in row["warnings"]]
    return {
        "rows": rows,
        "categories": sorted({category for row in rows for category in row["categories"]}),
        "negatives": sorted({name for row in rows for name in row.get("negatives", {})}),
        "pairs": data["pairs"],
        "heldout_pairs": data["heldout_pairs"],
        "heldout_clusters": data["prompts"]["clusters"],
        "near_duplicates": sum(len(data[name]["near_duplicates"]) for name in HELDOUT if name in data),
        "warnings": [*told, *dict.fromkeys(line for row in rows for line in row["tokens"].get("template", []))],
    }


def provenance(manifests: list[dict]) -> dict:
    """What the manifests say about code, environments and devices."""
    locked = [(m["lock"]["file"].removesuffix(".yaml"), m) for m in manifests if m["lock"]]
    versions = {name: m["versions"] for name, m in sorted(locked, key=lambda item: item[0], reverse=True)}
    model = next((m for m in manifests if m["rule"] == "fetch_model"), None)
    return {
        "weights_sha256": model["outputs"]["weights"]["sha256"] if model else None,
        "commits": sorted({m["git"]["sha"] or "outside git" for m in manifests}),
        "dirty": sum(bool(m["git"]["dirty"]) for m in manifests),
        "manifests": len(manifests),
        "locks": sorted({(name, m["lock"]["sha256"]) for name, m in locked}),
        "packages": [name for name in SHOWN_PACKAGES if any(name in found for found in versions.values())],
        "versions": versions,
        "devices": Counter(device_words(m["machine"]) for m in manifests if m["rule"].startswith("train_")),
        "memory": rung_words([m for m in manifests if m["rule"] == "probe_memory"]),
    }


def rung_words(probes: list[dict]) -> list[str]:
    """What of the training settings had to shrink to fit into memory (rule probe_memory); nothing if all did fit."""
    found, shortened = [], []
    for facts, wildcards in ((probe["facts"], probe["wildcards"]) for probe in probes):
        asked, used, label = facts["asked"], facts["used"], wildcards["variant"].removeprefix("-")
        stage = wildcards["stage"].upper() + (f" ({recipe_words(label)})" if label else "")
        failed = [rung for rung in facts["attempts"] if not rung["fits"]]
        sizes = [rung["micro_batch_size"] for rung in failed if rung["max_length"] == used["max_length"]]
        if sizes:
            found.append(
                f"{stage} was trained with micro-batches of {used['micro_batch_size']} (asked for "
                f"{asked['micro_batch_size']}; {listed(sizes)} did not fit {facts['card']})"
            )
        if used["max_length"] < asked["max_length"]:
            why = f"{stage} did not fit {facts['card']} with longer ones"
            shortened.append((used["max_length"], asked["max_length"], why))
    if shortened:
        longest, asked_for, _ = min(shortened)
        why = "; ".join(why for _, _, why in shortened)
        found.append(f"The training rows of all arms have at most {longest} tokens (asked for {asked_for}; {why})")
    return found


def device_words(machine: dict) -> str:
    """The device of a job: never the machine's name."""
    parts = [machine.get("device", "cpu"), machine.get("cpu_capability"), f"{machine['cpus']} CPUs"]
    parts += [f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"] if "threads" in machine else []
    parts += [f"CUDA {machine['cuda']}"] if machine.get("cuda") and machine.get("device") != "cpu" else []
    return ", ".join(part for part in parts if part)


def model_words(model: dict) -> str:
    """The base model in a few words, by where it comes from."""
    source = model["source"]
    if source == "wheel":
        return f"{model['package']} {model['version']}"
    if source == "hub":
        return f"{model['id']} at {model['revision'][:12]}"
    if source == "path":
        return Path(model["path"]).name
    return f"untrained {model['family']}, {model['layers']} layers of width {model['hidden_size']}"


def without_paths(value: object) -> object:
    """Settings with folders cut off absolute paths: the page tells nothing about the machine that made it."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
