"""Studies of yes/no scores, many at once: error rates and power of the decision, and what `paired power` foresees.

Sections of benchmarks/simulate.py. Scores are drawn on a latent scale, as there; means and variances of all studies are
then computed together, and decided by `paired.forecast.decisions`, which decides as `paired.decision.decide` does
(tests/unit/stats/test_forecast.py). In claims about checkpoints the test is not a t test, so there each study goes
through `paired.scopes.infer` and `decide`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from lines import row, share
from scipy import optimize, stats

from paired.decision import ScoreFacts, decide
from paired.effects import EffectSizes
from paired.estimate import Estimate, Hypothesis, Missing
from paired.families import make_claims
from paired.forecast import Model, Rule, Studies, chances, decisions
from paired.plan import read_plan
from paired.question import read_question
from paired.rule import SEEDS_FOR_CLAIMS
from paired.scopes import Finding, infer
from study.question import QUESTION
from study.vocabulary import ARMS, CONTRASTS

WEIGHTS = {name: weights for name, (weights, *_) in CONTRASTS.items()}
TRAINED = [arm for arm in ARMS if arm != "base"]
README = {"base": 0.425, "sft": 0.525, "sft_dpo": 0.70, "dpo_only": 0.606}  # rates of the default study (README.md)
MARGIN = 0.05
ALIKE = (0.0, 0.03, 0.08)  # seed SDs, the same in all trained arms
# Latent variances: prompt (all arms), prompt by arm, and the rest, which is new for each seed.
SHARED, OWN, REST = 0.7**2 + 0.7**2, 0.5**2, 1.0
TOTAL = SHARED + OWN + REST


@dataclass(frozen=True)
class Setting:
    """What studies are like. sds: arm -> SD over seeds of its rate. size: prompts in a cluster; icc: latent.

    lineage: correlation of the seed effects of SFT->DPO with those of SFT, from which it starts.
    """

    n_prompts: int
    n_seeds: int
    rates: dict[str, float]
    sds: dict[str, float] = field(default_factory=dict)
    pool: bool = False
    size: int = 1
    icc: float = 0.0
    lineage: float = 0.0

    @property
    def rule(self) -> Rule:
        """The study's."""
        return Rule(WEIGHTS["C1"], WEIGHTS["C2"], MARGIN, pool=self.pool)


