"""Rule plot: the figures of the study, each as SVG for the report and PNG for slides.

    cd results/demo && python ../../scripts/plot.py --job '{"rule": "plot", "settings": {}}' --manifest M.json \
        --contrasts stats/contrasts.parquet --arm-means stats/arm_means.parquet \
        --seed-effects stats/seed_effects.parquet --projection stats/projection.parquet \
        --decision stats/decision.json --curves */curves.parquet --audits data/*.audit.json \
        --svg forest.svg arms.svg --png forest.png

forest: paired differences. arms: mean of each arm. seeds: differences seed by seed. categories: differences by prompt
category. power: would more prompts or more seeds help? curves: training. data: lengths of texts. Equal inputs, equal
bytes.
"""

from __future__ import annotations

from pathlib import Path

from arms.job.files import exit_with_message, read_json
from arms.job.manifest import Job
from arms.job.program import JobParser
from display.audit import draw_data, read_audits
from display.figures import draw_arms, draw_categories, draw_curves, draw_power, draw_seeds, read_curves
from display.forest import draw_forest
from display.frames import contrast_order, of_kind, read_frame, units
from display.style import save, use_style

TABLES = ("contrasts", "arm_means", "seed_effects", "projection")


def main() -> None:
    """Read the tables, draw, write."""
    parser = JobParser(__doc__)
    for table in TABLES:
        parser.input(table, help=f"{table}.parquet of rule compare")
    parser.input("decision", help="decision.json of rule compare")
    parser.input("curves", nargs="+", help="<run>/curves.parquet of every trained run")
    parser.input("audits", nargs="+", help="data/<data set>.audit.json of every data set")
    for kind in ("svg", "png"):
        parser.output(kind, nargs="+", key=lambda path: Path(path).name.replace(".", "_"), help=f"<figure>.{kind}")
    args = parser.parse_args()
    job = Job(args)

    tables = [read_frame(getattr(args, table)) for table in TABLES]
    figures, metrics = draw(*tables, read_json(args.decision), read_curves(args.curves), **job.settings)
    figures["data"] = draw_data(read_audits(args.audits))
    for name, figure in figures.items():
        save(figure, *(path for path in (*args.svg, *args.png) if Path(path).stem == name))
    job.say(f"{len(figures)} figures of {metrics} metrics")
    job.finish()


def draw(
    contrasts, arm_means, seed_effects, projection, decision: dict, curves: dict, **shown: bool
) -> tuple[dict, int]:
    """(figures by name, number of metrics) from the tables of the statistics and the curves of each arm.

    shown: of `draw_curves`.
    """
    use_style()
    metrics = units(contrasts, decision["primary_metric"])
    overall = of_kind(contrasts, "overall")
    # judges see pairs, not arms
    with_means = {name: unit for name, unit in metrics.items() if name in set(arm_means["metric"])}
    figures = {
        "forest": draw_forest(overall, decision, metrics),
        "arms": draw_arms(of_kind(arm_means, "overall"), with_means),
        "seeds": draw_seeds(of_kind(seed_effects, "overall"), contrast_order(overall), metrics),
        "categories": draw_categories(of_kind(contrasts, "category"), metrics),
        "power": draw_power(projection, overall, metrics),
        "curves": draw_curves(curves, **shown),
    }
    return figures, len(metrics)


if __name__ == "__main__":
    exit_with_message(main)
