"""Rule report: everything a reader needs to judge the study, on one self-contained HTML page.

    python scripts/report.py --job "$(cat job.json)" --lock envs/stats.yaml --manifest report.manifest.json \
        --stats results/demo/stats --figures results/demo/figures --audits results/demo/{data,tokens}/*.audit.json \
        --parity results/demo/parity.json --prompts config/data/heldout_prompts.jsonl \
        --generations results/demo/*/generations.parquet --scores results/demo/scores/metric=pass_rate/part-*.parquet \
        --manifests results/demo/*/train.manifest.json --output results/demo/report.html

This program chooses and formats; the words around it are in report.html.j2. Generated text is untrusted: the template
escapes everything but the figures. Equal inputs give equal bytes; times come from the manifests.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from pathlib import Path

from plot import (
    ARMS,
    CONTRASTS,
    METRICS,
    contrast_names,
    metric_order,
    number,
    p_value,
    read_frame,
    unit,
    verdict_words,
)

from arms.job.files import UserError, exit_with_message, read_json, read_jsonl, sha256_bytes, write_text
from arms.job.manifest import Job, add_job_arguments, read_manifest

TEMPLATE = Path(__file__).with_name("report.html.j2")
FIGURES = ("forest", "arms", "seeds", "categories", "power", "curves")
TABLES = ("contrasts", "arm_means", "heterogeneity", "projection", "missing")
EXAMPLES = 6  # prompts shown, at most one of each category
LONGEST_EXAMPLE = 1200  # characters
SHOWN_PACKAGES = (
    "python", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "tokenizers",
    "lm-eval", "numpy", "scipy", "pandas", "pyarrow", "statsmodels", "matplotlib",
)  # fmt: skip


def main() -> None:
    """Read what the rules before left, choose, format, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--stats", required=True, metavar="DIR", help="tables and decision.json of rule compare")
    parser.add_argument("--figures", required=True, metavar="DIR", help="figures of rule plot")
    parser.add_argument("--audits", nargs="+", required=True, help="audits of the data files and of their tokens")
    parser.add_argument("--variants", nargs="*", default=[], help="stats-<recipe>/contrasts.parquet of other recipes")
    parser.add_argument("--parity", required=True, help="what training observed to be alike in the arms")
    parser.add_argument("--prompts", required=True, help="held-out prompts (JSON Lines)")
    parser.add_argument("--generations", nargs="+", required=True, help="<run>/generations.parquet of every run")
    parser.add_argument("--scores", nargs="+", required=True, help="part-<run>.parquet: graded answers of every run")
    parser.add_argument(
        "--manifests", nargs="+", required=True, help="manifests of model, training, grading, statistics"
    )
    parser.add_argument("--output", required=True, help="the page, HTML")
    args = parser.parse_args()
    job = Job(args)

    stats = {name: Path(args.stats) / f"{name}.parquet" for name in TABLES}
    tables = {name: read_frame(path) for name, path in stats.items()}
    decision_path = Path(args.stats) / "decision.json"
    decision = read_json(decision_path)
    decision["headline"] = spelt_out(decision["headline"])
    for key in ("reasons", "gate_notes"):
        decision[key] = [spelt_out(text) for text in decision[key]]
    contrasts = tables["contrasts"]
    metrics = metric_order(contrasts, decision["primary_metric"])
    kinds = contrasts.groupby("metric")["kind"].first()
    units = {metric: unit(metric, kinds[metric]) for metric in metrics}
    projection = tables["projection"].query("metric == @metrics[0]")
    figures = {name: Path(args.figures) / f"{name}.svg" for name in FIGURES}
    prompts = read_jsonl(args.prompts, {"id": str, "prompt": str, "category": str})
    manifests = [read_manifest(path) for path in args.manifests]
    page = render(
        settings=without_paths(job.settings),
        model=model_words(job.settings["model"]),
        contrast_names={key: name for key, (name, _) in CONTRASTS.items()},
        metrics={metric: METRICS.get(metric, metric) for metric in metrics},
        units=units,
        decision=decision,
        level=f"{100 * decision['confidence']:g}%",
        contrasts=[contrast_row(row, units) for row in sorted_rows(contrasts, "overall", metrics)],
        variants=[variant(path, metrics, units) for path in args.variants],
        categories=category_tables(contrasts, metrics, units),
        heterogeneity=tables["heterogeneity"].to_dict("records"),
        arm_means=arm_rows(tables["arm_means"], metrics, units),
        projection=projection[projection["contrast"] == "C1"].to_dict("records"),
        missing=tables["missing"].to_dict("records"),
        arms=ARMS,
        figures={name: inline_svg(path, name) for name, path in figures.items()},
        examples=choose_examples(prompts, args.generations, args.scores, min(job.settings["seeds"])),
        audit=data_audit(args.audits),
        parity=read_json(args.parity),
        provenance=provenance(manifests),
    )
    write_text(args.output, page)
    job.say(f"{args.output}: {len(page) // 1024} KiB, {decision['decision']}")
    listed = [args.prompts, args.parity, *args.variants, *args.audits, *args.generations, *args.scores, *args.manifests]
    inputs = {**stats, **{f"figure_{name}": path for name, path in figures.items()}, **{path: path for path in listed}}
    inputs |= {"decision": decision_path, "template": TEMPLATE}
    job.finish(inputs=inputs, outputs={"html": args.output})


