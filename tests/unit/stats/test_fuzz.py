"""Score tables of every odd shape: a result in which every row is explained, or one clear error.

Hypothesis writes the tables: 180 here, 10 000 with SFT_VS_DPO_ALL_TESTS=1. The same ones each time; another
FUZZ_SEED writes others. A failure is reported with the smallest table that fails.
"""

import csv
import itertools
import os
import re
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from paired.analysis import analyse
from paired.compare import parse_arguments, read_logs
from paired.files import ContractError
from paired.plan import LARGEST, read_plan
from paired.prompts import read_prompts
from paired.question import Question
from paired.summary import write_up

ALL = bool(os.environ.get("SFT_VS_DPO_ALL_TESTS"))
FAILED = ("empty", "truncated", "parse_fail", "error", "judge_fail")
# Why a row may have no interval, no p, or less than its design.
WHY = {"too_few_clusters", "degenerate_zero_diff", "degenerate_zero_variance", "category_of_one_cluster"}
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


PARTS = range(8 if ALL else 1)  # of the tables of scores


def fuzz(tables, many, few, part=0):
    """The decorator of a test that takes one table: `many` of them with all tests, else `few`, others in each part."""

    def decorate(test):
        given_tables = settings(
            max_examples=many if ALL else few,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )(given(tables)(test))
        return seed(int(os.environ.get("FUZZ_SEED", 0)) * 1000 + part)(given_tables)

    return decorate


CHANCE = {share: st.integers(1, 100).map(lambda n, share=share: n > 100 - share) for share in (20, 30, 40, 70)}
# Names that a user may have: letters of all languages, punctuation, spaces; one file of csv cannot hold all of Unicode.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6).filter(str.strip)


@st.composite
def names(draw, plain, n):
    """n different names: plain ones, or in one of five tables whatever text there is."""
    if not draw(CHANCE[20]):
        return [f"{plain}{i}" for i in range(n)]
    return draw(st.lists(NAMES, min_size=n, max_size=n, unique_by=lambda name: name.strip().replace("/", ".")))


