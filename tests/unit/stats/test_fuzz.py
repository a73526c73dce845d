"""Score tables of every odd shape: a result in which every row is explained, or one clear error.

200 tables here; SFT_VS_DPO_ALL_TESTS=1 makes it 10 000. A table is made from its number alone, so a failure
is repeated with `make_table(np.random.default_rng(NUMBER))`.
"""

import csv
import itertools
import os

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

from paired.analysis import analyse
from paired.compare import parse_arguments, read_logs
from paired.files import ContractError
from paired.plan import read_plan
from paired.prompts import read_prompts
from paired.question import Question
from paired.summary import write_up

TABLES = 10_000 if os.environ.get("SFT_VS_DPO_ALL_TESTS") else 200
FIRST = int(os.environ.get("FUZZ_FIRST", 0))
FAILED = ("empty", "truncated", "parse_fail", "error", "judge_fail")
# Why a row may have no interval, no p, or less than its design.
WHY = {"too_few_clusters", "degenerate_zero_diff", "degenerate_zero_variance", "category_of_one_cluster"}


def make_table(rng):
    """(rows, plan or None, what was done to the rows afterwards)."""
    arms = [f"m{i}" for i in range(rng.integers(2, 5))]
    seeds = sorted(rng.choice(9, rng.integers(1, 5), replace=False).tolist())
    of_arm = {arm: [""] if rng.random() < 0.3 else seeds for arm in arms}
    n, samples = int(rng.choice([1, 2, 3, 5, 9, 24])), int(rng.choice([1, 1, 1, 3]))
    categories = [f"c{rng.integers(0, rng.choice([1, 3, 12]))}" for _ in range(n)]
    clusters = [f"k{rng.integers(0, rng.choice([1, 2, 40]))}" if rng.random() < 0.5 else f"own{i}" for i in range(n)]
    rows, metrics = [], {}
    for name in ("one", "two", "three")[: rng.integers(1, 4)]:
        kind = str(rng.choice(["binary", "ordinal", "continuous"]))
        metrics[name] = make_metric(rng, kind)
        only = set(rng.choice(sorted(set(categories)), 1)) if rng.random() < 0.2 else set(categories)
        value = make_values(rng, kind)
        failures = rng.choice([0, 0, 0, 0.05, 0.5])
        for arm in arms:
            for seed, i, k in itertools.product(of_arm[arm], range(n), range(samples)):
                if categories[i] in only:
                    status = str(rng.choice(FAILED)) if rng.random() < failures else "ok"
                    shown = value(arm, seed, i) if status == "ok" else ""
                    row = {"arm": arm, "train_seed": seed, "prompt_id": f"p{i}", "sample_idx": k, "metric": name}
                    rows.append(
                        row
                        | {"value": shown, "status": status}
                        | {"category": categories[i], "cluster_id": clusters[i]}
                    )
    plan = None
    if rng.random() < 0.7:
        plan = {
            "metrics": metrics,
            "primary_metric": "one",
            "contrasts": {f"{b} - {a}": {b: 1, a: -1} for a, b in itertools.combinations(arms, 2)},
            "primary_scope": str(rng.choice(["method", "checkpoint"])),
            "secondary_scope": str(rng.choice(["method", "checkpoint"])),
            "pool_seed_variance": bool(rng.random() < 0.3),
            "weighting": str(rng.choice(["micro", "macro"])),
            "min_prompts_category": int(rng.integers(1, 8)),
            "monte_carlo": {"B": 99},
        }
    return rows, plan, corrupt(rng, rows) if rng.random() < 0.35 else None


def make_metric(rng, kind):
    bounds = {"binary": [0, 1], "ordinal": [0, 4], "continuous": [-1e51, 1e51]}[kind]
    metric = {"kind": kind, "higher_is_better": bool(rng.random() < 0.7), "margin": rng.choice([None, 0.1])}
    if kind == "binary" or rng.random() < 0.4:
        metric |= {"bounds": bounds, "failed": str(rng.choice(["by_cause", "worst"]))}
    return metric | ({"step": 0.5} if kind == "ordinal" and rng.random() < 0.7 else {})


def make_values(rng, kind):
    """A function of arm, seed and prompt: noise, or one of the shapes that have no variance somewhere."""
    draw = {
        "binary": lambda: int(rng.integers(2)),
        "ordinal": lambda: int(rng.integers(9)) / 2,
        "continuous": lambda: float(rng.normal() * scale),
    }[kind]
    scale = float(rng.choice([1, 1, 1, 1e-300, 1e-30, 1e50]))
    known = {}
    shapes = {
        "noise": lambda arm, seed, i: None,
        "all equal": lambda arm, seed, i: "same",
        "one arm constant": lambda arm, seed, i: arm if arm == "m0" else None,
        "every arm constant": lambda arm, seed, i: arm,
        "seeds alike": lambda arm, seed, i: (arm, i),
        "prompts alike": lambda arm, seed, i: (arm, seed),
        "arms alike": lambda arm, seed, i: i,
    }
    key = shapes[str(rng.choice(["noise"] * 3 + list(shapes)))]

    def value(arm, seed, i):
        name = key(arm, seed, i)
        return draw() if name is None else known.setdefault(name, draw())

    return value


