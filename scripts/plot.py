"""Rule plot: the figures of the study, each as SVG for the report and PNG for slides.

    python scripts/plot.py --job '{"rule": "plot", "settings": {}}' --lock envs/stats.yaml --manifest M.json \
        --stats results/demo/stats --curves results/demo/*/curves.parquet --figures results/demo/figures

forest: paired differences. arms: mean of each arm. seeds: differences seed by seed. categories: differences by prompt
category. power: would more prompts or more seeds help? curves: training. Equal inputs, equal bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms.job.files import exit_with_message, read_json
from arms.job.manifest import Job, add_job_arguments
from display.figures import draw_arms, draw_categories, draw_curves, draw_power, draw_seeds, read_curves
from display.forest import draw_forest
from display.frames import contrast_order, of_kind, read_frame, units
from display.style import save, use_style


def main() -> None:
    """Read the tables, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--stats", required=True, metavar="DIR", help="tables and decision.json of rule compare")
    parser.add_argument("--curves", nargs="+", required=True, help="<run>/curves.parquet of every trained run")
    parser.add_argument("--figures", required=True, metavar="DIR", help="output: the folder of the figures")
    args = parser.parse_args()
    job = Job(args)

    stats = Path(args.stats)
    tables = {name: stats / f"{name}.parquet" for name in ("contrasts", "arm_means", "seed_effects", "projection")}
    decision = stats / "decision.json"
    figures, metrics = draw(*map(read_frame, tables.values()), read_json(decision), read_curves(args.curves))
    outputs = {}
    for name, figure in figures.items():
        paths = {f"{name}_{kind}": Path(args.figures) / f"{name}.{kind}" for kind in ("svg", "png")}
        save(figure, *paths.values())
        outputs |= paths
    job.say(f"{len(figures)} figures of {metrics} metrics")
    job.finish(inputs={**tables, "decision": decision, **{path: path for path in args.curves}}, outputs=outputs)


def draw(contrasts, arm_means, seed_effects, projection, decision: dict, curves: dict) -> tuple[dict, int]:
    """(figures by name, number of metrics) from the tables of the statistics and the curves of each arm."""
    use_style()
    metrics = units(contrasts, decision["primary_metric"])
    overall = of_kind(contrasts, "overall")
    figures = {
        "forest": draw_forest(overall, decision, metrics),
        "arms": draw_arms(of_kind(arm_means, "overall"), metrics),
        "seeds": draw_seeds(of_kind(seed_effects, "overall"), contrast_order(overall), metrics),
        "categories": draw_categories(of_kind(contrasts, "category"), metrics),
        "power": draw_power(projection, overall, metrics),
        "curves": draw_curves(curves),
    }
    return figures, len(metrics)


if __name__ == "__main__":
    exit_with_message(main)
