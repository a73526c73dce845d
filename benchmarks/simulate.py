"""False discoveries under the null, and coverage of the intervals: seeded simulations of the code that users run.

    .envs/stats/bin/python benchmarks/simulate.py

Runs every `simulation` case of tests/oracles.json (or of the file in PAIRED_ORACLES) against that file's bands, then
grids with 3 and 5 seeds. Writes benchmarks/simulation.md. Exit status 1 if any band is missed. Takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

# One process for each core; BLAS threads on top of that would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import decisions
import numpy as np
import pandas as pd
from lines import HEADER, line, row, share
from scipy import special

from paired.adjust import adjusted_p
from paired.estimate import hypothesis_id
from paired.plan import read_plan
from paired.scopes import infer, random_generator
from study.vocabulary import ARMS, PRIMARY_CONTRASTS
from study.vocabulary import CONTRASTS as NAMED

ORACLES = Path(os.environ.get("PAIRED_ORACLES", ROOT / "tests/oracles.json"))
OUTPUT = ROOT / "benchmarks/simulation.md"
CONTRASTS = {name: weights for name, (weights, *_) in NAMED.items()}
KINDS = {
    "binary": lambda z: (z > 0).astype(float),
    "ordinal": lambda z: 1.0 + np.digitize(z, (-1.5, -0.5, 0.5, 1.5)),
    "continuous": lambda z: np.exp(z / 2),
}
# Standard deviations of the latent score: shared by all arms and metrics, by all arms, by all seeds of an arm.
PROMPT, PROMPT_METRIC, PROMPT_ARM = 0.7, 0.7, 0.5


def main() -> None:
    """Run everything, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="the sections whose title holds these words; the others stay")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the replicates, nothing written: a check")
    args = parser.parse_args()
    start, cpu = time.monotonic(), os.times()
    kept = dict.fromkeys(SECTIONS, "")
    if args.only:
        written = OUTPUT.read_text(encoding="utf-8").split("\n\n## ")[1:]
        kept |= {text.partition("\n")[0]: f"## {text}".partition("\n\n0 figures")[0].rstrip() for text in written}
    misses = 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        simulate = Simulator(partial(pool.map, chunksize=20))
        for title, rows in SECTIONS.items():
            if args.only and args.only not in title:
                continue
            print(f"\n## {title}\n\n{HEADER}", flush=True)
            lines = []
            for found in rows(simulate, 50 if args.quick else 1):
                misses += found["within"] == "NO"
                lines.append(line(found))
                print(lines[-1], flush=True)
            kept[title] = "\n".join([f"## {title}", "", HEADER, *lines])
    now = os.times()
    spent = now.user + now.system + now.children_user + now.children_system
    spent -= cpu.user + cpu.system + cpu.children_user + cpu.children_system
    print(f"{misses} figures outside their bands. {time.monotonic() - start:.0f} s, {spent:.0f} s of CPU time.")
    if not args.quick:
        outside = sum(line.endswith("| NO |") for text in kept.values() for line in text.splitlines())
        parts = [head(), *filter(None, kept.values()), f"{outside} figures outside their bands."]
        OUTPUT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        sys.exit(1 if misses else 0)


def head() -> str:
    """What the written file says about itself."""
    return (
        "# Simulations\n\nWritten by `benchmarks/simulate.py`; SE is the Monte Carlo standard error.\n\n"
        f"Measured on {len(os.sched_getaffinity(0))} cores ({platform.machine()}), numpy {np.__version__}."
    )


# --- the model of the study: four arms, crossed seeds, three metrics ---------------------------------------------


def latent(
    rng: np.random.Generator, shared: np.ndarray, effects: dict[str, float], n_seeds: int, sigma_seed: float
) -> dict[str, np.ndarray]:
    """Latent scores, arm -> float [S_a, n], of one metric; base has one draw and no seed. shared: float [n]."""
    n = len(shared)
    difficulty = PROMPT * shared + PROMPT_METRIC * rng.standard_normal(n)
    scores = {}
    for arm in ARMS:
        rows = 1 if arm == "base" else n_seeds
        seeds = 0.0 if arm == "base" else sigma_seed * rng.standard_normal((rows, 1))
        own = effects.get(arm, 0.0) + difficulty + PROMPT_ARM * rng.standard_normal(n)
        scores[arm] = own + seeds + rng.standard_normal((rows, n))
    return scores


def study_plan() -> dict:
    """Six contrasts x three metrics; claims of the primary family are about the recipe."""
    metrics = {kind: {"kind": kind, "higher_is_better": True} for kind in KINDS}
    metrics["ordinal"]["step"] = 1
    return {
        "seed": 1,
        "metrics": metrics,
        "primary_metric": "binary",
        "contrasts": {name: CONTRASTS[name] for name in ("C1", "C2", "C3", "C4", "C5", "C6")},
        "primary_contrasts": list(PRIMARY_CONTRASTS),
        "monte_carlo": {"B": 1999},
    }


