"""The analysis plan: metrics, contrasts, error rates, and what may be claimed, fixed before any score is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .files import ContractError, sha256_json
from .question import Question, Weights

KINDS = ("binary", "ordinal", "continuous", "pairwise")
STEPS = {"binary": 1.0, "pairwise": 0.25}  # the grid of scores where the kind says it; both orders are averaged
FAILED = ("by_cause", "worst")
ROLES = ("primary", "secondary", "guardrail", "exploratory")
LARGEST = 1e60  # of a score: the fourth power of a sum over a million prompts is still a number
SCOPES = ("method", "checkpoint")
WEIGHTINGS = ("micro", "macro")


@dataclass(frozen=True)
class Metric:
    """One metric of the plan.

    kind: binary, ordinal, continuous, or pairwise (which of two answers was preferred: a model's score of a prompt is
    its share of wins, ties half, and differences are net win rates). bounds: (worst possible low, high) or None.
    margin: the smallest difference that matters, in the metric's unit; None: no equivalence or non-inferiority test.
    step: grid of an ordinal metric. role: primary, secondary, guardrail (must not get worse) or exploratory (not
    pre-registered). failed: what a failed output counts as, "by_cause" (docs/statistics.md, 1.8) or "worst", the worst
    value whoever failed.
    """

    name: str
    kind: str
    higher_is_better: bool
    bounds: tuple[float, float] | None = None
    margin: float | None = None
    step: float | None = None
    role: str = "secondary"
    failed: str = "by_cause"

    @property
    def shares(self) -> bool:
        """Whether its means are shares of prompts, whose differences are percentage points."""
        return self.kind in STEPS


@dataclass(frozen=True)
class Plan:
    """The pre-registered analysis plan; `sha256` is that of its canonical JSON, so a changed plan is another plan.

    additions: contrasts of arms that are added to the study, analysed apart (`additions`).
    """

    metrics: dict[str, Metric]
    primary_metric: str
    contrasts: dict[str, Weights]
    primary_contrasts: tuple[str, ...]
    primary_scope: str
    secondary_scope: str
    weighting: str
    seed: int
    alpha: float
    q: float
    min_prompts_category: int
    draws: int
    train_seeds: tuple[int, ...] | None
    pool_seed_variance: bool
    additions: dict[str, Weights]
    question: Question = field(repr=False)
    sha256: str = field(repr=False)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that a contrast names: those of the question in its order, then the others by name."""
        named = {arm for weights in self.contrasts.values() for arm in weights}
        standard = [arm for arm in self.question.arms if arm in named]
        return (*standard, *sorted(named.difference(standard)))


KEYS = {
    "seed", "alpha", "q", "primary_metric", "contrasts", "primary_contrasts", "primary_scope", "secondary_scope",
    "weighting", "min_prompts_category", "monte_carlo", "metrics", "train_seeds",
    "pool_seed_variance", "additions",
}  # fmt: skip
NO_QUESTION = Question()
EXAMPLE = '{"tuned - base": {"tuned": 1, "base": -1}}'