def latent_seed(rate: float, sd: float) -> tuple[float, float]:
    """(mean, SD over seeds) on the latent scale that give a rate and its SD over seeds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def moments(spread: float) -> tuple[float, float]:
        mean = stats.norm.ppf(rate) * np.hypot(np.sqrt(TOTAL), spread)
        rates = stats.norm.cdf((mean + spread * nodes) / np.sqrt(TOTAL))
        return mean, float(np.sqrt(weights @ (rates - rate) ** 2))

    spread = optimize.brentq(lambda one: moments(one)[1] - sd, 0.0, 5.0) if sd else 0.0
    return moments(spread)[0], spread


def draw(of: Setting, reps: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """arm -> bool [reps, S_a, n]: whether an answer is right."""
    n, clusters = of.n_prompts, of.n_prompts // of.size

    def prompts(variance: float) -> np.ndarray:
        own = rng.standard_normal((reps, n), dtype=np.float32) * np.sqrt((1 - of.icc) * variance)
        if of.size == 1:
            return own + rng.standard_normal((reps, n), dtype=np.float32) * np.sqrt(of.icc * variance)
        shared = rng.standard_normal((reps, clusters), dtype=np.float32) * np.sqrt(of.icc * variance)
        return own + np.repeat(shared, of.size, axis=1)

    difficulty, scores, effects = prompts(SHARED), {}, {}
    for arm in ARMS:
        runs = 1 if arm == "base" else of.n_seeds
        mean, spread = latent_seed(of.rates[arm], of.sds.get(arm, 0.0))
        effects[arm] = rng.standard_normal((reps, runs, 1))
        if arm == "sft_dpo":
            effects[arm] = of.lineage * effects["sft"] + np.sqrt(1 - of.lineage**2) * effects[arm]
        seeds = (mean + spread * effects[arm]).astype(np.float32)
        rest = rng.standard_normal((reps, runs, n), dtype=np.float32) * np.float32(np.sqrt(REST))
        scores[arm] = (difficulty + prompts(OWN))[:, None] + seeds + rest > 0
    return scores


def observe(of: Setting, scores: dict[str, np.ndarray], contrasts: tuple[str, str]) -> Studies:
    """The studies as their decision sees them: the means of arms and seeds, and CR2 of two contrasts."""
    reps, clusters = len(scores["sft"]), of.n_prompts // of.size
    means = np.stack([np.broadcast_to(s.mean(axis=2), (reps, of.n_seeds)) for s in scores.values()], axis=2)
    v_prompt = []
    for name in contrasts:
        d = sum(weight * scores[arm].mean(axis=1) for arm, weight in WEIGHTS[name].items())
        by_cluster = d.reshape(reps, clusters, of.size).mean(axis=2)
        v_prompt.append(by_cluster.var(axis=1, ddof=1) / clusters)
    arms = tuple(scores)
    blank = np.zeros(len(arms))
    model = Model(arms, np.array([arm != "base" for arm in arms]), blank, np.diag(blank), np.diag(blank), blank)
    return Studies(model, means, np.stack(v_prompt, axis=1), clusters - 1, of.n_prompts)


def simulated(of: Setting, reps: int, key: int, chunk: int = 4_000_000) -> Iterator[dict[str, np.ndarray]]:
    """Scores of `reps` studies, in parts that fit into memory."""
    rng = np.random.default_rng([key, of.n_prompts, of.n_seeds, of.size])
    part = max(1, chunk // (of.n_prompts * of.n_seeds))
    for start in range(0, reps, part):
        yield draw(of, min(part, reps - start), rng)


def decided(of: Setting, reps: int, key: int) -> dict[str, np.ndarray]:
    """Decisions and components of simulated studies: field of `Chances` -> bool [reps]."""
    if of.n_seeds < SEEDS_FOR_CLAIMS:
        return by_the_package(of, reps, key)
    found = [decisions(observe(of, scores, ("C1", "C2")), of.rule) for scores in simulated(of, reps, key)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def by_the_package(of: Setting, reps: int, key: int) -> dict[str, np.ndarray]:
    """The same by `infer`, `make_claims` and `decide`, one study after the other; clusters are single prompts."""
    question = read_question(QUESTION)
    plan = {
        "metrics": {"m": {"kind": "binary", "higher_is_better": True, "margin": MARGIN}},
        "primary_metric": "m",
        "pool_seed_variance": of.pool,
        "contrasts": {name: WEIGHTS[name] for name in ("C1", "C2")},
    }
    plan = read_plan(plan, question=question)
    seeds = tuple(range(1, of.n_seeds + 1))
    facts = {"m": ScoreFacts("m", seeds, {}, [], {"sft": 0.0})}
    gc.freeze()  # statsmodels collects garbage at each of Holm's adjustments
    results = []
    for scores in simulated(of, reps, key):
        for i in range(len(scores["sft"])):
            findings = []
            for name, weights in plan.contrasts.items():
                d = np.asarray(sum(weight * scores[arm][i].astype(float) for arm, weight in weights.items()))
                found = infer(d, binary_pair=True, binary=True, lattice=of.n_seeds)
                hypothesis = Hypothesis(plan.metrics["m"], name, weights, "overall", "__all__", True)
                described = Estimate(hypothesis, 0, 0, EffectSizes(), 0, None, Missing(0, 0), seeds, False, False)
                findings.append(Finding(described, found, None, ""))
            results.append(decide(plan, make_claims(findings, plan), facts, None).result)
    gc.unfreeze()
    return {name: np.array(results) == word for name, word in (("go", "GO"), ("hold", "HOLD"), ("no_go", "NO-GO"))}


def rejections(of: Setting, reps: int, key: int, levels: tuple[float, ...]) -> np.ndarray:
    """bool [levels, reps, 3]: whether two-sided p of C1, C2, C3 in the method scope is at most a level."""
    parts = []
    for scores in simulated(of, reps, key):
        pairs = (("C1", "C2"), ("C2", "C1"), ("C3", "C1"))
        observed = [(pair[0], observe(of, scores, pair)) for pair in pairs]
        for_levels = []
        for level in levels:
            rules = [(Rule(WEIGHTS[name], None, None, level, pool=of.pool), studies) for name, studies in observed]
            found = [decisions(studies, rule) for rule, studies in rules]
            for_levels.append(np.stack([one["gain_superior"] | one["no_go"] for one in found], axis=1))
        parts.append(np.stack(for_levels))
    return np.concatenate(parts, axis=1)


def holm(at_level: np.ndarray) -> np.ndarray:
    """bool [reps, 3]: what Holm rejects at .05, from whether p is at most .05/3, .05/2, .05 (first axis)."""
    third, half, whole = at_level
    two, three = half.sum(axis=1) >= 2, whole.sum(axis=1) >= 3
    first = third.any(axis=1)
    return np.where((first & two & three)[:, None], True, np.where((first & two)[:, None], half, third))


SEED_SDS = [(f"all arms {100 * sd:g}", dict.fromkeys(TRAINED, sd), 0.0) for sd in ALIKE]
SEED_SDS += [(f"{ARMS[arm]} alone {100 * sd:g}", {arm: sd}, 0.0) for arm in TRAINED for sd in ALIKE[1:]]
SEED_SDS += [("all arms 8, SFT→DPO follows SFT at .8", dict.fromkeys(TRAINED, 0.08), 0.8)]
# Where GO would be false: DPO adds nothing after SFT, or SFT->DPO is worse than DPO alone by just the margin.
FALSE = {
    "C1 = 0": {"base": 0.4, "sft": 0.6, "sft_dpo": 0.6, "dpo_only": 0.3},
    "C2 = -margin": {"base": 0.4, "sft": 0.25, "sft_dpo": 0.6, "dpo_only": 0.65},
}
NULL = {
    "nothing differs": (dict.fromkeys(ARMS, 0.5), ("C1", "C2", "C3")),
    "only C1 = 0": ({"base": 0.2, "sft": 0.6, "sft_dpo": 0.6, "dpo_only": 0.4}, ("C1",)),
}


def error_rows(_simulate, divisor: int) -> Iterator[dict]:
    """False GO, and family-wise error of Holm over C1, C2, C3, with both seed variances; 120 prompts."""
    reps = 4000 // divisor
    for n_seeds, (label, sds, lineage), pool in product((3, 5, 10), SEED_SDS, (False, True)):
        where = f"S={n_seeds}, seed SD {label}{', pooled' if pool else ''}"
        worst = max(
            (
                share(decided(Setting(120, n_seeds, rates, sds, pool, lineage=lineage), reps, key)["go"].astype(float)),
                name,
            )
            for key, (name, rates) in enumerate(FALSE.items())
        )
        yield row(f"{where}: false GO, worst at {worst[1]}", reps, *worst[0], 0.0, 0.05)
        for name, (rates, null) in NULL.items():
            of = Setting(120, n_seeds, rates, sds, pool, lineage=lineage)
            at_level = rejections(of, reps, 9, (0.05 / 3, 0.05 / 2, 0.05))
            false = holm(at_level)[:, [("C1", "C2", "C3").index(one) for one in null]].any(axis=1)
            mean, error = share(false.astype(float))
            yield row(f"{where}: family-wise error, {name}", reps, mean, error, 0.0, 0.05 + 2 * error)


def power_rows(_simulate, divisor: int) -> Iterator[dict]:
    """How often the default study's effects end in GO."""
    reps = 8000 // divisor
    for n_seeds, n, pool in product((3, 5, 10), (120, 300), (False, True)):
        found = decided(Setting(n, n_seeds, README, dict.fromkeys(TRAINED, 0.03), pool), reps, 1)
        low = {(3, 120, False): 0.45, (3, 120, True): 0.75}.get((n_seeds, n, pool), -1.0)
        what = f"S={n_seeds}, {n} prompts, seed SD 3{', pooled' if pool else ''}: GO"
        yield row(what, reps, *share(found["go"].astype(float)), low, 1.0)