def render(**context: object) -> str:
    """The page. Everything is escaped but the figures, which are ours."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "spaced": lambda text: text.replace("_", " "),
        "p": p_value,
        "number": number,
    }
    return environment.get_template(TEMPLATE.name).render(context)


def inline_svg(path: Path, name: str):
    """A figure as an element of the page: no outside names, ids that no other figure has, size left to the page."""
    from markupsafe import Markup

    try:
        svg = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; rule plot makes it") from None
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    # Only matplotlib's own output on our numbers and the study's category names comes here, already escaped by it.
    return Markup(f'<svg {box} role="img" aria-labelledby="caption-{name}">{body}'.replace("xlink:href", "href"))  # noqa: S704


def sorted_rows(contrasts, group_kind: str, metrics: list[str]) -> list:
    """Rows of contrasts.parquet of one kind of group, by metric, category and contrast (primary ones first)."""
    rows = contrasts[contrasts["group_kind"] == group_kind]
    names = contrast_names(contrasts)
    return sorted(rows.itertuples(), key=lambda row: (metrics.index(row.metric), row.group, names.index(row.contrast)))


def variant(path: str, metrics: list[str], units: dict) -> dict:
    """Name and primary contrasts of another recipe; its folder is stats-<key>~<value>[-<key>~<value>...]."""
    label = Path(path).parent.name.removeprefix("stats-")
    rows = sorted_rows(read_frame(path), "overall", metrics)
    return {
        "name": recipe_words(label),
        "rows": [contrast_row(row, units) for row in rows if row.family == "primary"],
    }


def contrast_row(row, units: dict) -> dict:
    """A row of contrasts.parquet in the form that tables show."""
    factor, label = units[row.metric]
    name, question = CONTRASTS.get(row.contrast, (row.contrast, ""))
    return {key: getattr(row, key) for key in ("metric", "group", "family", "n_prompts")} | {
        "name": name,
        "question": question,
        "estimate": number(row.estimate, factor),
        "p": p_value(row.p_adj) or "—",
        "unit": "points" if factor == 100 else label,
        "ci_method": ends(row.ci_method_lo, row.ci_method_hi, factor),
        "ci_ckpt": ends(row.ci_ckpt_lo, row.ci_ckpt_hi, factor),
        "verdict": verdict_words(row.verdict),
        "kind": row.verdict.partition("_")[0],
        "words": spelt_out(row.words),
    }


def spelt_out(text: str) -> str:
    """A sentence of the statistics with the metrics' names in place of their keys."""
    return re.sub("|".join(METRICS), lambda key: METRICS[key[0]].lower(), text)


def ends(low: float, high: float, factor: float, signed: bool = True) -> str:
    """An interval as text, a dash if there is none."""
    return "—" if math.isnan(low) else f"{number(low, factor, signed)} to {number(high, factor, signed)}"


def category_tables(contrasts, metrics: list[str], units: dict) -> dict[str, dict]:
    """Metric -> category -> a cell for each of the first three contrasts."""
    shown = contrast_names(contrasts)[:3]
    found: dict[str, dict] = {}
    for row in sorted_rows(contrasts, "category", metrics):
        if row.contrast in shown:
            found.setdefault(row.metric, {}).setdefault(row.group, []).append(contrast_row(row, units))
    return found


def arm_rows(table, metrics: list[str], units: dict) -> list[dict]:
    """Arm -> for each metric the mean over seeds with its interval, and the mean of every seed."""
    table = table[table["group_kind"] == "overall"]
    found = []
    for arm, label in ARMS.items():
        cells = []
        for metric in metrics:
            factor, _ = units[metric]
            rows = table[(table["arm"] == arm) & (table["metric"] == metric)]
            pooled = rows[rows["level"] == "pooled"].iloc[0]
            seeds = rows[rows["level"] == "seed"].sort_values("train_seed")["mean"]
            cells.append(
                {
                    "mean": number(pooled["mean"], factor, signed=False),
                    "ci": ends(pooled["ci_lo"], pooled["ci_hi"], factor, signed=False),
                    "seeds": ", ".join(number(mean, factor, signed=False) for mean in seeds) if arm != "base" else "",
                }
            )
        found.append({"arm": arm, "name": label, "cells": cells})
    return found