def read_plan(plan: object, *, where: str = "plan", question: Question = NO_QUESTION) -> Plan:
    """Check the plan (keys as in docs/statistics.md, section 2) and fill its defaults.

    where: how messages call it. question: its contrasts and primary ones are those of a plan that names none. Raises
    ContractError naming the key: unknown or missing keys, wrong values, contrast coefficients that do not sum to zero,
    a primary metric or contrast that is not in the plan.
    """
    plan = _object(plan, where, KEYS, {"metrics", "primary_metric"})
    if not isinstance(plan["metrics"], dict) or not plan["metrics"]:
        raise ContractError(f"{where}, key 'metrics': must name at least one metric")
    metrics = {
        name: _read_metric(name, entry, f"{where}, metric {name!r}") for name, entry in sorted(plan["metrics"].items())
    }
    primary = plan["primary_metric"]
    if primary not in list(metrics):
        raise ContractError(f"{where}, key 'primary_metric': {primary!r} is not in 'metrics' ({', '.join(metrics)})")
    contrasts, primary_contrasts = _read_contrasts(plan, where, question)
    additions = _read_additions(plan, where, contrasts)
    train_seeds = plan.get("train_seeds")
    if train_seeds is not None and not (isinstance(train_seeds, list) and all(type(s) is int for s in train_seeds)):
        raise ContractError(f"{where}, key 'train_seeds': must be a list of integers, found {train_seeds!r}")
    monte_carlo = _object(plan.get("monte_carlo") or {}, f"{where}, key 'monte_carlo'", {"B"}, set())
    return Plan(
        metrics=metrics,
        primary_metric=primary,
        contrasts=contrasts,
        primary_contrasts=primary_contrasts,
        primary_scope=_one_of(plan, where, "primary_scope", SCOPES, "method"),
        secondary_scope=_one_of(plan, where, "secondary_scope", SCOPES, "checkpoint"),
        weighting=_one_of(plan, where, "weighting", WEIGHTINGS, "micro"),
        seed=_integer(plan, where, "seed", 0, minimum=0),
        alpha=_probability(plan, where, "alpha"),
        q=_probability(plan, where, "q"),
        min_prompts_category=_integer(plan, where, "min_prompts_category", 20, minimum=1),
        draws=_integer(monte_carlo, f"{where}, key 'monte_carlo'", "B", 19_999, minimum=99),
        pool_seed_variance=_flag(plan, where, "pool_seed_variance"),
        additions=additions,
        train_seeds=None if train_seeds is None else tuple(sorted(set(train_seeds))),
        question=question,
        sha256=sha256_json(plan),
    )


def _read_contrasts(plan: dict, where: str, question: Question) -> tuple[dict[str, Weights], tuple[str, ...]]:
    """(contrasts, names of the primary ones)."""
    given = plan.get("contrasts") or question.contrasts
    if not isinstance(given, Mapping) or not all(isinstance(weights, Mapping) for weights in given.values()):
        raise ContractError(f"{where}, key 'contrasts': must be an object such as {EXAMPLE}, found {given!r}")
    contrasts = {name: dict(weights) for name, weights in given.items()}
    if not contrasts:
        raise ContractError(f"{where}, key 'contrasts': must name at least one contrast, such as {EXAMPLE}")
    _check_weights(contrasts, where)
    default_primary = [name for name in question.primary if name in contrasts] or list(contrasts)
    primary = plan.get("primary_contrasts") or default_primary
    if not isinstance(primary, list | tuple):
        raise ContractError(f"{where}, key 'primary_contrasts': must be a list of contrasts, found {primary!r}")
    for name in primary:
        if name not in list(contrasts):
            raise ContractError(f"{where}, key 'primary_contrasts': {name!r} is not one of {', '.join(contrasts)}")
    return contrasts, tuple(primary)


def _read_additions(plan: dict, where: str, contrasts: dict[str, Weights]) -> dict[str, Weights]:
    """The contrasts of added arms: other ones than the study's own, each with an arm that these do not have."""
    given = plan.get("additions", {})
    if not isinstance(given, Mapping) or not all(isinstance(weights, Mapping) for weights in given.values()):
        raise ContractError(f"{where}, key 'additions': must be an object such as {EXAMPLE}, found {given!r}")
    additions, arms = {name: dict(weights) for name, weights in given.items()}, set().union(*contrasts.values())
    _check_weights(additions, where)
    for name, weights in additions.items():
        if name in contrasts or arms.issuperset(weights):
            raise ContractError(f"{where}, key 'additions': {name!r} adds no arm to the plan's contrasts; put it there")
    return additions


def _check_weights(contrasts: dict[str, Weights], where: str) -> None:
    """ContractError for coefficients that are none, or do not sum to zero."""
    for name, weights in contrasts.items():
        if any(isinstance(k, bool) or not isinstance(k, int) or k == 0 for k in weights.values()):
            raise ContractError(f"{where}, contrast {name!r}: coefficients must be non-zero integers, found {weights}")
        if sum(weights.values()) != 0 or not weights:
            raise ContractError(
                f"{where}, contrast {name!r}: coefficients sum to {sum(weights.values())}, must sum to 0 ({weights})"
            )