@st.composite
def score_tables(draw):
    """(rows, plan or None, whether seeds may differ, what was done to the rows that must not go unnoticed)."""
    arms = draw(names("m", draw(st.integers(2, 4))))
    seeds = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    of_arm = {arm: [""] if draw(CHANCE[30]) else seeds for arm in arms}
    prompts = draw(names("p", draw(st.sampled_from([1, 2, 3, 5, 9, 24]))))
    samples = draw(st.sampled_from([1, 1, 1, 3]))
    categories = draw(st.lists(st.integers(0, draw(st.sampled_from([0, 2, 11]))), min_size=24, max_size=24))
    clusters = draw(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=24, max_size=24))
    rows, metrics = [], {}
    for name in draw(names("metric", draw(st.integers(1, 3)))):
        kind = draw(st.sampled_from(["binary", "ordinal", "continuous"]))
        metrics[name.replace("/", ".")] = draw(metric_entries(kind))
        only = draw(st.sampled_from(sorted(set(categories[: len(prompts)])))) if draw(CHANCE[20]) else None
        asked = [i for i in range(len(prompts)) if only in (None, categories[i])]
        keys = [(arm, s, i, k) for arm in arms for s in of_arm[arm] for i in asked for k in range(samples)]
        value = draw(values(kind, len(keys)))
        failing = draw(st.sampled_from([0, 0, 0, 0.05, 0.5]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        for arm, train_seed, i, k in keys:
            status = str(rng.choice(FAILED)) if rng.random() < failing else "ok"
            rows.append({
                "arm": arm, "train_seed": train_seed, "prompt_id": prompts[i], "sample_idx": k, "metric": name,
                "value": value(arm, train_seed, i) if status == "ok" else "", "status": status,
                "category": f"c{categories[i]}", "cluster_id": f"own{i}" if clusters[i] is None else f"k{clusters[i]}",
            })  # fmt: skip
    plan = None
    if draw(CHANCE[70]):
        plan = draw(plans({f"{b} - {a}": {b: 1, a: -1} for a, b in itertools.combinations(arms, 2)}, metrics))
    return rows, plan, draw(CHANCE[30]), draw(spoiled(rows)) if draw(CHANCE[40]) else None


@st.composite
def plans(draw, contrasts, metrics):
    scopes = st.sampled_from(["method", "checkpoint"])
    return {
        "metrics": metrics,
        "primary_metric": next(iter(metrics)),
        "contrasts": contrasts,
        "primary_scope": draw(scopes),
        "secondary_scope": draw(scopes),
        "pool_seed_variance": draw(CHANCE[30]),
        "weighting": draw(st.sampled_from(["micro", "macro"])),
        "min_prompts_category": draw(st.integers(1, 8)),
        "monte_carlo": {"B": 99},
    }


@st.composite
def metric_entries(draw, kind):
    bounds = {"binary": [0, 1], "ordinal": [0, 4], "continuous": [-LARGEST, LARGEST]}[kind]
    metric = {"kind": kind, "higher_is_better": draw(CHANCE[70]), "margin": draw(st.sampled_from([None, 0.1]))}
    if kind == "binary" or draw(CHANCE[40]):
        metric |= {"bounds": bounds, "failed": draw(st.sampled_from(["by_cause", "worst"]))}
    return metric | ({"step": 0.5} if kind == "ordinal" and draw(CHANCE[70]) else {})


@st.composite
def values(draw, kind, n):
    """A function of arm, seed and prompt: any numbers, or one of the shapes that have no variance somewhere."""
    any_value = {
        "binary": st.integers(0, 1),
        "ordinal": st.integers(0, 8).map(lambda i: i / 2),
        "continuous": st.floats(-LARGEST, LARGEST),
    }[kind]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1, 1, 1, 1e-300, 1e-30, 1e50]))
    noise = {
        "binary": lambda: int(rng.integers(2)),
        "ordinal": lambda: int(rng.integers(9)) / 2,
        "continuous": lambda: float(rng.normal() * scale),
    }[kind]
    # Hypothesis writes small tables number by number; of large ones the seed.
    drawn = iter(draw(st.lists(any_value, min_size=n, max_size=n)) if n <= 40 and draw(CHANCE[40]) else ())
    known = {}
    key = draw(st.sampled_from([
        lambda arm, train_seed, i: None,
        lambda arm, train_seed, i: None,
        lambda arm, train_seed, i: None,
        lambda arm, train_seed, i: "all equal",
        lambda arm, train_seed, i: arm if arm == "m0" else None,
        lambda arm, train_seed, i: arm,
        lambda arm, train_seed, i: (arm, i),
        lambda arm, train_seed, i: (arm, train_seed),
        lambda arm, train_seed, i: i,
    ]))  # fmt: skip

    def value(arm, train_seed, i):
        one = next(drawn, None)
        one = noise() if one is None else one
        name = key(arm, train_seed, i)
        return one if name is None else known.setdefault(name, one)

    return value


CELLS = {
    "value": st.one_of(st.sampled_from(["nan", "inf", "-1e999", "yes", "", "1e308", "0x1p3", " ", "1_0", "١"]), NAMES),
    "train_seed": st.sampled_from(["one", "1.5", "-2", "1e12", "nan", "1_0"]),
    "sample_idx": st.sampled_from(["-1", "0.5", "40000", "x"]),
    "prompt_id": st.just(""),
    "arm": st.just(""),
    "metric": st.just(""),
    "status": st.sampled_from(["fine", "OK"]),
    "gen_sha256": st.sampled_from(["abc", "0" * 63]),
}