def study_scores(
    key: tuple, n: int, n_seeds: int, sigma_seed: float, effects: dict[str, float]
) -> dict[str, dict[str, np.ndarray]]:
    """metric -> arm -> float [S_a, n] of one simulated study."""
    rng = np.random.default_rng(key)
    shared = rng.standard_normal(n)
    return {
        metric: {arm: score(z) for arm, z in latent(rng, shared, effects, n_seeds, sigma_seed).items()}
        for metric, score in KINDS.items()
    }


def study_replicate(task: tuple) -> pd.DataFrame:
    """One simulated study: p of every hypothesis and its p_adj within its family, as `analyse` has them (tested).

    task: (key, n, S, categories, sigma_seed, effects). Only `infer` and `adjusted_p` are run: the whole of `analyse`
    takes four times as long, most of it for columns that are not needed here.
    """
    key, n, n_seeds, n_categories, sigma_seed, effects = task
    plan = read_plan(study_plan())
    groups = {("overall", "__all__"): slice(None)}
    groups |= {("category", f"c{c}"): slice(c, None, n_categories) for c in range(n_categories)}
    rows = []
    for metric, arms in study_scores(key, n, n_seeds, sigma_seed, effects).items():
        for contrast, weights in plan.contrasts.items():
            d = np.broadcast_to(sum(weight * arms[arm] for arm, weight in weights.items()), (n_seeds, n))
            for (kind, group), members in groups.items():
                name = hypothesis_id(metric, contrast, kind, group)
                found = infer(
                    d[:, members],
                    binary=metric == "binary",
                    lattice=None if metric == "continuous" else n_seeds,
                    rng=random_generator(plan.seed, name)[0],
                    draws=plan.draws,
                )
                primary = metric == "binary" and kind == "overall" and contrast in plan.primary_contrasts
                rows.append((name, contrast, "primary" if primary else "secondary", found.checkpoint.p, found.method.p))
    table = pd.DataFrame(rows, columns=["hypothesis_id", "contrast", "family", "p_ckpt", "p_method"])
    primary = table["family"] == "primary"
    table.loc[primary, "p_adj"] = adjusted_p(table.loc[primary, "p_method"], "holm")
    table.loc[~primary, "p_adj"] = adjusted_p(table.loc[~primary, "p_ckpt"], "bh")
    return table


class Simulator:
    """Replicates of a design, each with its own random numbers; those that were made already are not made again.

    run: a `map`, over processes or not.
    """

    def __init__(self, run: Callable = map) -> None:
        self.run = run
        self.done: dict[tuple, list] = {}

    def __call__(self, replicate: Callable, reps: int, *design) -> list:
        """`replicate((key, *design))` for `reps` keys, which depend on the design and the replicate only."""
        done = self.done.setdefault((replicate, str(design)), [])
        entropy = int.from_bytes(hashlib.sha256(f"{replicate.__name__}{design}".encode()).digest()[:16], "big")
        done += self.run(replicate, [((entropy, i), *design) for i in range(len(done), reps)])
        return done[:reps]


def rejected(tables: list[pd.DataFrame], column: str, method: str) -> list[float]:
    """For each study, whether the p of one family of all hypotheses are rejected anywhere at 5%: its FDP under H0."""
    return [float((adjusted_p(table[column].to_numpy(), method) <= 0.05).any()) for table in tables]


# --- the oracle file's cases -------------------------------------------------------------------------------------


def oracle_rows(simulate: Simulator, divisor: int) -> Iterator[dict]:
    """Each figure of each simulation case beside its band and the reference."""
    for case in json.loads(ORACLES.read_text())["cases"]:
        if case["kind"] == "simulation":
            reps = case["input"]["reps"] // divisor
            found = run_oracle(case["input"] | {"reps": reps}, simulate)
            for name, band in bands(case["expected"]).items():
                yield row(f"{case['id']}: {name}", reps, *found[name], *band)


def bands(expected: dict) -> dict[str, tuple[float, float]]:
    """Figure -> (low, high), from keys that end in _min or _max, or that hold both ends."""
    found = {}
    for key, value in expected.items():
        if isinstance(value, list):
            found[key] = (value[0], value[1])
        elif key.endswith("_min"):
            found[key.removesuffix("_min")] = (value, 1.0)
        elif key.endswith("_max"):
            found[key.removesuffix("_max")] = (0.0, value)
    return found