def foreseen(of: Setting) -> Model:
    """The moments of a setting's scores, from the bivariate normal distribution: what `paired power` is to be told."""
    rates = np.array([of.rates[arm] for arm in ARMS])
    sds = np.array([of.sds.get(arm, 0.0) for arm in ARMS])
    within = np.array([TOTAL + latent_seed(of.rates[arm], of.sds.get(arm, 0.0))[1] ** 2 for arm in ARMS])
    limits = stats.norm.ppf(rates)

    def covariance(a: int, b: int, shared: float) -> float:
        r = shared / np.sqrt(within[a] * within[b])
        both = stats.multivariate_normal.cdf(limits[[a, b]], cov=[[1, r], [r, 1]])
        return float(both - rates[a] * rates[b])

    indices = range(len(ARMS))
    prompt = np.array([[covariance(a, b, SHARED + OWN * (a == b)) for b in indices] for a in indices])
    correlation = 0.0
    if of.size > 1:
        near = np.array([[covariance(a, b, of.icc * (SHARED + OWN * (a == b))) for b in indices] for a in indices])
        weights = np.array([WEIGHTS["C1"].get(arm, 0) for arm in ARMS])
        correlation = float(weights @ near @ weights / (weights @ prompt @ weights))
    trained = np.array([arm != "base" for arm in ARMS])
    rest = rates * (1 - rates) - prompt.diagonal() - sds**2
    return Model(tuple(ARMS), trained, rates, prompt, np.diag(sds**2), rest, correlation, 1.0)