@st.composite
def spoiled(draw, rows):
    """Spoil one row, or the design; returns what, if that must be refused."""
    i = draw(st.integers(0, len(rows) - 1))
    column = draw(st.sampled_from([*CELLS, "double", "absent row", "absent seed"]))
    if column == "double":
        rows.insert(draw(st.integers(0, len(rows))), dict(rows[i]))
    elif column == "absent row":
        lost = rows.pop(i) if len(rows) > 1 else {}
        # The last row of a model, of a seed, or of an item that no other run has, is no gap but another design.
        alike = [all(row[name] == lost[name] for name in ("metric", "prompt_id", "sample_idx")) for row in rows if lost]
        same_run = [(row["arm"], row["train_seed"]) == (lost["arm"], lost["train_seed"]) for row in rows if lost]
        return column if any(alike) and any(same_run) else None
    elif column == "absent seed":
        arm, train_seed = rows[i]["arm"], rows[i]["train_seed"]
        others = {row["arm"] for row in rows if row["train_seed"] == train_seed} - {arm}
        own = {row["train_seed"] for row in rows if row["arm"] == arm}
        rows[:] = [row for row in rows if (row["arm"], row["train_seed"]) != (arm, train_seed)]
        return column if train_seed != "" and others and len(own) > 1 else None
    else:
        rows[i][column] = cell = draw(CELLS[column])
        if column == "value":
            rows[i]["status"] = "ok"
            odd = not NUMBER.fullmatch(cell) or abs(float(cell)) > LARGEST
            return column if odd else None
    return column


def check_result(rows, analysis, plan):
    """Every hypothesis has a row, and every row says what it rests on, or why there is nothing to say."""
    rows = [{**row, "metric": row["metric"].replace("/", ".")} for row in rows]  # as their folders
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


def written(rows, path):
    with path.open("w", newline="", encoding="utf-8") as stream:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def compared(flags, plan):
    """(analysis, plan), or the text of the one error."""
    args = parse_arguments(flags, "compare", None)
    try:
        plan, notes = read_logs(args, plan, Question())
        plan = read_plan(plan)
        analysis = analyse(plan, args.scores, read_prompts(args.prompts), common_seeds=args.common_seeds)
        check_summary(write_up(analysis, notes))
    except ContractError as error:
        text = str(error)
        assert text.strip()
        assert "\n" not in text
        assert len(text) < 1000
        return text
    return analysis, plan


def check_summary(text):
    """No interval without its scope."""
    of_both_orders = "Intervals of position and length are over prompts, hence about these checkpoints." in text
    for found in re.finditer(r"\([\d.]+% CI ([^()]*)\)( net)?", text):
        assert " about the" in found[1] or (found[2] and of_both_orders), found[0]
    table = text[text.rindex("\n\n| ") :].strip("\n").split("\n")[2:]
    assert table
    assert all(row.endswith((" | the recipe |", " | these checkpoints |")) for row in table), table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("part", PARTS)
def test_every_table_of_scores_gives_a_result_or_one_clear_error(folder, part):
    outcomes = Counter()

    @fuzz(score_tables(), 1000, 120, part)
    def check(table):
        rows, plan, common_seeds, spoilt = table
        flags = ["--table", written(rows, folder / "scores.csv"), "--output", str(folder)]
        if plan is None:
            flags += [f"--metric={name}" for name in dict.fromkeys(row["metric"] for row in rows if row["metric"])]
        found = compared([*flags, "--common-seeds"] if common_seeds else flags, plan)
        outcomes["error" if isinstance(found, str) else "result"] += 1
        if isinstance(found, str):
            return
        analysis, plan = found
        if spoilt == "absent seed" and common_seeds:
            assert "--common-seeds, " in analysis.decision["banner"]
        else:
            assert spoilt is None, f"{spoilt} went unnoticed"
        check_result(rows, analysis, plan)

    check()
    assert 0.3 < outcomes["result"] / outcomes.total() < 0.9


