"""What pairwise outcomes say beside the net win rate: bias of position and of length, and strengths of several models.

Position: how much more often the answer won that was shown first. Length: the net win rate if both answers were
equally long (Dubois et al. 2024, without their term for the difficulty of a prompt). Strengths: Bradley and Terry 1952,
with the advantage of the first place as Davidson and Beaver 1977 have it. Intervals of both regressions are
cluster-robust over prompts (statsmodels, G - 1 degrees of freedom), so they are about these checkpoints.
docs/statistics.md, 1.13.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special
from scipy.sparse.csgraph import connected_components
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning, PerfectSeparationWarning

from .intervals import cluster_mean, interval, two_sided_p
from .pairwise_files import of_contrast
from .question import Weights

LARGEST_LOG_ODDS = 15.0  # beyond it a coefficient grows with the iterations, not with the data


@dataclass(frozen=True)
class Preference:
    """One contrast of one pairwise metric: a row of the table preferences. None where it cannot be known: see note.

    wins, ties, losses: judgements, of the contrast's first arm. both_orders: share of comparisons judged in both
    orders of presentation; order_agreement: share of these with one outcome in both. position_bias: net win rate of the
    answer shown first, over comparisons in both orders. equal_length: net win rate at equal length; length_effect: log
    odds for each unit of tanh(difference in length / its standard deviation).
    """

    metric: str
    contrast: str
    n_prompts: int
    wins: int
    ties: int
    losses: int
    both_orders: float | None
    order_agreement: float | None
    position_bias: float | None
    position_lo: float | None
    position_hi: float | None
    position_p: float | None
    equal_length: float | None
    equal_length_lo: float | None
    equal_length_hi: float | None
    length_effect: float | None
    note: str


@dataclass(frozen=True)
class Strength:
    """One arm among those of one pairwise metric: a row of the table strengths.

    strength: log odds of winning against an arm of average strength; None where it is not finite: see note.
    first_advantage: log odds that the first place adds, alike for all.
    """

    metric: str
    arm: str
    n_judgements: int
    strength: float | None
    ci_lo: float | None
    ci_hi: float | None
    first_advantage: float | None
    note: str


@dataclass(frozen=True)
class Regression:
    """Coefficients of a logistic regression (float [k]), their cluster-robust covariance (float [k, k]), and df."""

    coefficients: np.ndarray
    covariance: np.ndarray
    df: int

    def interval(self, direction: np.ndarray, alpha: float) -> tuple[float, float | None, float | None]:
        """(estimate, low, high) of a linear combination; no ends where nothing varies."""
        estimate = float(direction @ self.coefficients)
        variance = float(direction @ self.covariance @ direction)
        if variance <= 1e-12 * float(np.abs(direction) @ np.abs(self.covariance) @ np.abs(direction)):
            return estimate, None, None
        return estimate, *interval(estimate, [(variance, self.df)], alpha)


def logistic(outcome: np.ndarray, design: np.ndarray, clusters: np.ndarray) -> Regression | str:
    """Logistic regression of outcomes in [0, 1] (a tie is half a win), or why there is none.

    outcome: float [n]. design: float [n, k]. clusters: int [n].
    """
    groups, codes = np.unique(clusters, return_inverse=True)
    if len(groups) <= design.shape[1]:
        return f"{len(groups)} clusters of prompts are too few"
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return "what is asked for never varies alone"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (ConvergenceWarning, PerfectSeparationWarning))
        warnings.simplefilter("ignore", RuntimeWarning)
        model = GLM(outcome, design, family=Binomial())
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": codes})
    if not fit.converged or not np.abs(fit.params).max() < LARGEST_LOG_ODDS:
        return "one side wins everywhere, so no finite coefficient fits"
    return Regression(np.asarray(fit.params), np.asarray(fit.cov_params()), len(groups) - 1)


def preference(judgements: pd.DataFrame, metric: str, contrast: str, weights: Weights, alpha: float) -> Preference:
    """The row of one contrast. judgements: from `read_judgements`."""
    own = of_contrast(judgements, weights)
    own = own[own["status"] == "ok"]
    outcome, notes = own["outcome"], []
    place = _position(own, alpha)
    if place["position_bias"] is None:
        notes.append("position: no comparison was judged in both orders")
    elif place["position_lo"] is None:
        notes.append("position: the bias does not vary over clusters of prompts, so it has no interval")
    length = _equal_length(own, alpha)
    if isinstance(length, str):
        notes.append(f"length: {length}")
        length = {}
    elif length["equal_length_lo"] is None:
        notes.append("length: no outcome varies, so the estimate has no interval")
    return Preference(
        metric=metric,
        contrast=contrast,
        n_prompts=int(own["prompt"].nunique()),
        wins=int((outcome == 1).sum()),
        ties=int((outcome == 0.5).sum()),
        losses=int((outcome == 0).sum()),
        **place,
        **{name: length.get(name) for name in ("equal_length", "equal_length_lo", "equal_length_hi", "length_effect")},
        note="; ".join(notes),
    )


def _position(own: pd.DataFrame, alpha: float) -> dict[str, float | None]:
    """Bias of position over the comparisons that were judged in both orders, a difference within each."""
    compared = own.groupby(["train_seed", "prompt", "sample_idx"])
    first = own.assign(first=np.where(own["shown_first"], own["outcome"], 1 - own["outcome"]))
    both = compared["outcome"].transform("size") == 2
    found: dict[str, float | None] = dict.fromkeys(
        ("order_agreement", "position_bias", "position_lo", "position_hi", "position_p")
    )
    found["both_orders"] = float(both.sum() / 2 / compared.ngroups) if len(own) else 0.0
    if not both.any():
        return found
    spread = compared["outcome"].agg(["min", "max", "size"])
    spread = spread[spread["size"] == 2]
    found["order_agreement"] = float((spread["min"] == spread["max"]).mean())
    by_prompt = first[both].groupby("prompt").agg(won=("first", "mean"), cluster=("cluster", "first"))
    groups, codes = np.unique(by_prompt["cluster"], return_inverse=True)
    net = 2 * by_prompt["won"].to_numpy() - 1
    found["position_bias"] = float(net.mean())
    if len(groups) > 1:
        robust = cluster_mean(net, codes, len(groups))
        if robust.se_cr2 > 0:
            found["position_lo"], found["position_hi"] = interval(robust.mean, robust.components, alpha)
            found["position_p"] = two_sided_p(robust.components, robust.mean)
    return found


def _equal_length(own: pd.DataFrame, alpha: float) -> dict[str, float | None] | str:
    """The net win rate at equal length, or why it is not known."""
    longer = own["longer"].to_numpy()
    if len(own) == 0 or np.isnan(longer).any():
        return "length_a and length_b are not given for every judgement"
    if not longer.std() > 0:
        return "the answers do not differ in length by varying amounts"
    columns = [np.ones(len(own)), np.tanh(longer / longer.std())]
    if own["shown_first"].nunique() > 1:
        columns.append(np.where(own["shown_first"], 0.5, -0.5))
    design = np.column_stack(columns)
    fit = logistic(own["outcome"].to_numpy(), design, own["cluster"].to_numpy())
    if isinstance(fit, str):
        return fit
    names = ("equal_length", "equal_length_lo", "equal_length_hi")
    ends = fit.interval(np.eye(len(columns))[0], alpha)
    net = {
        name: None if end is None else float(2 * special.expit(end) - 1) for name, end in zip(names, ends, strict=True)
    }
    return net | {"length_effect": float(fit.coefficients[1])}


def strengths(judgements: pd.DataFrame, metric: str, alpha: float) -> Iterator[Strength]:
    """Bradley-Terry strengths of all arms that were judged, the average being 0; none for fewer than three.

    A finite estimate exists if every arm can be reached from every other along wins and ties (Ford 1957).
    """
    own = judgements[judgements["status"] == "ok"]
    arms = sorted({*own["arm_a"], *own["arm_b"]})
    if len(arms) < 3:
        return
    a, b = (pd.Categorical(own[name], arms).codes for name in ("arm_a", "arm_b"))
    value = own["value"].to_numpy()
    fit = _bradley_terry(a, b, value, len(arms), own["cluster"].to_numpy())
    centre = np.eye(len(arms)) - 1 / len(arms)
    for i, arm in enumerate(arms):
        n = int(((a == i) | (b == i)).sum())
        if isinstance(fit, str):
            yield Strength(metric, arm, n, None, None, None, None, fit)
            continue
        direction = np.zeros(len(fit.coefficients))
        direction[: len(arms) - 1] = centre[i, 1:]
        with_place = len(fit.coefficients) == len(arms)
        estimate, low, high = fit.interval(direction, alpha)
        notes = [] if with_place else ["each pair in one order only, so the advantage of the first is not known"]
        notes += ["no outcome varies, so the estimate has no interval"] if low is None else []
        first = float(fit.coefficients[-1]) if with_place else None
        yield Strength(metric, arm, n, estimate, low, high, first, "; ".join(notes))


def _bradley_terry(a: np.ndarray, b: np.ndarray, value: np.ndarray, n: int, clusters: np.ndarray) -> Regression | str:
    """Coefficients: strengths of arms 1.. against arm 0, then the advantage of the first place if it is estimable."""
    beats = np.zeros((n, n))
    np.add.at(beats, (a, b), value > 0)
    np.add.at(beats, (b, a), value < 1)
    if connected_components(beats > 0, directed=True, connection="strong")[0] > 1:
        return "some arms never win or tie against the others, so no finite strength fits"
    design = np.zeros((len(value), n + 1))
    design[np.arange(len(value)), a] = 1
    design[np.arange(len(value)), b] = -1
    design[:, n] = 1
    fit = logistic(value, design[:, 1:], clusters)
    return logistic(value, design[:, 1:n], clusters) if isinstance(fit, str) else fit
