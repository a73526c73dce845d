"""plot.py and report.py through their command lines, on a small made study whose statistics compare.py made."""

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arms.data.requests import ANSWERS, REQUESTS, write_rows
from arms.job.files import UserError
from display.checklist import ITEMS, findings
from display.examples import task_examples
from display.figures import read_curves
from display.standing import Records
from display.words import interval, number, p_value
from study.vocabulary import FIGURES

ROOT = Path(__file__).parents[3]
TABLES = ("contrasts", "arm_means", "heterogeneity", "projection", "missing", "variation", "seed_spread")
TRAINED = ("sft", "sft_dpo", "dpo_only")
HOSTILE = '<script>alert(1)</script> & <img src="https://evil.example/x.png"> {{ 7 * 7 }} \x07</article>'
SKILL = {"base": 0.0, "sft": 0.6, "sft_dpo": 1.5, "dpo_only": 1.0}
METRICS = {
    "pref_acc": {"kind": "binary", "higher_is_better": True, "bounds": [0, 1], "margin": 0.05, "role": "primary"},
    "pass_rate": {"kind": "binary", "higher_is_better": True, "bounds": [0, 1], "margin": None, "role": "secondary"},
    "logp_margin": {"kind": "continuous", "higher_is_better": True, "margin": 0.05, "role": "secondary"},
}


def runs(seeds):
    return [("base", -1), *((arm, seed) for arm in TRAINED for seed in seeds)]


def run_name(arm, seed):
    return "base" if arm == "base" else f"{arm}-seed{seed}"


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path, rows, **types):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, path)


def make_scores(root, seeds, prompts, difficulty, rng):
    """Scores of every run: better arms pass more prompts, seeds differ a little."""
    shift = {(arm, seed): SKILL[arm] + 0.15 * rng.normal() for arm, seed in runs(seeds)}
    for metric in METRICS:
        names = prompts[metric]
        for (arm, seed), skill in shift.items():
            logit = skill - difficulty[metric] + 0.5 * rng.normal(size=len(names))
            value = logit / 10 if metric == "logp_margin" else (logit > 0).astype(float)
            text = hashlib.sha256(repr((metric, arm, seed)).encode()).hexdigest() if metric == "pass_rate" else None
            rows = {
                "arm": arm, "train_seed": seed, "prompt_id": names, "sample_idx": 0, "value": value, "status": "ok",
                "gen_sha256": text,
            }  # fmt: skip
            types = {"train_seed": pa.int32(), "sample_idx": pa.int16(), "gen_sha256": pa.string()}
            types |= {name: pa.dictionary(pa.int32(), pa.string()) for name in ("arm", "prompt_id", "status")}
            write_table(root / f"scores/metric={metric}/part-{run_name(arm, seed)}.parquet", rows, **types)


def make_tasks(root, seeds):
    """Requests, answers and scores of a generation task and of a group of choice tasks, as the rules leave them."""
    asked = [
        {"task": "sums", "doc_id": 0, "idx": 0, "few_shot": 0, "conversation": False, "context": "x" * 2000 + "1 + 1 =",
         "until": ["\n"], "max_new_tokens": 8},
        {"task": "sums", "doc_id": 1, "idx": 0, "few_shot": 0, "conversation": True, "until": [], "max_new_tokens": 8,
         "context": json.dumps({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": HOSTILE}],
                                "continued": False})},
    ]  # fmt: skip
    plain = {"few_shot": 0, "conversation": False, "context": "Where?"}
    options = [
        {"task": f"facts_{HOSTILE}", "doc_id": doc, "idx": idx, "continuation": text, **plain}
        for doc in range(2) for idx, text in enumerate((" Paris", " <b>Rome</b>"))
    ]  # fmt: skip
    for name, rows in {"sums": asked, "facts": options}.items():
        (root / "tasks").mkdir(exist_ok=True)
        write_rows(root / f"tasks/{name}.requests.parquet", rows, REQUESTS)
        for arm, seed in runs(seeds):
            (root / run_name(arm, seed)).mkdir(exist_ok=True)
            good = arm == "sft_dpo"
            text = HOSTILE if good else "one\ntwo"
            written = [{"text": text, "n_tokens": 2, "status": "ok"}] * 2
            scored = [{"logp": -1.25, "greedy": good}, {"logp": -0.5 - good, "greedy": not good}] * 2
            answers = written if name == "sums" else scored
            write_rows(root / run_name(arm, seed) / f"{name}.answers.parquet", answers, ANSWERS)
            ids = [f"sums/{doc}" if name == "sums" else f"facts/{rows[0]['task']}/{doc}" for doc in range(2)]
            values = {"sums": [0.5 + good, math.nan], "facts": [float(good), 1.0]}[name]
            scores = {"arm": arm, "train_seed": seed, "prompt_id": ids, "sample_idx": 0, "value": values}
            status = {"status": ["ok", "empty" if name == "sums" else "ok"], "gen_sha256": None}
            metric = {"sums": "sums.f1", "facts": "facts.acc"}[name]
            write_table(root / f"task_scores/metric={metric}/part-{run_name(arm, seed)}.parquet", {**scores, **status})


