"""Figures of a study with many metrics, whose names are long: no text covers another one."""

from itertools import combinations

import pandas
import pytest
from matplotlib.text import Annotation, Text

from display.figures import draw_arms, draw_seeds
from display.forest import draw_forest
from display.style import use_style

NAMES = (
    "pref_acc",
    "pass_rate",
    "gsm8k.exact_match.flexible-extract",
    "a_benchmark_of_mine.exact_match.the-last-number",
)
METRICS = {name: (100.0, "percentage points") for name in (*NAMES, "facts.acc")}
CONTRASTS = ("C1", "C2", "C3", "C4")


def rows(**columns):
    """A row for each metric and contrast."""
    return pandas.DataFrame([{"metric": m, "contrast": c, **columns} for m in METRICS for c in CONTRASTS])


@pytest.mark.parametrize("exploratory", [False, True])
def test_the_forest_plot(exploratory):
    use_style()
    intervals = {"ci_method_lo": -0.1, "ci_method_hi": 0.2, "ci_ckpt_lo": 0.0, "ci_ckpt_hi": 0.1}
    found = rows(n_prompts=1319, n_seeds=10, margin=0.05, estimate=0.05, p_adj=0.04, verdict="superior", **intervals)
    found["family"] = ["primary" if contrast in CONTRASTS[:3] else "secondary" for contrast in found["contrast"]]
    found["scope"] = "method"
    figure = draw_forest(found, {"confidence": 0.95, "exploratory": exploratory}, METRICS)
    texts = figure.texts + [axis.xaxis.label for axis in figure.axes]
    assert_apart(figure, texts)
    shown = [text.get_window_extent() for text in texts]
    assert all(box.x1 <= figure.bbox.width and box.x0 >= 0 for box in shown), "a line is cut off"


def test_the_panels():
    use_style()
    arms = pandas.DataFrame(
        [
            {"metric": metric, "arm": arm, "level": "arm", "mean": 0.5, "ci_lo": 0.4, "ci_hi": 0.6}
            for metric in METRICS
            for arm in ("base", "sft", "sft_dpo", "dpo_only")
        ]
    )
    figure = draw_arms(arms, METRICS)
    assert_apart(figure, titles_and_labels(figure))
    seeds = pandas.concat([rows(train_seed=seed, estimate=0.01 * seed) for seed in (1, 2)])
    figure = draw_seeds(seeds, list(CONTRASTS), METRICS)
    assert_apart(figure, titles_and_labels(figure))


def titles_and_labels(figure):
    """The texts around each panel."""
    titles = [text for axis in figure.axes for text in axis.get_children() if isinstance(text, Text)]
    return [text for text in titles if not isinstance(text, Annotation)] + [axis.xaxis.label for axis in figure.axes]


def assert_apart(figure, texts):
    """No two of the texts overlap."""
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    for (one, box), (other, beside) in combinations(boxes, 2):
        assert not box.overlaps(beside), f"{one!r} covers {other!r}"