def choose_examples(prompts: list[dict], generations: list[str], scores: list[str], seed: int) -> list[dict]:
    """Answers of every arm at one seed to one prompt of each category.

    Nobody picks them: of each category's prompts on which the arms disagree (of all, if none), the one whose id has
    the smallest sha256.
    """
    runs = {("base" if arm == "base" else f"{arm}-seed{seed}"): arm for arm in ARMS}
    answers = {runs[run]: first_samples(path) for path in generations if (run := Path(path).parent.name) in runs}
    graded = {runs[run]: first_samples(path) for path in scores if (run := Path(path).stem[5:]) in runs}
    for arm in ARMS:
        if arm not in answers or arm not in graded:
            raise UserError(f"no answers or scores of arm {arm!r} at seed {seed} among --generations and --scores")
    chosen: dict[str, dict] = {}
    for row in sorted(prompts, key=lambda row: sha256_bytes(row["id"].encode())):
        marks = {arm: mark(graded[arm].loc[row["id"]]) for arm in ARMS}
        row = {**row, "disagree": len({marks[arm] == "pass" for arm in ARMS}) == 2}
        row["answers"] = [
            {"arm": arm, "name": label, "mark": marks[arm], **clipped(answers[arm].loc[row["id"], "text"])}
            for arm, label in ARMS.items()
        ]
        best = chosen.get(row["category"])
        if best is None or row["disagree"] > best["disagree"]:
            chosen[row["category"]] = row
    return [{**row, "prompt": printable(row["prompt"])} for _, row in sorted(chosen.items())][:EXAMPLES]


def first_samples(path: str):
    """The first sample of each prompt in a table of answers or scores, by prompt_id."""
    frame = read_frame(path)
    return frame[frame["sample_idx"] == 0].assign(prompt_id=frame["prompt_id"].astype(str)).set_index("prompt_id")


def mark(score) -> str:
    """pass, fail, or why there is no grade (an empty answer counts as failed)."""
    if score["status"] != "ok":
        return score["status"].replace("_", " ")
    return "pass" if score["value"] == 1 else "fail"


def clipped(text: str | None) -> dict[str, object]:
    """A generated text in printable form, and how many characters of a long one are left out."""
    text = printable(text or "")
    return {"text": text[:LONGEST_EXAMPLE], "more": max(0, len(text) - LONGEST_EXAMPLE)}


def printable(text: str) -> str:
    """Text without the control characters that HTML forbids."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)


def data_audit(paths: list[str]) -> dict:
    """The audits as tables: one row for each data file, counts by category and by negative, warnings."""
    audits = {
        f"{Path(path).parent.name}/{Path(path).name.removesuffix('.audit.json')}": read_json(path) for path in paths
    }
    try:
        pairs, heldout = audits["data/preferences"], audits["data/heldout"]
        tokens = {key[7:]: audit for key, audit in audits.items() if key[:7] == "tokens/"}
        described = {
            "sft": ("SFT rows", audits["data/sft"]["sft"]),
            "train_pairs": ("Training pairs", pairs["pairs"]),
            "heldout_pairs": ("Held-out pairs", heldout["heldout_pairs"]),
            "heldout_prompts": ("Held-out prompts", heldout["heldout_prompts"]),
        }
        rows = [{"name": name, **found, "tokens": tokens[key]} for key, (name, found) in described.items()]
    except KeyError as error:
        raise UserError(f"--audits: {error} is missing; found {', '.join(sorted(audits))}") from None
    return {
        "rows": rows,
        "categories": sorted({category for row in rows for category in row["categories"]}),
        "negatives": sorted({name for row in rows for name in row.get("negatives", {})}),
        "pairs": pairs["pairs"],
        "heldout": heldout,
        "near_duplicates": len(heldout["near_duplicates"]),
        "warnings": [*audits["data/sft"]["warnings"], *pairs["warnings"]],
    }


def provenance(manifests: list[dict]) -> dict:
    """What the manifests say about code, environments and devices."""
    environments = {m["lock"]["file"].removesuffix(".yaml"): m for m in manifests if m["lock"]}
    environments = {name: environments[name] for name in sorted(environments, reverse=True)}
    training = [m for m in manifests if m["rule"] in ("train_sft", "train_dpo")]
    found = {name for m in environments.values() for name in m["versions"]}
    model = next((m for m in manifests if m["rule"] == "fetch_model"), None)
    return {
        "weights_sha256": model["outputs"]["weights"]["sha256"] if model else None,
        "commits": sorted({m["git"]["sha"] or "outside git" for m in manifests}),
        "dirty": sum(bool(m["git"]["dirty"]) for m in manifests),
        "manifests": len(manifests),
        "locks": sorted(
            {(m["lock"]["file"].removesuffix(".yaml"), m["lock"]["sha256"]) for m in manifests if m["lock"]}
        ),
        "packages": [name for name in SHOWN_PACKAGES if name in found],
        "versions": {name: m["versions"] for name, m in environments.items()},
        "devices": Counter(device_words(m["machine"]) for m in training),
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
            shortened.append((used["max_length"], f"{stage} did not fit {facts['card']} with longer ones"))
    if shortened:
        longest, why = min(shortened)[0], "; ".join(words for _, words in shortened)
        found.append(
            f"The training rows of all arms have at most {longest} tokens (asked for {asked['max_length']}; {why})"
        )
    return found


def listed(numbers) -> str:
    """Numbers in words: 8, 4 and 2."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def recipe_words(label: str) -> str:
    """The label of another recipe, such as beta~0.3-loss_type~ipo, in words."""
    return re.sub(r"-(?=[a-z_]+~)", ", ", label).replace("~", " ").replace("_", " ")


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


if __name__ == "__main__":
    exit_with_message(main)