def run_oracle(given: dict, simulate: Simulator) -> dict[str, tuple[float, float]]:
    """(mean, SE) of every figure that a case may ask for."""
    if "n_prompts" not in given:
        sigma = float(re.search(r"([\d.]+)\s*\*\s*s_s", given["model"])[1])
        covered = np.array(simulate(normal_replicate, given["reps"], given["n"], given["S"], 1.0, sigma))
        return {"cover_ci_method": share(covered[:, 1]), "cover_ci_checkpoint": share(covered[:, 2])}
    if given["effect"] != "all zero":
        raise ValueError(f"effect {given['effect']!r} is not known")
    design = (given["n_prompts"], given["seeds"], given["categories"], given["sigma_seed"], {})
    tables = simulate(study_replicate, given["reps"], *design)
    return {
        "fdr_bh": share(rejected(tables, "p_ckpt", "bh")),
        "fdr_by": share(rejected(tables, "p_ckpt", "by")),
        "fdr_bh_using_p_ckpt": share(rejected(tables, "p_ckpt", "bh")),
        "fdr_bh_using_p_method": share(rejected(tables, "p_method", "bh")),
        "marginal_type1": share([float((table["p_ckpt"] <= 0.05).mean()) for table in tables]),
    }


# --- the whole procedure -----------------------------------------------------------------------------------------

PROCEDURES = [
    # label, seeds, seed SD, effects, replicates
    ("nothing differs", 3, 0, {}, 1500),
    ("nothing differs", 5, 0, {}, 1500),
    ("only seeds differ", 3, 0.15, {}, 250),
    ("only seeds differ", 5, 0.15, {}, 250),
    ("DPO works, SFT does nothing", 3, 0, {"sft_dpo": 0.25, "dpo_only": 0.25}, 200),
    ("DPO works, SFT does nothing", 5, 0, {"sft_dpo": 0.25, "dpo_only": 0.25}, 200),
]


def procedure_rows(simulate: Simulator, divisor: int) -> Iterator[dict]:
    """Error rates of both families: primary (Holm on p_method) and secondary (BH on p_ckpt), alone and together."""
    for label, n_seeds, sigma, effects, reps in PROCEDURES:
        reps //= divisor
        tables = simulate(study_replicate, reps, 240, n_seeds, 4, sigma, effects)
        null = {
            name
            for name, weights in CONTRASTS.items()
            if abs(sum(weight * effects.get(arm, 0.0) for arm, weight in weights.items())) < 1e-12
        }
        where = f"{label}, S={n_seeds}, seed SD {sigma}"
        for what, hits in (
            ("primary FWER", [float(false_discoveries(t[t["family"] == "primary"], null) > 0) for t in tables]),
            ("secondary FDR", [false_discoveries(t[t["family"] == "secondary"], null) for t in tables]),
            ("FDR over both families", [false_discoveries(t, null) for t in tables]),
            ("FDR, BH on the method p of all", rejected(tables, "p_method", "bh") if not effects else None),
        ):
            # A difference between checkpoints is real when seeds differ: only claims about the recipe are then false.
            if hits is not None and (sigma == 0 or what.startswith("primary") or "method p" in what):
                mean, error = share(hits)
                yield row(f"{where}: {what}", reps, mean, error, 0.0, 0.05 + 2 * error)


def level_rows(simulate: Simulator, divisor: int) -> Iterator[dict]:
    """How often p_ckpt is at most 1% and 0.1%, by metric and by whether the seedless base is in the contrast.

    Not judged: it says where the error rates above come from. Base is one draw and the other side a mean over seeds, so
    the differences of a skewed metric are skewed, and a sign-flip test is exact for symmetric ones only.
    """
    reps = 600 // divisor
    for n_seeds, metric, with_base, level in product((3, 5), KINDS, (False, True), (0.01, 0.001)):
        tables = simulate(study_replicate, reps, 240, n_seeds, 4, 0, {})
        hits = []
        for table in tables:
            own = table[table["hypothesis_id"].str.startswith(metric)]
            own = own[own["contrast"].isin(["C3", "C4", "C5"]) == with_base]
            hits.append(float((own["p_ckpt"] <= level).mean()))
        which = "against base" if with_base else "without base"
        yield row(f"S={n_seeds}, {metric}, {which}: p at most {level}", reps, *share(hits))


def false_discoveries(table: pd.DataFrame, null: set[str]) -> float:
    """False discovery proportion of a study's adjusted p at 5%; null: contrasts without a true difference."""
    found = table[table["p_adj"] <= 0.05]
    return float(found["contrast"].isin(null).mean()) if len(found) else 0.0


# --- coverage ----------------------------------------------------------------------------------------------------


def covers(differences: np.ndarray, of_checkpoints: float, of_recipe: float, codes=None) -> tuple[bool, bool, bool]:
    """Whether (checkpoint interval, method interval, checkpoint interval taken for the recipe) hold the truth."""
    # Few draws: the intervals do not need the p-value.
    found = infer(differences, codes, rng=np.random.default_rng(0), draws=99)

    def holds(ends: tuple[float, float] | None, truth: float) -> bool:
        return ends is not None and ends[0] <= truth <= ends[1]

    return (
        holds(found.checkpoint.ci, of_checkpoints),
        holds(found.method.ci, of_recipe),
        holds(found.checkpoint.ci, of_recipe),
    )