def make_curves(root, seeds, steps, rng):
    step = np.arange(steps)
    for arm, seed in runs(seeds)[1:]:
        if arm == "sft":
            rows = {"loss": 2.2 - 0.9 * (1 - np.exp(-step / 15)) + 0.08 * rng.normal(size=steps)}
        else:
            speed = 0.05 if arm == "sft_dpo" else 0.035
            margin = speed * step + 0.12 * rng.normal(size=steps) * (step > 0)
            rows = {
                "loss": np.log1p(np.exp(-margin)), "reward_chosen": -margin / 3, "reward_rejected": -4 * margin / 3,
                "margin": margin, "reward_accuracy": np.clip(0.5 + margin / 4, 0, 1), "logp_chosen": -90 - 2 * margin,
                "logp_rejected": -95 - 9 * margin, "chosen_drift": -3.3 * margin,
            }  # fmt: skip
        rows |= {"step": step, "grad_norm": 1.0, "learning_rate": 1e-4}
        write_table(root / run_name(arm, seed) / "curves.parquet", rows)


def portrait(name):
    """What an audit has of single rows: hostile ones among the training pairs."""
    lengths = {"edges": [0, 10, 20, 30], "counts": [1, 2, 1], "min": 3, "max": 29}
    row = {"id": f"{name}-1{HOSTILE}", "place": "pairs.jsonl, line 7", "odd": name == "pairs", "why": ["it is odd"]}
    texts = {"prompt": HOSTILE, "chosen": f"x{chr(0x202E)}y", "rejected": "long " * 260}
    first = [{**row, "texts": texts if name == "pairs" else {"prompt": "Say it."}}]
    found = {
        "kind": "mark",
        "words": "a mark in a text",
        "rows": 9,
        "first": [{"id": row["id"], "place": row["place"]}],
    }
    return {
        "suspicions": [found] if name == "pairs" else [],
        "look_first": first * 12,
        "histograms": dict.fromkeys(("prompt", "completion", "chosen", "rejected", "chosen_minus_rejected"), lengths),
    }


def make_audits(root, categories):
    counts = {name: 12 for name in categories}

    def table(**more):
        return {"rows": 60, "distinct_prompts": 58, "categories": counts, **more}

    negatives = {"negatives": {"too_long": 30, "has_comma": 30}, "longer_wins": 0.5}
    warnings = ["2 held-out prompts nearly are training prompts"]
    for name, more in {"sft": {}, "pairs": negatives, "heldout_pairs": negatives, "heldout_prompts": {}}.items():
        told = {"near_duplicates": [], "warnings": warnings if name == "pairs" else [], **portrait(name)}
        write_json(root / f"data/{name}.audit.json", {"schema": 3, **table(**more), **told})
    write_json(root / "data/prompts.audit.json", {"schema": 2, "rows": 120, "clusters": 90})
    length = {"max": 81, "median": 38, "min": 10, "p95": 67}
    for name, columns in {
        "sft": ("prompt_ids", "completion_ids"),
        "train_pairs": ("prompt_ids", "chosen_ids", "rejected_ids"),
        "heldout_pairs": ("prompt_ids", "chosen_ids", "rejected_ids"),
        "heldout_prompts": ("prompt_ids",),
    }.items():
        overlong = (
            {"by_side": {"chosen": 1}, "rows": ["pair-9"]} if name == "train_pairs" else {"by_side": {}, "rows": []}
        )
        audit = {"rows": 60, "kept": 60 - len(overlong["rows"]), "overlong": overlong, "starts_with_bos": True}
        audit |= {"first_token_differs": 0.0, "tokens": dict.fromkeys(columns, length)}
        audit["template"] = ["the model's chat template trims <b>"]
        write_json(root / f"tokens/{name}.audit.json", audit)