def _object(value: object, where: str, known: set[str], required: set[str]) -> dict:
    """The value, if it is an object with the required keys and no others than the known ones."""
    if not isinstance(value, dict):
        raise ContractError(f"{where}: expected an object with keys {', '.join(sorted(known))}")
    for name in sorted(set(value) - known):
        raise ContractError(f"{where}: unknown key {name!r} (known: {', '.join(sorted(known))})")
    for name in sorted(required - set(value)):
        raise ContractError(f"{where}: key {name!r} is missing")
    return value


def _one_of(value: dict, where: str, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    found = value.get(key, default)
    if found not in allowed:
        raise ContractError(f"{where}, key {key!r}: must be one of {', '.join(allowed)}, found {found!r}")
    return found


def _integer(value: dict, where: str, key: str, default: int, minimum: int) -> int:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < minimum:
        raise ContractError(f"{where}, key {key!r}: must be an integer of at least {minimum}, found {found!r}")
    return found


def _flag(value: dict, where: str, key: str) -> bool:
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise ContractError(f"{where}, key {key!r}: must be true or false, found {found!r}")
    return found


def _probability(value: dict, where: str, key: str) -> float:
    found = value.get(key, 0.05)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1:
        raise ContractError(f"{where}, key {key!r}: must be a number between 0 and 1, found {found!r}")
    return float(found)


def _is_number(value: object) -> bool:
    """Whether it is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _read_metric(name: str, entry: object, where: str) -> Metric:
    known = {"kind", "higher_is_better", "bounds", "margin", "step", "role", "failed"}
    entry = _object(entry, where, known, {"kind", "higher_is_better"})
    kind = _one_of(entry, where, "kind", KINDS)
    if not isinstance(entry["higher_is_better"], bool):
        raise ContractError(f"{where}, key 'higher_is_better': must be true or false")
    for key in ("margin", "step"):
        found = entry.get(key)
        if found is not None and not (_is_number(found) and found > 0):
            raise ContractError(f"{where}, key {key!r}: must be a positive number or null, found {found!r}")
    bounds = entry.get("bounds")
    if kind == "continuous" and entry.get("step") is not None:
        raise ContractError(f"{where}, key 'step': a continuous metric has none; set it to null, or kind to ordinal")
    if kind in STEPS:
        if bounds not in (None, [0, 1], (0, 1)):
            raise ContractError(f"{where}, key 'bounds': a {kind} metric has bounds [0, 1], found {bounds!r}")
        bounds = (0.0, 1.0)
    elif bounds is not None:
        pair = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_is_number, bounds))
        if not pair or not bounds[0] < bounds[1]:
            raise ContractError(f"{where}, key 'bounds': must be [low, high] or null, found {bounds!r}")
        bounds = (float(bounds[0]), float(bounds[1]))
    if bounds is not None and (entry.get("margin") or 0) >= bounds[1] - bounds[0]:
        raise ContractError(
            f"{where}, key 'margin': {entry['margin']} is no smaller than the range of the metric, "
            f"{bounds[0]:g} to {bounds[1]:g}; no difference could reach it"
        )
    failed = _one_of(entry, where, "failed", FAILED, "by_cause")
    if failed == "worst" and (bounds is None or kind == "pairwise"):
        raise ContractError(
            f"{where}, key 'failed': 'worst' takes a metric with a worst value of each output ('bounds')"
        )
    return Metric(
        name=name,
        kind=kind,
        higher_is_better=entry["higher_is_better"],
        bounds=bounds,
        margin=entry.get("margin"),
        step=STEPS.get(kind, entry.get("step")),
        role=_one_of(entry, where, "role", ROLES, "secondary"),
        failed=failed,
    )