def normal_replicate(task: tuple) -> tuple[bool, bool, bool]:
    """d_si = sigma_p p_i + sigma_s s_s + e_si. task: (seed key, n, S, sigma_p, sigma_s)."""
    key, n, n_seeds, sigma_p, sigma_s = task
    rng = np.random.default_rng(key)
    seeds = sigma_s * rng.standard_normal((n_seeds, 1))
    d = sigma_p * rng.standard_normal(n) + seeds + rng.standard_normal((n_seeds, n))
    return covers(d, float(seeds.mean()), 0.0)


def binary_replicate(task: tuple) -> tuple[bool, bool, bool]:
    """The study's model: 0/1 scores of two arms. task: (seed key, n, S, sigma_seed, minus arm)."""
    key, n, n_seeds, sigma, minus = task
    rng = np.random.default_rng(key)
    prompt_sd = np.sqrt(PROMPT**2 + PROMPT_METRIC**2 + PROMPT_ARM**2 + 1)
    difficulty = np.hypot(PROMPT, PROMPT_METRIC) * rng.standard_normal(n)
    d, of_checkpoints, of_recipe = 0.0, 0.0, 0.0
    for arm, sign, effect in (("dpo_only", 1, 0.3), (minus, -1, 0.0)):
        rows, sd = (1, 0.0) if arm == "base" else (n_seeds, sigma)
        mean = effect + sd * rng.standard_normal((rows, 1))
        z = difficulty + PROMPT_ARM * rng.standard_normal(n) + mean + rng.standard_normal((rows, n))
        d = d + sign * (z > 0)
        of_checkpoints += sign * float(special.ndtr(mean / prompt_sd).mean())
        of_recipe += sign * float(special.ndtr(effect / np.hypot(prompt_sd, sd)))
    return covers(d, of_checkpoints, of_recipe)


def cluster_replicate(task: tuple) -> tuple[bool, bool, bool]:
    """Normal differences that share a part within clusters. task: (seed key, sizes, S, ICC)."""
    key, sizes, n_seeds, icc = task
    rng = np.random.default_rng(key)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    prompt = np.sqrt(icc) * rng.standard_normal(len(sizes))[codes] + np.sqrt(1 - icc) * rng.standard_normal(len(codes))
    d = prompt + 0.5 * rng.standard_normal((n_seeds, len(codes)))
    return covers(d, 0.0, 0.0, codes)


def coverage_rows(simulate: Simulator, divisor: int) -> Iterator[dict]:
    """Coverage over the grids; the checkpoint interval is judged by the truth for the very seeds that were drawn."""
    reps = 4000 // divisor
    grid = [
        (f"normal, n=500, S={s}, prompt SD {p:g}, seed SD {sigma:g}", normal_replicate, (500, s, p, sigma))
        for s, p, sigma in product((3, 5), (0.0, 1.0), (0.0, 0.1, 0.3))
    ]
    grid += [
        (f"binary, n={n}, S={s}, against {minus}, seed SD {sigma:g}", binary_replicate, (n, s, sigma, minus))
        for n, s, minus, sigma in product((200, 1000), (3, 5), ("sft", "base"), (0.0, 0.15, 0.4))
    ]
    grid += [
        (f"clusters of {text}, ICC 0.3, S={s}", cluster_replicate, (sizes, s, 0.3))
        for text, sizes in (("60, 60, 8 x 5", (60, 60, *[5] * 8)), ("5 x 20", (20,) * 5), ("50 x 4", (4,) * 50))
        for s in (3, 5)
    ]
    for label, replicate, design in grid:
        covered = np.array(simulate(replicate, reps, *design), dtype=float)
        # Two clusters with most of the prompts are a known limit of CR2: 92.5 to 94% at this correlation.
        lowest = 0.925 if "60, 60" in label else 0.94
        yield row(f"{label}: checkpoint", reps, *share(covered[:, 0]), lowest, 0.97)
        yield row(f"{label}: method", reps, *share(covered[:, 1]), 0.94, 1.0)


SECTIONS = {
    "Cases of tests/oracles.json": oracle_rows,
    "Error rates of the whole procedure": procedure_rows,
    "False GO and family-wise error over seeds and seed SDs": decisions.error_rows,
    "Power of the decision with the default study's effects": decisions.power_rows,
    "What paired power foresees beside simulated studies": decisions.foresight_rows,
    "Rejection rates of single tests when nothing differs": level_rows,
    "Coverage of 95% intervals": coverage_rows,
}

if __name__ == "__main__":
    main()