def manifest(rule, wildcards, **more):
    return {
        "schema": 1, "rule": rule, "wildcards": wildcards, "settings": {}, "code": "0123456789abcdef", "facts": {},
        "inputs": {}, "outputs": {}, "git": {"sha": "22859e524cdf9c7918d09baf66d8592de51a64c3", "dirty": True},
        "lock": {"file": "train.yaml", "sha256": "fc9d" * 16}, "started": "2026-11-22T16:43:22+00:00",
        "versions": {"python": "3.11.7", "torch": "2.3.1", "transformers": "4.43.4", "trl": "0.9.6", "numpy": "1.26.4"},
        "machine": {"device": "cpu", "cpu_capability": "AVX2", "cpus": 2, "threads": 2, "host": "secret-host"},
        "wall_seconds": 41.3, "peak_rss_mib": 1652, **more,
    }  # fmt: skip


def make_manifests(root, seeds):
    weights = {"weights": {"path": "results/model/weights", "sha256": "647c" * 16}}
    write_json(root / "model/manifest.json", manifest("fetch_model", {}, outputs=weights))
    write_json(
        root / "stats/manifest.json", manifest("compare", {}, lock={"file": "stats.yaml", "sha256": "0078" * 16})
    )
    grade = manifest("grade", {"run": "base"}, lock={"file": "grade.yaml", "sha256": "c2a7" * 16})
    grade["versions"] = {"python": "3.11.7", "lm-eval": "0.4.13"}
    write_json(root / "scores/part-base.manifest.json", grade)
    for arm, seed in runs(seeds)[1:]:
        rule = "train_sft" if arm == "sft" else "train_dpo"
        write_json(root / run_name(arm, seed) / "train.manifest.json", manifest(rule, {"arm": arm, "seed": str(seed)}))
    shared = {
        "model_sha256": "647c" * 16,
        "trainable_parameters": 32768,
        "trainable_dtypes": ["torch.float32"],
        "dropout": 0.0,
    }
    losses = {run_name(arm, seed): math.log(2) for arm, seed in runs(seeds)[1:] if arm != "sft"}
    alike = {"every run": shared, "every dpo run": {"rows": 60, "steps": 40, "tokens_seen": 9120}}
    write_json(root / "parity.json", {"alike": alike, "runs": 3 * len(seeds), "step0_loss": losses})


