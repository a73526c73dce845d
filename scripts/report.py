"""Rule report: everything a reader needs to judge the study, on one self-contained HTML page.

    cd results/demo && python ../../scripts/report.py --job "$(cat job.json)" --manifest report.manifest.json \
        --decision stats/decision.json --tables stats/*.parquet --figures figures/*.svg --audits */*.audit.json \
        --parity parity.json --prompts data/heldout_prompts.parquet --generations */generations.parquet \
        --scores scores/metric=pass_rate/part-*.parquet --manifests */train.manifest.json \
        --template ../../scripts/report.html.j2 --style ../../scripts/report.css --script ../../scripts/report.js \
        --html report.html

This program and scripts/display choose and format; the words around it are in report.html.j2. Generated text is
untrusted: the template escapes all but what is ours. Equal inputs give equal bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
from collections import defaultdict
from pathlib import Path

from arms.data import requests
from arms.job.files import UserError, exit_with_message, read_json, write_text
from arms.job.formats import read_rows
from arms.job.manifest import Job, read_manifest
from arms.job.program import JobParser
from display.audit import oddities, read_audits
from display.checklist import findings
from display.examples import heldout_examples, task_examples
from display.frames import arms_in, of_kind, read_frame, units
from display.judges import agreement, judge_rows, read_judges
from display.provenance import data_audit, model_words, provenance, without_paths
from display.standing import Records
from display.tables import arm_rows, category_cells, contrast_rows, variant, variation_rows
from display.words import contrast_name, metric_name, number, p_value, spelt_out
from study.vocabulary import ADDED_ARMS, ADDED_CONTRASTS, ALL_ARMS, METRICS


def main() -> None:
    """Read what the rules before left, choose, format, write."""
    parser = JobParser(__doc__)
    parser.input("decision", help="decision.json of rule compare")
    parser.input("tables", nargs="+", key=stem, help="contrasts.parquet and other tables of rule compare")
    parser.input("template", help="the words around it, report.html.j2")
    parser.input("style", help="how it looks, report.css")
    parser.input("script", help="what narrows, marks and sorts, report.js; the page is complete without it")
    parser.input("figures", nargs="+", key=lambda path: f"figure_{stem(path)}", help="SVG files of rule plot")
    parser.input("audits", nargs="+", help="audits of the data files and of their tokens")
    parser.input("parity", key=str, help="what training observed to be alike in the arms")
    parser.input("variants", nargs="*", default=[], help="stats-<recipe>/contrasts.parquet of other recipes")
    parser.input("prompts", key=str, default=None, help="checked table of the held-out prompts")
    parser.input("generations", nargs="*", default=[], help="<run>/generations.parquet of every run")
    parser.input("scores", nargs="*", default=[], help="part-<run>.parquet: graded answers of every run")
    parser.input("task_requests", nargs="*", default=[], help="<task>.requests.parquet of every task")
    parser.input("task_answers", nargs="*", default=[], help="<run>/<task>.answers.parquet of every task and run")
    parser.input("task_scores", nargs="*", default=[], help="its graded answers, by the metric that is shown")
    parser.input("judges", nargs="*", default=[], help="judge/<judge>.json of every judge")
    parser.input("judgements", nargs="*", default=[], help="judge/<judge>/*.parquet: what they wrote")
    parser.input("manifests", nargs="+", help="manifests of model, training, grading, statistics")
    parser.output("html", help="the page")
    parser.add_argument("--skipped", type=Path, help="jobs that did not have to run again after all, one a line")
    args = parser.parse_args()
    job = Job(args)

    decision, parity = read_decision(args.decision), read_json(args.parity)
    manifests, audit = [read_manifest(path) for path in args.manifests], data_audit(args.audits)
    found = provenance(manifests)
    page = render(
        Path(args.template),
        **look(Path(args.style), Path(args.script)),
        settings=without_paths(job.settings),
        model=model_words(job.settings["model"]),
        decision=decision,
        **statistics({stem(path): read_frame(path) for path in args.tables}, decision, args.variants),
        figures={stem(path): inline_svg(path) for path in args.figures},
        examples=examples(args, job),
        **judges(args, decision),
        audit=audit | oddities(read_audits(args.audits)),
        parity=parity,
        checklist=findings(Records(job.settings, decision, parity, audit, manifests, found["memory"])),
        provenance=found,
        skipped=args.skipped.read_text(encoding="utf-8").splitlines() if args.skipped and args.skipped.exists() else [],
    )
    write_text(args.html, page)
    job.say(f"{args.html}: {len(page) // 1024} KiB, {decision['decision']}")
    job.finish()


def examples(args: argparse.Namespace, job: Job) -> list[dict]:
    """What the page shows of the answers: a group for the held-out prompts, if there are any, and for each task."""
    seed, found = min(job.settings["seeds"]), []
    if args.prompts:
        prompts = list(read_rows(args.prompts, {"id": str, "prompt": str, "category": str}))
        found.append(heldout_examples(prompts, args.generations, args.scores, seed))
    scores = defaultdict(list)
    for path in args.task_scores:
        scores[Path(path).parent.name.removeprefix("metric=")].append(path)
    for path, (metric, graded) in zip(args.task_requests, scores.items(), strict=True):
        name = metric.partition(".")[0]
        own = [Path(answers) for answers in args.task_answers if Path(answers).name == f"{name}.answers.parquet"]
        answers = {answers.parent.name: requests.read_rows(answers, requests.ANSWERS) for answers in own}
        asked = [
            {**row, "id": requests.item_id(name, row["task"], row["doc_id"])}
            for row in requests.read_rows(path, requests.REQUESTS)
        ]
        shown = task_examples(metric, asked, answers, graded, seed)
        found.append(shown | {"lower_is_better": metric in job.settings["lower_is_better"]})
    return found


def look(style: Path, script: Path) -> dict[str, object]:
    """Style and script of the page, and the script's hash: a browser runs this one and no other."""
    from markupsafe import Markup

    code = script.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return {"style": Markup(style.read_text(encoding="utf-8")), "script": Markup(code), "script_sha256": digest}  # noqa: S704