@st.composite
def judgement_tables(draw):
    """(rows, whether seeds may differ, what was done to the rows that must not go unnoticed)."""
    arms = draw(names("m", draw(st.integers(2, 4))))
    prompts = draw(names("p", draw(st.sampled_from([1, 2, 3, 7, 20]))))
    seeds = draw(st.sampled_from([[""], [1], [1, 2], [0, 1, 2, 5]]))
    pool = draw(st.sampled_from([["a"], ["tie"], ["a", "b"], ["a", "b", "tie"]]))
    samples, both_orders = draw(st.sampled_from([1, 1, 2])), draw(CHANCE[70])
    failing, lengths = draw(st.sampled_from([0, 0, 0.2, 0.9])), draw(st.sampled_from([None, 1, 99]))
    categories = draw(st.lists(st.integers(0, draw(st.sampled_from([0, 2]))), min_size=20, max_size=20))
    clusters = draw(st.sampled_from([1, 3, 100]))
    pairs = draw(st.lists(st.sampled_from(list(itertools.combinations(range(len(arms)), 2))), min_size=1, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for pair, train_seed, i, k in itertools.product(pairs, seeds, range(len(prompts)), range(samples)):
        for first, second in (pair, pair[::-1])[: 2 if both_orders else 1]:
            failed = rng.random() < failing
            row = {"arm_a": arms[first], "arm_b": arms[second], "train_seed": train_seed, "prompt_id": prompts[i]}
            row |= {"sample_idx": k, "winner": "" if failed else str(rng.choice(pool))}
            row |= {"status": str(rng.choice(["error", "judge_fail"])) if failed else "ok"}
            row |= {"category": f"c{categories[i]}", "cluster_id": f"k{i % clusters}"}
            rows.append(
                row | ({"length_a": rng.integers(lengths), "length_b": rng.integers(lengths)} if lengths else {})
            )
    return rows, draw(CHANCE[30]), draw(spoiled_judgement(rows)) if draw(CHANCE[20]) else None


JUDGED_CELLS = {
    "winner": st.sampled_from(["", "A", "m0", "nan", "1"]),
    "status": st.sampled_from(["empty", "fine", "error"]),
    "train_seed": CELLS["train_seed"],
    "sample_idx": CELLS["sample_idx"],
    "prompt_id": st.just(""),
    "arm_a": st.just(""),
    "length_a": st.sampled_from(["-1", "nan", "long", "inf", "1e13"]),
}


@st.composite
def spoiled_judgement(draw, rows):
    i = draw(st.integers(0, len(rows) - 1))
    column = draw(st.sampled_from([*JUDGED_CELLS, "double", "itself"]))
    if column == "double":
        rows.insert(draw(st.integers(0, len(rows))), dict(rows[i]))
    elif column == "itself":
        rows[i]["arm_b"] = rows[i]["arm_a"]
    else:
        rows[i][column] = draw(JUDGED_CELLS[column])
        if column in ("winner", "status"):
            rows[i]["winner" if column == "status" else "status"] = "a" if column == "status" else "ok"
    return column


@pytest.mark.filterwarnings("error")
def test_every_table_of_judgements_gives_a_result_or_one_clear_error(folder):
    outcomes = Counter()

    @fuzz(judgement_tables(), 2000, 60)
    def check(table):
        rows, common_seeds, spoilt = table
        flags = ["--pairwise", written(rows, folder / "judged.csv"), "--output", str(folder)]
        found = compared([*flags, "--common-seeds"] if common_seeds else flags, None)
        outcomes["error" if isinstance(found, str) else "result"] += 1
        if isinstance(found, str):
            return
        assert spoilt is None, f"{spoilt} went unnoticed"
        check_judged(rows, *found)

    check()
    assert 0.3 < outcomes["result"] / outcomes.total() < 0.9


def check_judged(rows, analysis, plan):
    """Every pair that was judged has a row, which counts all its prompts; what cannot be known says why."""
    found = analysis.tables["contrasts"].to_pylist()
    overall = {row["contrast"]: row for row in found if row["group_kind"] == "overall"}
    dropped = {row["arm"]: row["n_prompts_dropped"] for row in analysis.tables["missing"].to_pylist()}
    pairs = {frozenset(weights): name for name, weights in plan.contrasts.items()}
    judged = {}
    for row in rows:
        judged.setdefault(pairs[frozenset((row["arm_a"], row["arm_b"]))], set()).add(row["prompt_id"])
    assert overall.keys() == judged.keys()
    for contrast, row in overall.items():
        assert row["n_prompts"] + dropped[contrast] == len(judged[contrast])
    if any(row["winner"] == "" for row in rows):
        assert "Failed outputs of preference: " in analysis.decision["banner"]
    for row in found:
        check_row(row)
    for row in analysis.tables["preferences"].to_pylist():
        assert row["equal_length_lo"] is not None or "length: " in row["note"]
        assert row["position_lo"] is not None or "position: " in row["note"]
    for row in analysis.tables["strengths"].to_pylist():
        assert row["ci_lo"] is not None or row["note"]