def make_study(root, n=16, seeds=(1, 2, 3), categories=("keywords", "no_comma"), steps=12):
    """Everything that plot and report read, below `root`, made by numpy except the statistics."""
    rng = np.random.default_rng(5)
    prompts = {
        metric: [f"{'prompt' if metric == 'pass_rate' else 'pair'}-{i:03d}" for i in range(n)] for metric in METRICS
    }
    difficulty = {metric: rng.normal(size=n) for metric in METRICS}
    make_scores(root, seeds, prompts, difficulty, rng)
    table = [
        {"prompt_id": name, "prompt_sha256": hashlib.sha256(name.encode()).hexdigest(), "split": "heldout"}
        | {"category": categories[i % len(categories)], "cluster_id": name}
        for names in (prompts["pref_acc"], prompts["pass_rate"])
        for i, name in enumerate(names)
    ]
    write_table(root / "data/prompts.parquet", table)
    held = [
        {"id": name, "prompt": f"Write about <b>rivers</b>, number {i}.", "category": categories[i % len(categories)]}
        for i, name in enumerate(prompts["pass_rate"])
    ]
    (root / "heldout_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    for arm, seed in runs(seeds):
        texts = [HOSTILE if arm == "sft_dpo" else f"{arm} answers about rivers, at length. " * 6 for _ in held]
        rows = {"prompt_id": prompts["pass_rate"], "sample_idx": 0, "text": texts, "n_tokens": 9, "status": "ok"}
        write_table(root / run_name(arm, seed) / "generations.parquet", rows, sample_idx=pa.int16())
    make_tasks(root, seeds)
    make_curves(root, seeds, steps, rng)
    make_audits(root, categories)
    make_manifests(root, seeds)
    plan = {"seed": 1, "primary_metric": "pref_acc", "metrics": METRICS, "min_prompts_category": min(20, n // 4)}
    plan["monte_carlo"] = {"B": 199}
    write_json(root / "plan.json", plan)
    files = ["--plan", "plan.json", "--scores", "scores", "--prompts", "data/prompts.parquet", "--output", "stats"]
    done = run(root, "compare", *files)
    assert done.returncode == 0, done.stderr
    return root


def run(root, program, *arguments):
    """The program as a rule starts it: a process of its own, relative paths."""
    command = [sys.executable, str(ROOT / "scripts" / f"{program}.py"), *map(str, arguments)]
    environment = os.environ | {"MPLCONFIGDIR": str(root.parent / "matplotlib")}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


def job(rule, settings):
    identity = {"rule": rule, "wildcards": {}, "settings": settings, "code": "0" * 16}
    return ["--job", json.dumps(identity), "--manifest", f"{rule}.manifest.json"]


def plot(root, figures="figures", **settings):
    curves = sorted(path.relative_to(root) for path in root.glob("*-seed*/curves.parquet"))
    tables = ("contrasts", "arm_means", "seed_effects", "projection")
    return run(
        root, "plot", *job("plot", settings), "--decision", "stats/decision.json", "--curves", *curves,
        "--audits", *(path.relative_to(root) for path in sorted(root.glob("data/*.audit.json"))),
        *(word for name in tables for word in (f"--{name.replace('_', '-')}", f"stats/{name}.parquet")),
        *(word for kind in ("svg", "png") for word in (f"--{kind}", *(f"{figures}/{name}.{kind}" for name in FIGURES))),
    )  # fmt: skip


def report(root, html="report.html", **dpo):
    settings = {
        "study": "made", "seeds": [int(path.name[8:]) for path in sorted(root.glob("sft-seed*"))],
        "model": {"source": "path", "path": "/home/somebody/models/tiny", "precision": "fp32"},
        "tokens": {"max_length": 192, "system_prompt": None},
        "lora": {"rank": 16, "alpha": 32, "target_modules": "all-linear"},
        "sft": {"learning_rate": 5e-4, "epochs": 1}, "dpo": {"learning_rate": 2e-4, "beta": 0.1, "epochs": 1} | dpo,
        "generation": {"max_new_tokens": 64, "temperature": 0.0}, "lower_is_better": ["sums.f1"],
    }  # fmt: skip

    def files(*patterns):
        return [path.relative_to(root) for pattern in patterns for path in sorted(root.glob(pattern))]

    return run(
        root, "report", *job("report", settings), "--decision", "stats/decision.json",
        "--tables", *(f"stats/{name}.parquet" for name in TABLES), "--template", ROOT / "scripts" / "report.html.j2",
        "--figures", *(f"figures/{name}.svg" for name in FIGURES),
        "--audits", *files("data/*.audit.json", "tokens/*.audit.json"), "--parity", "parity.json",
        "--prompts", "heldout_prompts.jsonl", "--generations", *files("*/generations.parquet"),
        "--scores", *files("scores/metric=pass_rate/part-*.parquet"),
        "--style", ROOT / "scripts/report.css", "--script", ROOT / "scripts/report.js",
        "--task-requests", *files("tasks/sums.*", "tasks/facts.*"), "--task-answers", *files("*/*.answers.parquet"),
        "--task-scores", *files("task_scores/metric=sums.f1/*", "task_scores/metric=facts.acc/*"),
        "--manifests", *files("model/manifest.json", "s*/*manifest.json", "*-seed*/train.manifest.json", "memory/*"),
        "--html", html,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small study with its figures and its report."""
    root = make_study(tmp_path_factory.mktemp("report") / "study")
    for program in (plot, report):
        done = program(root)
        assert done.returncode == 0, done.stderr
    return root


class Page(HTMLParser):
    """What the tests ask of a page: balanced tags, its addresses, its ids and its plain text."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.addresses, self.ids, self.words = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [tag] * (tag not in self.VOID)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in self.VOID else self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def html(study):
    return (study / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_figures_exist_in_both_formats(study):
    for name in FIGURES:
        assert (study / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<path" in (study / f"figures/{name}.svg").read_text()
    left = json.loads((study / "plot.manifest.json").read_text())
    assert len(left["outputs"]) == 2 * len(FIGURES)


@pytest.mark.parametrize("folder", ["base", "sft_dpo-beta~0.3-seed1", "notes"])
def test_curves_must_be_of_a_run_of_the_studys_own_recipe(folder):
    with pytest.raises(UserError, match=f"{folder}/curves.parquet: its folder must be named <arm>-seed<number>"):
        read_curves([f"results/{folder}/curves.parquet"])


def test_numbers_as_readers_see_them():
    assert [number(value, 100) for value in (0.123, -0.041, 0.0, -0.0001)] == ["+12.3", "−4.1", "0.0", "0.0"]
    assert [number(value, 1, signed=False) for value in (0.0414, -0.2)] == ["0.041", "−0.200"]
    assert (interval(-0.1, 0.2, 100), interval(math.nan, math.nan, 100)) == ("−10.0 to +20.0", "—")
    found = [p_value(p) for p in (0.0004, 0.0123, 0.25, math.nan)]
    assert found == ["< 0.001", "0.012", "0.25", ""]
    assert [p_value(p, "p = ") for p in (0.0004, 0.25)] == ["p < 0.001", "p = 0.25"]


def test_page_gives_the_answer(study, page):
    decision = json.loads((study / "stats/decision.json").read_text())
    text = re.sub(r"\s+", " ", " ".join(page.words))
    assert decision["headline"].replace("pref_acc", "preference accuracy") in text
    assert decision["decision"] in text
    for row in decision["primary"]:
        assert row["words"].replace("pref_acc", "preference accuracy") in text
    for section in (
        "The arms",
        "By category",
        "Training",
        "Examples",
        "Data audit",
        "Gates",
        "Checklist",
        "How it was made",
        "Limits",
    ):
        assert section in text


def test_verdicts_say_what_they_are_about_and_sources_of_variation_are_shown(study, html):
    """Three primary rows, all rows, and those of the variant; then every metric's primary contrasts and arms."""
    about = re.findall(r'class="verdict [^<]*</span></td><td>(the recipe|these checkpoints)</td>', html)
    contrasts = pd.read_parquet(study / "stats/contrasts.parquet")
    overall = contrasts[contrasts["group"] == "__all__"]
    shown = ["the recipe" if scope == "method" else "these checkpoints" for scope in overall["scope"]]
    assert about[:3] == ["the recipe"] * 3
    assert sorted(about[3 : 3 + len(overall)]) == sorted(shown)
    section = html[html.index("What varies, and what one more would buy") : html.index("More prompts or more seeds?")]
    variation = pd.read_parquet(study / "stats/variation.parquet")
    first = variation[(variation["metric"] == "pref_acc") & (variation["contrast"] == "C1")].set_index("source")
    for source in ("prompts", "seeds"):
        assert f'<td class="n">{first.loc[source, "share"]:.0%}</td>' in section
        assert f'<td class="n">{100 * first.loc[source, "half_width_one_more"]:.2f}</td>' in section
    assert section.count("<tr>") == 2 + 9 + 9


def test_page_is_whole_and_needs_nothing_from_outside(html, page):
    assert page.open == []
    assert page.tags.count("svg") == len(FIGURES)
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    assert {address[0] for address in page.addresses} == {"#"}
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert not re.search(r"url\((?!#)|@import", html)


def test_no_id_occurs_in_two_figures(study, page):
    repeated = {name for name in page.ids if page.ids.count(name) > 1}
    assert not repeated, sorted(repeated)[:5]


def test_generated_text_stays_text(html, page):
    assert page.tags.count("script") == 1  # our own
    assert "img" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }} \ufffd&lt;/article&gt;" in html
    assert "&lt;b&gt;rivers&lt;/b&gt;" in html


def test_odd_rows_are_shown_as_text(html):
    """Twenty rows of all data sets, odd ones first; what nobody sees is made visible, long texts are folded."""
    section = html[html.index('id="odd"') : html.index('id="gates"')]
    assert section.count("<article") == 20
    assert html.count("chat template trims &lt;b&gt;") == 1
    shown = re.findall(r"<small>([a-zA-Z -]+) · pairs.jsonl, line 7 · it is odd</small>", section)
    assert shown[:12] == ["training pairs"] * 12
    assert set(shown[12:]) == {"SFT rows", "held-out pairs", "held-out prompts"}
    assert "x⟨U+202E⟩y" in section
    assert section.count("<summary>900 more characters</summary>") == 12
    assert section.count("&lt;script&gt;") == 1 + 20 + 12
    assert '<td class="what">a mark in a text</td><td class="n">9</td>' in section


def test_page_does_not_tell_where_it_was_made(study, html):
    assert not re.search(f"/home/somebody|secret-host|{re.escape(str(study))}", html)
    assert ">tiny<" in html


def section_of(html, name):
    """The part of the page with the examples of one kind, as (id, category, text) of each."""
    part = re.search(
        rf'<section class="examples"(?: data-lower)? aria-labelledby="examples-{name}">.*?</section>', html, re.DOTALL
    )[0]
    found = re.findall(
        r'<article class="example" id="([^"]+)" data-category="([^"]*)">(.*?)</article>', part, re.DOTALL
    )
    return part, [(re.search(r'<a href="#[^"]+">([^<]+)</a>', text)[1], category, text) for _, category, text in found]


def test_examples_take_turns_by_category_and_start_where_arms_disagree(study, html):
    part, shown = section_of(html, "held-out-prompts")
    assert [category for _, category, _ in shown] == ["keywords", "no_comma"] * 8
    assert "16 of 16, graded by Graded pass rate" in part
    assert len(re.search(r"(.*)<details", part, re.DOTALL)[1].split("<article")) == 1 + 6
    scores = [pd.read_parquet(path) for path in study.glob("scores/metric=pass_rate/part-*.parquet")]
    first = pd.concat(scores).query("train_seed in (-1, 1)").astype({"prompt_id": str})
    for category in ("keywords", "no_comma"):
        own = [(prompt, text) for prompt, mine, text in shown if mine == category]
        disagree = [first.loc[first["prompt_id"] == prompt, "value"].nunique() == 2 for prompt, _ in own]
        assert disagree == sorted(disagree, reverse=True)
        assert ["the arms agree" not in text for _, text in own] == disagree
        for told in (True, False):
            ids = [
                hashlib.sha256(prompt.encode()).hexdigest()
                for (prompt, _), odd in zip(own, disagree, strict=True)
                if odd == told
            ]
            assert ids == sorted(ids)


def test_examples_of_tasks_show_what_was_asked_and_what_each_arm_answered(html):
    assert html.count(" data-lower ") == 1
    part, shown = section_of(html, "sums")
    assert "2 of 2, graded by sums.f1" in part
    assert [(name, category) for name, category, _ in shown] == [("sums/0", "sums"), ("sums/1", "sums")]
    assert "… xxx" in shown[0][2]
    assert "1 + 1 =</p>" in shown[0][2]
    marks = [
        re.findall(r'data-score="([^"]*)".*?<span class="(\w+)">([^<]*)</span></header>', text) for *_, text in shown
    ]
    assert marks[0] == [("0.5", "soft", "0.500")] * 2 + [("1.5", "soft", "1.500"), ("0.5", "soft", "0.500")]
    assert marks[1] == [("", "soft", "empty")] * 4
    assert 'class="prompt">&lt;script&gt;' in shown[1][2]

    part, shown = section_of(html, "facts")
    assert len(shown) == 2
    texts = re.findall(r'<div class="text">(.*?)</div>', shown[0][2], re.DOTALL)
    assert texts[0] == "−0.500  &lt;b&gt;Rome&lt;/b&gt;\n−1.250  Paris"
    assert texts[2] == "−1.250  Paris\n−1.500  &lt;b&gt;Rome&lt;/b&gt;"
    assert "<script>alert" not in html


def test_parts_of_items_are_examples_of_their_own(study):
    """As the instructions of IFEval's prompts, which its instruction-level metrics grade one by one."""
    asked = [{"id": "ifeval/7", "task": "ifeval", "conversation": False, "context": "Shout.", "continuation": None}]
    answers = {run_name(arm, seed): [{"text": f"by {arm}"}] for arm, seed in runs((1,))}
    paths = []
    for arm, seed in runs((1,)):
        rows = {"prompt_id": ["ifeval/7#0", "ifeval/7#1"], "sample_idx": 0, "value": [1.0, 0.0], "status": "ok"}
        paths.append(study / f"parts/part-{run_name(arm, seed)}.parquet")
        write_table(paths[-1], rows)
    shown = task_examples("ifeval.inst_level_strict_acc", asked, answers, list(map(str, paths)), 1)["shown"]
    assert {row["id"]: [answer["mark"] for answer in row["answers"]] for row in shown} == {
        "ifeval/7#0": ["pass"] * 4, "ifeval/7#1": ["fail"] * 4,
    }  # fmt: skip
    assert {row["answers"][2]["text"] for row in shown} == {"by sft_dpo"}


def test_a_browser_runs_our_script_and_no_other(html):
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in html


def test_same_inputs_give_the_same_bytes(study):
    assert plot(study, "again").returncode == 0
    assert report(study, "again.html").returncode == 0
    assert (study / "again.html").read_bytes() == (study / "report.html").read_bytes()
    for name in FIGURES:
        for kind in ("svg", "png"):
            again = (study / f"again/{name}.{kind}").read_bytes()
            assert again == (study / f"figures/{name}.{kind}").read_bytes(), f"{name}.{kind}"


def test_one_seed_and_one_category_are_enough(tmp_path):
    root = make_study(tmp_path / "study", n=8, seeds=(4,), categories=("keywords",), steps=3)
    for program in (plot, report):
        done = program(root)
        assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(Page((root / "report.html").read_text()).words)
    assert "All claims are about these checkpoints only." in text
    assert "1 training seed:" in text
    assert not re.search(r"\bnan\b|None", text)


@pytest.mark.parametrize(
    ("program", "missing", "message"),
    [
        (plot, "stats/contrasts.parquet", "stats/contrasts.parquet: no such file"),
        (report, "figures/forest.svg", "figures/forest.svg: no such file; rule plot makes it"),
        (
            report,
            "tokens/sft.audit.json",
            "--audits: 'sft' is missing; found data/heldout_pairs",
        ),
        (report, "sft_dpo-seed1/generations.parquet", "no answers or scores of arm 'sft_dpo' at seed 1"),
    ],
    ids=lambda value: value.replace("/", "-") if isinstance(value, str) else "",
)
def test_missing_input_is_one_clear_error(study, program, missing, message):
    path = study / missing
    before = (study / "report.html").read_bytes()
    path.rename(study / "aside")
    try:
        done = program(study)
    finally:
        (study / "aside").rename(path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (study / "report.html").read_bytes() == before


def probed(stage, variant, sizes, lengths, used):
    """The manifest of a probe that tried the sizes at each length in turn, down to the one used."""
    attempts = []
    for length in lengths:
        for size in sizes:
            fits = (size, length) == used
            attempts.append({"micro_batch_size": size, "max_length": length, "fits": fits, "found_by": "probe"})
            if fits:
                break
    rung = {"micro_batch_size": used[0], "max_length": used[1]}
    asked = {"micro_batch_size": sizes[0], "max_length": lengths[0]}
    facts = {"asked": asked, "used": rung, "attempts": attempts, "card": "NVIDIA A100-SXM4-40GB (40 GiB)"}
    return manifest("probe_memory", {"stage": stage, "variant": variant}, facts=facts)


PROBES = {
    "everything fits": ([("sft", "", [4, 2, 1], [512], (4, 512)), ("dpo", "", [4, 2, 1], [512], (4, 512))], []),
    "a smaller micro-batch": (
        [("sft", "", [4, 2, 1], [512], (4, 512)), ("dpo", "", [4, 2, 1], [512], (1, 512))],
        ["DPO was trained with micro-batches of 1 (asked for 4; 4 and 2 did not fit NVIDIA A100-SXM4-40GB (40 GiB))."],
    ),
    "shorter rows": (
        [("sft", "", [4, 2, 1], [512, 256], (2, 512)), ("dpo", "-batch_size~4", [2, 1], [512, 256], (2, 256))],
        [
            "SFT was trained with micro-batches of 2 (asked for 4; 4 did not fit NVIDIA A100-SXM4-40GB (40 GiB)).",
            "The training rows of all arms have at most 256 tokens (asked for 512; DPO (batch size 4) did not fit "
            "NVIDIA A100-SXM4-40GB (40 GiB) with longer ones).",
        ],
    ),
}


@pytest.mark.parametrize("case", PROBES)
def test_page_says_what_had_to_shrink_and_nothing_if_nothing_did(study, page, case, tmp_path):
    probes, sentences = PROBES[case]
    root = tmp_path / "study"
    shutil.copytree(study, root)
    for stage, variant, *tried in probes:
        write_json(root / f"memory/{stage}{variant}.manifest.json", probed(stage, variant, *tried))
    done = report(root)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\s+", " ", " ".join(Page((root / "report.html").read_text()).words))
    assert "micro-batches" not in " ".join(page.words)
    assert ("Memory" in text) == bool(sentences)
    for sentence in sentences:
        assert sentence in text


def test_a_loss_without_a_reference_is_called_so(study, tmp_path):
    root = tmp_path / "study"
    shutil.copytree(study, root)
    for done in (plot(root, reference_free=True), report(root, loss_type="reference_free")):
        assert done.returncode == 0, done.stderr
    text = (root / "report.html").read_text()
    assert "rewards are β log p of the policy, no reference subtracted" in text
    assert "at what the log-probabilities of the start give" in text
    assert "what this page calls DPO is trained without a reference" in text
    assert "own reference" not in text
    assert "own reference" in (study / "report.html").read_text()


def test_the_checklist_knows_merged_weights():
    found = records()
    for one in found.manifests:
        if one["inputs"].get("start"):
            one["inputs"]["model"] = {"sha256": f"merged {one['inputs'].pop('start')['sha256']}"}
            one["settings"] = {"start": "merged"}
    found.parity["merged"] = {"sft-seed1": "1" * 64, "sft-seed2": "2" * 64}
    said = standing(found)
    assert {good for good, _ in said.values()} == {True}
    assert said["The right reference"][1] == "4 DPO runs from 3 policies against 3 tables"
    merging = "base in fp32; SFT→DPO starts from the merged SFT weights, on which its adapter belongs"
    assert said["No merge of a quantised adapter"][1] == merging
    assert said["One base model"][1].endswith("merged with the SFT adapter of its seed (2 models)")


def records(**changed):
    """A study of two seeds as the checklist reads it; `changed` names what else is on record."""
    runs = []
    for seed in (1, 2):
        for arm, start in (("sft", None), ("sft_dpo", f"sft{seed}"), ("dpo_only", None)):
            inputs = {} if arm == "sft" else {"reference": {"sha256": f"table of {start or 'base'}"}}
            inputs |= {"start": {"sha256": start}} if start else {}
            facts = {"step0": {"loss_difference": 6.2e-8, "closed_form": math.log(2)}} if arm != "sft" else {}
            more = {"inputs": inputs, "facts": facts, "outputs": {"weights": {"sha256": f"{arm}{seed}"}}}
            rule = "train_sft" if arm == "sft" else "train_dpo"
            runs.append(manifest(rule, {"arm": arm}, seeds={"wildcards.seed": seed}, off_lock={}, **more))
    shared = {"model_sha256": "647c" * 16, "trainable_parameters": 32768, "dropout": 0.0}
    alike = {
        "every run": shared,
        "every sft run": {"tokens_sha256": "5" * 64},
        "every dpo run": {"tokens_sha256": "d" * 64},
    }
    alike |= {f"both DPO arms of seed {seed}": {"batch_order_sha256": "0" * 64} for seed in (1, 2)}
    gates = dict.fromkeys(("coverage", "distinct_outputs", "no_leakage", "plan_hash"), True)
    found = {
        "settings": {"seeds": [1, 2], "model": {"precision": "fp32"}, "lora": {"target_modules": "all-linear"}},
        "decision": {"gates": gates, "exploratory": [], "families": {"primary": 3, "secondary": 12}},
        "parity": {"alike": alike},
        "audit": {"rows": [{"tokens": {"starts_with_bos": True}}], "pairs": {"rows": 60}, "near_duplicates": 0},
        "manifests": [manifest("fetch_model", {}), *runs],
    }
    found["decision"]["primary_scope"] = "checkpoint"
    return Records(**found | changed)


def standing(found):
    """Item -> (good, words)."""
    return {row["name"]: (row["good"], row["words"]) for rows in findings(found).values() for row in rows}


def test_checklist_says_how_every_item_stands():
    found = standing(records())
    assert len(found) == sum(map(len, ITEMS.values()))
    assert {good for good, _ in found.values()} == {True}
    assert found["The right reference"][1] == "4 DPO runs from 3 policies against 3 tables"
    assert found["Step-0 loss"][1] == "4 runs start at 0.693147, off by less than 1e-7"
    assert found["One seed reported"][1] == "2 seeds; claims are about the checkpoints at hand"
    assert found["Out-of-memory history"][1] == "nothing was probed: no GPU was asked for"
    tried = probed("dpo", "", (16, 8, 4), (256,), (4, 256))
    assert standing(records(manifests=[tried]))["Out-of-memory history"] == (
        True,
        "1 stage probed, 2 attempts ran out of memory",
    )


def spoilt(change):
    """Manifests that `change` has altered."""
    manifests = records().manifests
    for one in manifests:
        change(one)
    return {"manifests": manifests}


GOOD = records()
SPOILT = {
    "Pins logged": (spoilt(lambda one: one.update(off_lock={"trl": ["0.9.6", "0.9.7"]})), "trl off the lock"),
    "The right reference": (
        spoilt(lambda one: one["inputs"].get("reference", {}).update(sha256="table of base")),
        "4 DPO runs from 3 policies against 1 table",
    ),
    "The policy moved": (
        spoilt(lambda one: one["outputs"].get("weights", {}).update(sha256="same")),
        "6 adapters, some of them alike",
    ),
    "One seed reported": ({"settings": {**GOOD.settings, "seeds": [1]}}, "1 seed; "),
    "The plan is on record": (
        {"decision": {**GOOD.decision, "exploratory": ["alpha 0.05 -> 0.1"]}},
        "changed later: exploratory",
    ),
    "Distinct arms": (
        {"decision": {**GOOD.decision, "gates": {**GOOD.decision["gates"], "distinct_outputs": False}}},
        "some arms gave the same outputs",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_checklist_says_what_does_not_hold(name):
    changed, words = SPOILT[name]
    found = standing(records(**changed))
    assert found[name][0] is False
    assert words in found[name][1]
    others = {item for item, (good, _) in found.items() if good is not True and item != name}
    assert others == set()


def test_checklist_makes_up_nothing_where_nothing_is_on_record():
    found = standing(records(manifests=[], parity={"alike": {}}))
    missing = {name for name, (good, _) in found.items() if good is None}
    assert {"One base model", "The right reference", "Step-0 loss", "The policy moved", "Dropout"} <= missing
    assert {words for good, words in found.values() if good is None} == {"not on record"}