GOOD = {"base": 0.4, "sft": 0.5, "sft_dpo": 0.6, "dpo_only": 0.55}
NO_GAIN = {"base": 0.4, "sft": 0.6, "sft_dpo": 0.6, "dpo_only": 0.5}
HARM = {"base": 0.4, "sft": 0.6, "sft_dpo": 0.5, "dpo_only": 0.5}


def settings() -> list[Setting]:
    """Twenty: seeds, prompts, effects, seed SDs, pooled or not, clusters."""

    def sds(sd: float) -> dict[str, float]:
        return dict.fromkeys(TRAINED, sd)

    return [
        *(Setting(120, 3, README, sds(0.03), pool) for pool in (False, True)),
        *(Setting(200, 5, GOOD, sds(0.03), pool) for pool in (False, True)),
        *(Setting(100, 10, GOOD, sds(0.03), pool) for pool in (False, True)),
        *(Setting(n, 3, README, sds(0.03), True) for n in (60, 300)),
        Setting(1000, 3, README, sds(0.08), True),
        Setting(300, 5, GOOD, sds(0.02)),
        Setting(1000, 10, GOOD, sds(0.08)),
        Setting(120, 3, README, sds(0.0)),
        Setting(300, 5, README, sds(0.08), True),
        Setting(500, 5, NO_GAIN, sds(0.0), True),
        Setting(300, 10, NO_GAIN, sds(0.01)),
        Setting(200, 5, HARM, sds(0.02), True),
        Setting(120, 3, README, sds(0.03), True, 4, 0.5),
        Setting(300, 3, README, {"sft_dpo": 0.05}, True),
        Setting(200, 1, GOOD),
        Setting(50, 2, README),
    ]


def foresight_rows(_simulate, divisor: int) -> Iterator[dict]:
    """What `paired power` says of GO and of NO-GO beside simulated studies; the band is 3 points about it."""
    for key, of in enumerate(settings()):
        reps = (4000 if of.n_seeds >= SEEDS_FOR_CLAIMS else 2000) // divisor
        clusters = of.n_prompts // of.size
        said = chances(foreseen(of), of.rule, of.n_prompts, of.n_seeds, n_clusters=clusters, reps=20_000)
        found = decided(of, reps, 100 + key)
        gains = ", ".join(f"{name} {100 * gain(of.rates, name):+.1f}" for name in ("C1", "C2"))
        sds = ", ".join(sorted({f"{100 * of.sds.get(arm, 0.0):g}" for arm in TRAINED}))
        where = f"S={of.n_seeds}, {of.n_prompts} prompts, {gains}, seed SD {sds}"
        where += (", pooled" if of.pool else "") + (f", clusters of {of.size}" if of.size > 1 else "")
        for name, word in (("go", "GO"), ("no_go", "NO-GO")):
            chance = getattr(said, name)
            mean, error = share(found[name].astype(float))
            if max(chance, mean) > 0.005:
                yield row(f"{where}: {word}", reps, mean, error, max(chance - 0.03, 0.0), min(chance + 0.03, 1.0))


def gain(rates: dict[str, float], contrast: str) -> float:
    """The true difference of a contrast."""
    return sum(weight * rates[arm] for arm, weight in WEIGHTS[contrast].items())
