"""Rule report: everything a reader needs to judge the study, on one self-contained HTML page.

    python scripts/report.py --job "$(cat job.json)" --lock envs/stats.yaml --manifest report.manifest.json \
        --stats results/demo/stats --figures results/demo/figures --audits results/demo/{data,tokens}/*.audit.json \
        --parity results/demo/parity.json --prompts config/data/heldout_prompts.jsonl \
        --generations results/demo/*/generations.parquet --scores results/demo/scores/metric=pass_rate/part-*.parquet \
        --manifests results/demo/*/train.manifest.json --output results/demo/report.html

This program and scripts/display choose and format; the words around it are in report.html.j2. Generated text is
untrusted: the template escapes everything but the figures. Equal inputs give equal bytes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from arms.job.files import UserError, exit_with_message, read_json, read_jsonl, write_text
from arms.job.manifest import Job, add_job_arguments, read_manifest
from display.examples import choose_examples
from display.frames import read_frame, units
from display.provenance import data_audit, model_words, provenance, without_paths
from display.tables import arm_rows, category_cells, contrast_rows, variant
from display.words import contrast_name, metric_name, number, p_value, spelt_out
from study.vocabulary import ARMS, FIGURES

TEMPLATE = Path(__file__).with_name("report.html.j2")
TABLES = ("contrasts", "arm_means", "heterogeneity", "projection", "missing")


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
    figures = {name: Path(args.figures) / f"{name}.svg" for name in FIGURES}
    args.decision, args.template = Path(args.stats) / "decision.json", TEMPLATE
    decision = read_decision(args.decision)
    page = render(
        args.template,
        settings=without_paths(job.settings),
        model=model_words(job.settings["model"]),
        decision=decision,
        **statistics({name: read_frame(path) for name, path in stats.items()}, decision, args.variants),
        figures={name: inline_svg(path, name) for name, path in figures.items()},
        examples=choose_examples(
            read_jsonl(args.prompts, {"id": str, "prompt": str, "category": str}),
            args.generations,
            args.scores,
            min(job.settings["seeds"]),
        ),
        audit=data_audit(args.audits),
        parity=read_json(args.parity),
        provenance=provenance([read_manifest(path) for path in args.manifests]),
    )
    write_text(args.output, page)
    job.say(f"{args.output}: {len(page) // 1024} KiB, {decision['decision']}")
    listed = [args.prompts, args.parity, *args.variants, *args.audits, *args.generations, *args.scores, *args.manifests]
    inputs = {**stats, **{f"figure_{name}": path for name, path in figures.items()}, **{path: path for path in listed}}
    inputs |= {"decision": args.decision, "template": args.template}
    job.finish(inputs=inputs, outputs={"html": args.output})


def read_decision(path: str | Path) -> dict:
    """decision.json, its sentences spelt out."""
    decision = read_json(path)
    decision["headline"] = spelt_out(decision["headline"])
    for key in ("reasons", "gate_notes"):
        decision[key] = [spelt_out(text) for text in decision[key]]
    return decision


def statistics(tables: dict, decision: dict, variants: list[str]) -> dict[str, object]:
    """What the page shows of the statistics. tables: by name. variants: contrasts.parquet of other recipes."""
    contrasts, primary = tables["contrasts"], decision["primary_metric"]
    metrics = units(contrasts, primary)
    return {
        "metrics": {metric: metric_name(metric) for metric in metrics},
        "units": metrics,
        "arms": ARMS,
        "level": f"{100 * decision['confidence']:g}%",
        "contrasts": contrast_rows(contrasts, "overall", metrics),
        "variants": [variant(path, metrics) for path in variants],
        "categories": category_cells(contrasts, metrics),
        "heterogeneity": tables["heterogeneity"].to_dict("records"),
        "arm_means": arm_rows(tables["arm_means"], metrics),
        "projection": tables["projection"].query("metric == @primary and contrast == 'C1'").to_dict("records"),
        "missing": tables["missing"].to_dict("records"),
    }


def render(template: Path, **context: object) -> str:
    """The page. Everything is escaped but the figures, which are ours."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "spaced": lambda text: text.replace("_", " "),
        "p": p_value,
        "number": number,
        "contrast_name": contrast_name,
    }
    return environment.get_template(template.name).render(context)


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


if __name__ == "__main__":
    exit_with_message(main)