def corrupt(rng, rows):
    """Spoil one row, or the design; returns what, if that must be refused."""
    i = int(rng.integers(len(rows)))
    cells = {
        "value": ["nan", "inf", "-1e999", "yes", "", "1e308", "0x1p3", " "],
        "train_seed": ["one", "1.5", "-2", "1e12", "nan"],
        "sample_idx": ["-1", "0.5", "40000", "x"],
        "prompt_id": [""],
        "arm": [""],
        "metric": [""],
        "status": ["fine"],
        "gen_sha256": ["abc"],
    }
    column = str(rng.choice([*cells, "double", "absent row", "absent seed"]))
    if column == "double":
        rows.insert(int(rng.integers(len(rows))), dict(rows[i]))
    elif column == "absent row" and len(rows) > 1:
        lost = rows.pop(i)
        # The last row of a model, of a seed, or of an item that no other run has, is no gap but another design.
        alike = [all(row[name] == lost[name] for name in ("metric", "prompt_id", "sample_idx")) for row in rows]
        return (
            column
            if any(alike) and any(row["arm"] == lost["arm"] and row["train_seed"] == lost["train_seed"] for row in rows)
            else None
        )
    elif column == "absent seed":
        arm, seed = rows[i]["arm"], rows[i]["train_seed"]
        others = {row["arm"] for row in rows if row["train_seed"] == seed} - {arm}
        own = {row["train_seed"] for row in rows if row["arm"] == arm}
        rows[:] = [row for row in rows if (row["arm"], row["train_seed"]) != (arm, seed)]
        return column if seed != "" and others and len(own) > 1 else None
    elif column in cells:
        rows[i][column] = str(rng.choice(cells[column]))
        if column == "value" and rows[i]["value"] == "":
            rows[i]["status"] = "ok"
    return column


def check_result(rows, analysis, plan):
    """Every hypothesis has a row, and every row says what it rests on, or why there is nothing to say."""
    found = analysis.tables["contrasts"].to_pylist()
    dropped = {
        row["metric"]: (row["n_prompts"], row["n_prompts_dropped"]) for row in analysis.tables["missing"].to_pylist()
    }
    for metric, (n, lost) in dropped.items():
        own = {row["prompt_id"]: row["category"] for row in rows if row["metric"] == metric}
        overall = [row for row in found if row["metric"] == metric and row["group_kind"] == "overall"]
        assert len(overall) == len(plan.contrasts)
        assert n == len(own)
        assert all(row["n_prompts"] + lost == n for row in overall)
        assert all(("prompts_dropped" in row["flags"]) == (lost > 0) for row in overall)
        groups = {row["group"] for row in found if row["metric"] == metric and row["group_kind"] == "category"}
        wanted = set(own.values()) if len(set(own.values())) > 1 else set()
        assert groups <= wanted
        assert lost or groups == wanted, "a category without a row, though nothing was dropped"
    failed = {row["metric"] for row in rows if row["value"] == ""}
    for metric in failed:
        assert f"Failed outputs of {metric}: " in analysis.decision["banner"]
    for row in found:
        check_row(row)


def check_row(row):
    # The odds ratio of discordant prompts that all favour one side is infinite.
    numbers = {name: value for name, value in row.items() if isinstance(value, float) and "odds" not in name}
    assert all(np.isfinite(value) for value in numbers.values()), {
        k: v for k, v in numbers.items() if not np.isfinite(v)
    }
    assert all(0 < value <= 1 for name, value in numbers.items() if name.startswith("p_")), row
    assert row["words"].strip()
    assert row["estimate"] is not None
    assert (row["verdict"] == "not_testable") == (row["p_adj"] is None)
    if row["verdict"] == "not_testable":
        assert set(row["flags"]) & (WHY | {"descriptive"}), row
    if row["ci_ckpt_lo"] is None:
        assert set(row["flags"]) & WHY, row
    for scope in ("ckpt", "method"):
        low, high = row[f"ci_{scope}_lo"], row[f"ci_{scope}_hi"]
        assert (low is None) == (high is None)
        if low is not None:
            assert low < high
            slack = 1e-9 * max(abs(low), abs(high))
            assert low - slack <= row["estimate"] <= high + slack


def one(number, folder):
    """ "result" or the error's text."""
    rows, plan, spoiled = make_table(np.random.default_rng(number))
    path = folder / "scores.csv"
    with path.open("w", newline="") as stream:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    metrics = list(dict.fromkeys(row["metric"] for row in rows if row["metric"])) if plan is None else []
    flags = ["--table", str(path), "--output", str(folder), *(["--metric", *metrics] if metrics else [])]
    args = parse_arguments(flags, "compare", None)
    try:
        plan, notes = read_logs(args, plan, Question())
        plan = read_plan(plan)
        analysis = analyse(plan, args.scores, read_prompts(args.prompts))
        assert write_up(analysis, notes)
    except ContractError as error:
        text = str(error)
        assert text.strip()
        assert "\n" not in text
        assert len(text) < 1000
        return text
    assert spoiled is None, f"{spoiled} went unnoticed"
    check_result(rows, analysis, plan)
    return "result"


@pytest.mark.filterwarnings("error")
def test_every_table_gives_a_result_or_one_clear_error(tmp_path):
    outcomes = []
    for number in range(FIRST, FIRST + TABLES):
        try:
            outcomes.append(one(number, tmp_path))
        except BaseException as error:
            error.add_note(f"table {number}")
            raise
    results = outcomes.count("result")
    assert 0.3 * TABLES < results < 0.9 * TABLES
    print(f"{results} results of {TABLES}")