def judges(args: argparse.Namespace, decision: dict) -> dict[str, object]:
    """What the page shows of judges; nothing without them."""
    if not args.judges:
        return {"judges": [], "judge_agreement": []}
    preferences = next(read_frame(path) for path in args.tables if stem(path) == "preferences")
    found = read_judges(args.judges, args.judgements)
    return {"judges": judge_rows(found, preferences, 1 - decision["confidence"]), "judge_agreement": agreement(found)}


def stem(path: str) -> str:
    """The name of a table or figure: that of its file."""
    return Path(path).stem


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
    metrics, arms = units(contrasts, primary), arms_in(tables["arm_means"]["arm"])
    return {
        "metrics": {metric: metric_name(metric) for metric in metrics},
        "meanings": {METRICS[metric][1]: METRICS[metric][3] for metric in METRICS if metric in metrics},
        "units": metrics,
        "additions": additions(decision, arms),
        "arms": {arm: ALL_ARMS[arm] for arm in arms},
        "level": f"{100 * decision['confidence']:g}%",
        "contrasts": contrast_rows(contrasts, "overall", metrics),
        "variants": [variant(path, metrics) for path in variants],
        "categories": category_cells(contrasts, metrics),
        "heterogeneity": tables["heterogeneity"].to_dict("records"),
        "with_means": [metric for metric in metrics if metric in set(tables["arm_means"]["metric"])],
        "arm_means": arm_rows(tables["arm_means"], metrics),
        "projection": tables["projection"].query("metric == @primary and contrast == 'C1'").to_dict("records"),
        "variation": variation_rows(tables["variation"], metrics),
        "seed_spread": of_kind(tables["seed_spread"], "overall").to_dict("records"),
        "missing": tables["missing"].eval("n_missing = n_outputs * rate_missing").to_dict("records"),
    }


def additions(decision: dict, arms: list[str]) -> dict | None:
    """What the page says of added arms; None without them."""
    if "additions" not in decision:
        return None
    notes = [spelt_out(note) for note in decision["additions"]["gate_notes"]]
    names = [name for arm, name in ADDED_ARMS.items() if arm in arms]
    late = [contrast_name(name) for name in ADDED_CONTRASTS if name in decision["additions"]["late"]]
    return {**decision["additions"], "arms": names, "late": late, "gate_notes": notes}


def render(template: Path, **context: object) -> str:
    """The page. Everything is escaped but the figures and the meanings of the metrics, which are ours."""
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


def inline_svg(path: str):
    """A figure as an element of the page: no outside names, ids that no other figure has, size left to the page."""
    from markupsafe import Markup

    try:
        svg = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; rule plot makes it") from None
    name, svg = stem(path), svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    # Only matplotlib's own output on our numbers and the study's category names comes here, already escaped by it.
    return Markup(f'<svg {box} role="img" aria-labelledby="caption-{name}">{body}'.replace("xlink:href", "href"))  # noqa: S704


if __name__ == "__main__":
    exit_with_message(main)
