"""compare.py through its command line: two prompt sets in one study, tables, words, gates, and errors."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import compare
import freeze_plan
import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from test_paired_oracles import write_prompts, write_scores

from arms.job.files import UserError
from paired import freeze
from paired.tables import CONTRAST_COLUMNS
from study.digest import module_facts

ROOT = Path(__file__).parents[3]
PLAN = {
    "seed": 20261122,
    "alpha": 0.05,
    "q": 0.05,
    "primary_metric": "pref_acc",
    "primary_contrasts": ["C1", "C2", "C3"],
    "primary_scope": "method",
    "secondary_scope": "checkpoint",
    "weighting": "micro",
    "min_prompts_category": 20,
    "monte_carlo": {"B": 999},
    "metrics": {
        "pref_acc": {"kind": "binary", "higher_is_better": True, "bounds": [0, 1], "margin": 0.05, "role": "primary"},
        "pass_rate": {
            "kind": "binary",
            "higher_is_better": True,
            "bounds": [0, 1],
            "margin": None,
            "role": "secondary",
        },
        "logp_margin": {"kind": "continuous", "higher_is_better": True, "step": None, "margin": 0.1},
    },
}
EFFECTS = {"base": 0.0, "sft": 0.4, "sft_dpo": 1.6, "dpo_only": 1.0}
TABLES = (
    "contrasts", "arm_means", "seed_effects", "variance", "projection", "heterogeneity", "missing", "seed_spread",
    "variation",
)  # fmt: skip


def make_study(folder, n_seeds=3, n=48):
    """pref_acc and logp_margin on held-out pairs, pass_rate on other held-out prompts; two categories each."""
    rng = np.random.default_rng(11)
    pairs, prompts = ([f"{kind}{i:02d}" for i in range(n)] for kind in ("pair", "gen"))
    everything = [
        {"prompt_id": name, "category": "format" if i % 2 else "length", "cluster_id": name}
        for names in (pairs, prompts)
        for i, name in enumerate(names)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder, everything)
    difficulty = rng.normal(size=n)
    for metric, names in (("pref_acc", pairs), ("pass_rate", prompts), ("logp_margin", pairs)):
        rows = []
        for arm, effect in EFFECTS.items():
            for seed in [-1] if arm == "base" else range(1, n_seeds + 1):
                score = difficulty + effect + 0.3 * rng.normal(size=n)
                values = score if metric == "logp_margin" else (score > 0.5).astype(float)
                rows += [[arm, seed, name, 0, float(v), "ok"] for name, v in zip(names, values, strict=True)]
        write_scores(folder, metric, rows)
    return folder


def run(monkeypatch, folder, *more, plan=PLAN, output="stats"):
    """The program in this process."""
    (folder / "plan.json").write_text(json.dumps(plan))
    arguments = ["--plan", "plan.json", "--scores", "scores", "--prompts", "prompts.parquet", "--output", output]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, *more])
    compare.main()
    return json.loads((folder / output / "decision.json").read_text())


def rewrite(folder, metric, change):
    """Edit a score table as a list of row dicts."""
    path = folder / "scores" / f"metric={metric}" / "part-0.parquet"
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def copy(study, tmp_path):
    return Path(shutil.copytree(study, tmp_path / "copy"))


def test_in_the_workflow_from_a_path_with_a_space_and_a_quote(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "it's a study")
    record = freeze.freeze(PLAN, folder / "no-scores-yet", folder / "plan.lock")
    assert not record["exploratory"]
    job = {"rule": "compare", "wildcards": {}, "settings": PLAN, "code": "0" * 64}
    files = {
        "lock": [ROOT / "envs/stats.yaml"],
        "manifest": ["stats/manifest.json"],
        "gates": [f"{folder}/plan.json"],
        "scores": sorted(folder.glob("scores/*/*.parquet")),
        "prompts": [f"{folder}/prompts.parquet"],
        "plan-lock": [f"{folder}/plan.lock"],
        "tables": [f"{folder}/stats/{table}.parquet" for table in TABLES],
        "csv": [f"{folder}/stats/{table}.csv" for table in TABLES],
        "decision": [f"{folder}/stats/decision.json"],
    }
    (folder / "plan.json").write_text("{}")
    command = [sys.executable, str(ROOT / "scripts/compare.py"), "--job", json.dumps(job)]
    command += [part for name, paths in files.items() for part in (f"--{name}", *map(str, paths))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "For this recipe, on pref_acc: DPO helps, both after SFT" in done.stdout
    (folder / "scores/metric=pref_acc/part-stale.parquet").write_text("of a seed that is no longer asked for")
    again = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert again.returncode == 0, "files that were not named are not read"
    manifest = json.loads((folder / "stats/manifest.json").read_text())
    assert manifest["facts"]["decision"] in ("GO", "HOLD")
    scores = {f"{metric}/part-0.parquet" for metric in PLAN["metrics"]}
    assert set(manifest["inputs"]) == scores | {"prompts", "plan_lock", f"{folder}/plan.json"}
    assert set(manifest["outputs"]) == {f"{t}_{kind}" for t in TABLES for kind in ("parquet", "csv")} | {"decision"}

    rows = pd.read_parquet(folder / "stats/contrasts.parquet")
    assert list(rows.columns) == list(CONTRAST_COLUMNS)
    assert list(rows["hypothesis_id"]) == sorted(rows["hypothesis_id"])
    assert len(rows) == 3 * 7 * 3
    assert (rows["family"] == "primary").sum() == 3
    assert (rows["family"] == "secondary").sum() == 60
    assert rows.loc[rows["family"] == "primary", "scope"].eq("method").all()
    assert rows["p_ckpt"].between(1e-300, 1).all()
    assert rows["verdict"].notna().all()
    assert rows["words"].str.contains("n = ").all()
    assert set(rows.loc[rows["metric"] == "pass_rate", "n_prompts"]) == {48, 24}
    assert rows.set_index("hypothesis_id")["verdict"]["pref_acc/C1/overall"] == "superior"
    mirror = pd.read_csv(folder / "stats/contrasts.csv", float_precision="round_trip")
    assert list(mirror.columns) == list(rows.columns)
    assert (mirror["estimate"] == rows["estimate"]).all(), "the csv holds every digit"


def test_estimates_are_the_plain_means(study, monkeypatch):
    run(monkeypatch, study)
    rows = pd.read_parquet(study / "stats/contrasts.parquet").set_index("hypothesis_id")
    raw = pq.read_table(study / "scores/metric=pass_rate").to_pandas()
    means = raw.groupby("arm", observed=True)["value"].mean()
    row = rows.loc["pass_rate/C1/overall"]
    assert row["estimate"] == pytest.approx(means["sft_dpo"] - means["sft"])
    assert row["mean_pos"] == pytest.approx(means["sft_dpo"])
    interaction = rows.loc["pass_rate/C7/overall", "estimate"]
    assert interaction == pytest.approx(row["estimate"] - rows.loc["pass_rate/C3/overall", "estimate"])
    arms = pd.read_parquet(study / "stats/arm_means.parquet")
    pooled = arms[(arms["level"] == "pooled") & (arms["group"] == "__all__") & (arms["metric"] == "pass_rate")]
    assert pooled.set_index("arm")["mean"].to_dict() == pytest.approx(means.to_dict())
    effects = pd.read_parquet(study / "stats/seed_effects.parquet").groupby("hypothesis_id")["estimate"].mean()
    assert effects["pass_rate/C1/overall"] == pytest.approx(row["estimate"])


@pytest.mark.parametrize("threads", [1, 2])
def test_row_order_files_batches_and_threads_change_no_byte(copy, monkeypatch, threads):
    """In a process with its own number of threads, and here in batches of 17 rows."""
    settings = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS")
    command = [sys.executable, str(ROOT / "scripts/compare.py"), "--plan", "plan.json", "--scores", "scores"]
    (copy / "plan.json").write_text(json.dumps(PLAN))
    subprocess.run(
        [*command, "--prompts", "prompts.parquet", "--output", "one"],
        check=True,
        cwd=copy,
        env={"PATH": ""} | dict.fromkeys(settings, str(threads)),
        capture_output=True,
    )
    for folder in sorted((copy / "scores").iterdir()):
        table = pq.read_table(folder / "part-0.parquet")
        table = table.take(np.random.default_rng(3).permutation(len(table)))
        half = len(table) // 3
        pq.write_table(table[:half], folder / "part-0.parquet", row_group_size=17, use_dictionary=False)
        pq.write_table(table[half:], folder / "part-1.parquet")
    prompts = pd.read_parquet(copy / "prompts.parquet")
    prompts.iloc[::-1].to_parquet(copy / "prompts.parquet")
    monkeypatch.setattr("paired.score_files.BATCH_ROWS", 17)
    run(monkeypatch, copy, output="other")
    names = sorted(path.name for path in (copy / "one").iterdir())
    assert len(names) == 2 * len(TABLES) + 4  # with decision.json, summary.md and the forest plot
    for name in names:
        assert (copy / "one" / name).read_bytes() == (copy / "other" / name).read_bytes(), name


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_too_few_seeds_fall_back_to_claims_about_checkpoints(tmp_path, monkeypatch, n_seeds):
    folder = make_study(tmp_path / "few", n_seeds=n_seeds, n=12)
    decision = run(monkeypatch, folder)
    assert decision["primary_scope"] == {"planned": "method", "used": "checkpoint"}
    assert "checkpoints only" in decision["banner"]
    assert decision["headline"].startswith("For these checkpoints")
    rows = pd.read_parquet(folder / "stats/contrasts.parquet").set_index("hypothesis_id")
    row = rows.loc["pref_acc/C1/overall"]
    assert "scope_fallback" in row["flags"]
    assert pd.isna(row["p_method"]) == (n_seeds == 1)
    arms = pd.read_parquet(folder / "stats/arm_means.parquet")
    arms = arms[(arms["level"] == "seed") & (arms["group"] == "__all__") & (arms["metric"] == "pref_acc")]
    found = arms.groupby("arm")["train_seed"].apply(list).to_dict()
    assert found == {"base": [-1]} | {arm: list(range(1, n_seeds + 1)) for arm in ("sft", "sft_dpo", "dpo_only")}
    assert row["ci_ckpt_method"] == ("tango" if n_seeds == 1 else "cr2_t")
    assert row["p_ckpt_method"] == ("mcnemar_exact" if n_seeds == 1 else "lattice")
    assert (rows.loc[rows["group_kind"] == "category", "verdict"] == "not_testable").all()


def test_a_model_that_answers_nothing_does_not_gain(copy, monkeypatch):
    assert run(monkeypatch, copy, output="before")["gates"]["coverage"]
    raw = pq.read_table(copy / "scores/metric=pass_rate/part-0.parquet").to_pandas().set_index(["arm", "prompt_id"])
    worst = raw["value"].copy()
    worst.loc["sft_dpo", ["gen00", "gen01", "gen02"]] = 0
    worst = worst.drop("gen40", level="prompt_id").groupby("arm", observed=True).mean()

    def silence(rows):
        for row in rows:
            if row["arm"] == "sft_dpo" and row["prompt_id"] in ("gen00", "gen01", "gen02"):
                row |= {"value": None, "status": "empty"}
            if row["arm"] == "base" and row["prompt_id"] == "gen40":
                row |= {"value": None, "status": "error"}
        return rows

    rewrite(copy, "pass_rate", silence)
    decision = run(monkeypatch, copy)
    assert decision["decision"] == "INVALID"
    assert decision["gates"]["coverage"] is False
    assert "pass_rate" in decision["gate_notes"][0]
    row = pd.read_parquet(copy / "stats/contrasts.parquet").set_index("hypothesis_id").loc["pass_rate/C5/overall"]
    assert row["n_prompts"] == 47
    assert row["estimate"] == pytest.approx(worst["sft_dpo"] - worst["base"])
    assert row["rate_missing_pos"] == pytest.approx(3 / 48)
    assert row["bounds_lo"] <= row["estimate"] <= row["bounds_hi"]
    assert row["bounds_lo"] < row["bounds_hi"]
    assert "prompts_dropped" in row["flags"]
    missing = pd.read_parquet(copy / "stats/missing.parquet").set_index(["metric", "arm", "train_seed"])
    assert missing.loc[("pass_rate", "sft_dpo", 2), "empty"] == 3


def test_a_truncated_answer_with_a_value_is_counted_and_not_missing(copy, monkeypatch):
    """What grade writes of an answer that never ended: nothing changes but the count."""
    before = run(monkeypatch, copy, output="before")

    def cut(rows):
        for row in rows:
            if row["arm"] == "sft_dpo" and row["value"] == 0:
                row["status"] = "truncated"
        return rows

    rewrite(copy, "pass_rate", cut)
    after = run(monkeypatch, copy, output="after")
    missing = pd.read_parquet(copy / "after/missing.parquet")
    cut = missing[missing["arm"] == "sft_dpo"]["truncated"].sum()
    assert after == before | {"banner": f"Truncated outputs of pass_rate, scored as they stand: sft_dpo {cut} of 144."}
    for table in ("contrasts", "arm_means", "seed_effects", "projection", "heterogeneity"):
        assert (copy / f"after/{table}.csv").read_bytes() == (copy / f"before/{table}.csv").read_bytes()
    missing = pd.read_parquet(copy / "after/missing.parquet").set_index(["metric", "arm", "train_seed"])
    own, other = missing.loc[("pass_rate", "sft_dpo", 1)], missing.loc[("pass_rate", "sft", 1)]
    assert own["truncated"] > 0
    assert own["ok"] + own["truncated"] == own["n_outputs"]
    assert (own["rate_missing"], own["n_prompts_dropped"], other["truncated"]) == (0, 0, 0)


def test_arms_with_the_same_outputs_make_the_study_invalid(copy, monkeypatch):
    def same(rows):
        for row in rows:
            origin = "sft" if row["arm"] == "sft_dpo" else row["arm"]
            text = f"{origin}-{row['prompt_id']}-{row['train_seed']}"
            row["gen_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return rows

    rewrite(copy, "pass_rate", same)
    decision = run(monkeypatch, copy)
    assert decision["decision"] == "INVALID"
    assert decision["gate_notes"] == ["distinct_outputs: the same generations in pass_rate: sft and sft_dpo"]


def test_outputs_without_a_hash_are_not_the_same(copy, monkeypatch):
    """Two arms without hashes among arms with them, whatever rows are read together."""

    def some(rows):
        for i, row in enumerate(rows):
            if row["arm"] in ("base", "sft"):
                row["gen_sha256"] = hashlib.sha256(str(i).encode()).hexdigest()
        return rows

    rewrite(copy, "pass_rate", some)
    for rows in (7, 2**20):
        monkeypatch.setattr("paired.score_files.BATCH_ROWS", rows)
        assert run(monkeypatch, copy)["gates"]["distinct_outputs"]


def test_a_filtered_table_keeps_texts_that_do_not_count(copy, monkeypatch):
    """A dictionary may hold prompts, arms and statuses of rows that were filtered out."""
    before = run(monkeypatch, copy)
    prompts = pd.read_parquet(copy / "prompts.parquet")
    pd.concat([prompts, prompts.iloc[[0]].assign(prompt_id="train0", prompt_sha256="x", split="train")]).to_parquet(
        copy / "prompts.parquet"
    )
    path = copy / "scores/metric=pass_rate/part-0.parquet"
    table = pq.read_table(path)
    more = [row | {"prompt_id": "train0", "arm": "other", "status": "odd"} for row in table.to_pylist()[:1]]
    whole = pa.Table.from_pylist(table.to_pylist() + more, schema=table.schema).combine_chunks()
    filtered = whole.slice(0, len(table))
    assert "train0" in filtered["prompt_id"].chunk(0).dictionary.to_pylist()
    pq.write_table(filtered, path)
    assert "train0" in pq.read_table(path)["prompt_id"].chunk(0).dictionary.to_pylist()
    assert run(monkeypatch, copy) == before


def test_a_plan_changed_after_it_was_frozen(copy, monkeypatch):
    def freeze(scores):
        monkeypatch.chdir(copy)
        arguments = ["--plan", "plan.json", "--scores", scores, "--output", "plan.lock"]
        monkeypatch.setattr(sys, "argv", ["freeze_plan.py", *arguments])
        freeze_plan.main()

    assert "plan_hash" not in run(monkeypatch, copy)["gates"], "no record, no claim about it"
    freeze("none-yet")
    decision = run(monkeypatch, copy, "--plan-lock", "plan.lock")
    assert decision["gates"]["plan_hash"]
    assert decision["plan_sha256"] == json.loads((copy / "plan.lock").read_text())["sha256"]
    changed = PLAN | {"alpha": 0.1}
    with pytest.raises(UserError, match=r"plan.lock: the analysis plan has sha256.*freeze_plan.py"):
        run(monkeypatch, copy, "--plan-lock", "plan.lock", plan=changed)
    freeze("scores")
    decision = run(monkeypatch, copy, "--plan-lock", "plan.lock", plan=changed)
    assert decision["decision"] == "INVALID"
    assert decision["exploratory"] == ["alpha: 0.05 → 0.1"]
    assert decision["headline"].startswith("Exploratory: ")
    assert all("exploratory" in f for f in pd.read_parquet(copy / "stats/contrasts.parquet")["flags"])
    shutil.rmtree(copy / "scores")
    (copy / "plan.json").write_text(json.dumps(PLAN | {"alpha": 0.2}))
    freeze("scores")
    assert json.loads((copy / "plan.lock").read_text())["exploratory"], "scores that were deleted have been seen"


def test_scores_before_any_plan_are_exploratory(copy, monkeypatch):
    (copy / "plan.json").write_text(json.dumps(PLAN))
    monkeypatch.chdir(copy)
    arguments = ["--plan", "plan.json", "--scores", "scores", "--output", "plan.lock"]
    monkeypatch.setattr(sys, "argv", ["freeze_plan.py", *arguments])
    freeze_plan.main()
    decision = run(monkeypatch, copy, "--plan-lock", "plan.lock")
    assert decision["exploratory"] == ["no plan was on record before the first scores"]


def test_seeds_are_part_of_the_plan(copy, monkeypatch):
    with pytest.raises(UserError, match=r"arm 'sft' has \[3\], which the plan does not name \(train_seeds \[1, 2\]\)"):
        run(monkeypatch, copy, plan=PLAN | {"train_seeds": [1, 2]})
    planned = PLAN | {"train_seeds": [1, 2, 3, 4]}
    with pytest.raises(UserError, match=r"metric=.*: seed 4 of 'sft' is missing \(the plan names it\).*--common-seeds"):
        run(monkeypatch, copy, plan=planned)
    decision = run(monkeypatch, copy, "--common-seeds", plan=planned)
    assert "Planned training seeds without scores: 4." in decision["banner"]


def test_a_metric_outside_the_plan_is_exploratory_and_leaves_the_rest_alone(copy, monkeypatch):
    """Spec 1.10: a family of its own, flagged; no other row, gate or decision changes, whatever the metric holds."""
    before = run(monkeypatch, copy, output="before")
    shutil.copytree(copy / "scores/metric=logp_margin", copy / "scores/metric=rouge")
    shutil.copytree(copy / "scores/metric=pref_acc", copy / "scores/metric=strict")
    rewrite(
        copy,
        "rouge",
        lambda rows: [{**r, "value": None, "status": "empty"} if i < 9 else r for i, r in enumerate(rows)],
    )
    after = run(monkeypatch, copy, output="after")
    same = ("decision", "reasons", "headline", "primary", "gates", "gate_notes", "plan_sha256", "exploratory")
    assert [after[key] for key in same] == [before[key] for key in same]
    assert after["families"] == before["families"] | {"exploratory": 2 * 7 * 3}
    assert (
        "Not in the plan, hence exploratory, in a family of their own, more taken as better: rouge, strict."
        in (after["banner"])
    )
    rows, old = (pd.read_parquet(copy / name / "contrasts.parquet") for name in ("after", "before"))
    own = rows["metric"].isin(["rouge", "strict"])
    pd.testing.assert_frame_equal(rows[~own].reset_index(drop=True), old)
    assert (rows[own]["family"] == "exploratory").all()
    assert all("exploratory" in flags for flags in rows[own]["flags"])
    assert dict(zip(rows["metric"], rows["kind"], strict=True)) | {"rouge": "continuous", "strict": "binary"} == dict(
        zip(rows["metric"], rows["kind"], strict=True)
    )


def test_failed_outputs_are_counted_however_few(copy, monkeypatch):
    def fail(rows):
        rows[60] |= {"value": None, "status": "empty"}
        rows[5] |= {"value": None, "status": "error"}
        return rows

    rewrite(copy, "pass_rate", fail)
    decision = run(monkeypatch, copy)
    assert decision["banner"] == (
        "Failed outputs of pass_rate: base 1 of 48 (1 error), sft 1 of 144 (1 empty). A model's own failure (empty, "
        "truncated, parse_fail) counts as 0, the worst value. 1 of 48 prompts left out for all models."
    )
    assert decision["banner"] in (copy / "stats/summary.md").read_text()


def test_a_plan_may_count_every_failure_as_the_worst_value(copy, monkeypatch):
    def fail(rows):
        rows[60] |= {"value": None, "status": "empty"}
        rows[5] |= {"value": None, "status": "error"}
        return rows

    def zero(rows):
        return [row | {"value": 0.0, "status": "ok"} if row["value"] is None else row for row in rows]

    rewrite(copy, "pass_rate", fail)
    plan = json.loads(json.dumps(PLAN))
    plan["metrics"]["pass_rate"]["failed"] = "worst"
    decision = run(monkeypatch, copy, plan=plan)
    assert decision["banner"] == (
        "Failed outputs of pass_rate: base 1 of 48 (1 error), sft 1 of 144 (1 empty). Each, as planned, counts as 0, "
        "the worst value."
    )
    found = pd.read_parquet(copy / "stats/contrasts.parquet")
    rewrite(copy, "pass_rate", zero)
    run(monkeypatch, copy, plan=plan)
    same = pd.read_parquet(copy / "stats/contrasts.parquet")
    for column in ("n_prompts", "estimate", "p_ckpt", "p_method", "ci_ckpt_lo", "verdict"):
        assert (found[column].dropna() == same[column].dropna()).all(), column
    plan["metrics"]["logp_margin"]["failed"] = "worst"
    with pytest.raises(
        UserError, match="metric 'logp_margin', key 'failed': 'worst' takes a metric with a worst value"
    ):
        run(monkeypatch, copy, plan=plan)


def test_two_models_of_ones_own(copy, monkeypatch):
    """Other arms than the study's four, without training seeds."""

    def two(rows):
        names = {"base": "model-a", "sft_dpo": "model-b"}
        return [
            row | {"arm": names[row["arm"]], "train_seed": -1}
            for row in rows
            if row["arm"] == "base" or (row["arm"] == "sft_dpo" and row["train_seed"] == 1)
        ]

    for metric in ("pref_acc", "pass_rate", "logp_margin"):
        rewrite(copy, metric, two)
    plan = PLAN | {"contrasts": {"b-a": {"model-b": 1, "model-a": -1}}, "primary_contrasts": ["b-a"]}
    decision = run(monkeypatch, copy, plan=plan | {"primary_scope": "checkpoint"})
    assert decision["decision"] is None
    assert decision["headline"].startswith("On pref_acc, model-b is better than model-a: +")


def duplicate_in_another_file(folder):
    path = folder / "scores/metric=pref_acc/part-0.parquet"
    pq.write_table(pq.read_table(path).slice(7, 1), path.with_name("part-1.parquet"))


def drop_arm(folder):
    rewrite(folder, "pref_acc", lambda rows: [r for r in rows if r["arm"] != "dpo_only"])


def unknown_prompt(folder):
    rewrite(folder, "pref_acc", lambda rows: [*rows, rows[0] | {"prompt_id": "pair99"}])


def unknown_status(folder):
    rewrite(folder, "pref_acc", lambda rows: [*rows[:-1], rows[-1] | {"status": "fine"}])


def seeded_base(folder):
    rewrite(folder, "pref_acc", lambda rows: [r | {"train_seed": 1} if r["arm"] == "base" else r for r in rows])


def null_seed(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"train_seed": None}, *rows[1:]])


def null_sample(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"sample_idx": None}, *rows[1:]])


def negative_sample(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"sample_idx": -1}, *rows[1:]])


def null_arm(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"arm": None}, *rows[1:]])


def null_prompt(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"prompt_id": None}, *rows[1:]])


def null_status(folder):
    rewrite(folder, "pref_acc", lambda rows: [*rows[:9], rows[9] | {"status": None}, *rows[10:]])


def null_value(folder):
    rewrite(folder, "pref_acc", lambda rows: [*rows[:9], rows[9] | {"value": None}, *rows[10:]])


def infinite_value(folder):
    rewrite(folder, "logp_margin", lambda rows: [*rows[:9], rows[9] | {"value": float("inf")}, *rows[10:]])


def short_hash(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"gen_sha256": "abc"}, *rows[1:]])


def change_type(column, kind):
    def change(folder):
        path = folder / "scores/metric=pref_acc/part-0.parquet"
        table = pq.read_table(path)
        values = pa.array([1] * len(table)).cast(kind)
        pq.write_table(table.set_column(table.column_names.index(column), column, values), path)

    change.__name__ = f"{column}_as_{kind}"
    return change


def no_common_seed(folder):
    def later(row):
        return row | {"train_seed": row["train_seed"] + 10} if row["arm"] == "sft" else row

    rewrite(folder, "pref_acc", lambda rows: [later(row) for row in rows])


def drop_column(folder):
    path = folder / "scores/metric=pref_acc/part-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["status"]), path)


def late_sample(folder):
    rewrite(folder, "pref_acc", lambda rows: [rows[0] | {"sample_idx": 30_000}, *rows[1:]])


def huge_value(folder):
    rewrite(folder, "logp_margin", lambda rows: [*rows[:9], rows[9] | {"value": 1e308}, *rows[10:]])


def huge_seed(folder):
    path = folder / "scores/metric=pref_acc/part-0.parquet"
    table = pq.read_table(path)
    seeds = pa.array([2**64 - 1] * len(table), pa.uint64())
    pq.write_table(table.set_column(1, "train_seed", seeds), path)


def no_metric(folder):
    shutil.rmtree(folder / "scores/metric=pass_rate")


def not_parquet(folder):
    (folder / "scores/metric=pref_acc/part-0.parquet").write_text("hello")


def leaked(folder):
    prompts = pd.read_parquet(folder / "prompts.parquet")
    row = prompts.iloc[[5]].assign(prompt_id="train0", split="train")
    pd.concat([prompts, row]).to_parquet(folder / "prompts.parquet")


def null_cluster(folder):
    prompts = pd.read_parquet(folder / "prompts.parquet")
    prompts.loc[3, "cluster_id"] = None
    prompts.to_parquet(folder / "prompts.parquet")


def double_prompt(folder):
    prompts = pd.read_parquet(folder / "prompts.parquet")
    pd.concat([prompts, prompts.iloc[[7]]]).to_parquet(folder / "prompts.parquet")


@pytest.mark.parametrize(
    ("breach", "message"),
    [
        (
            duplicate_in_another_file,
            r"part-1.parquet: duplicate key \(metric=pref_acc, arm=base, train_seed=-1, prompt_id=pair07, sample_idx=0",
        ),
        (drop_arm, r"metric=pref_acc: column 'arm': no row of arm 'dpo_only'"),
        (unknown_prompt, r"part-0.parquet, column 'prompt_id': 'pair99' is not in the prompts file"),
        (unknown_status, r"part-0.parquet, column 'status': 'fine' is not one of ok, empty"),
        (seeded_base, r"column 'train_seed': arm 'base' has \[1\]; -1 belongs to base"),
        (null_seed, r"part-0.parquet, row 0: column 'train_seed' is null"),
        (null_sample, r"part-0.parquet, row 0: column 'sample_idx' is null"),
        (negative_sample, r"part-0.parquet: column 'sample_idx' holds -1"),
        (null_arm, r"part-0.parquet, row 0: column 'arm' is null"),
        (null_prompt, r"part-0.parquet, row 0: column 'prompt_id' is null"),
        (null_status, r"part-0.parquet, row 9: column 'status' is null"),
        (null_value, r"column 'value': nan with status ok.*prompt_id=pair09"),
        (infinite_value, r"column 'value': inf with status ok.*prompt_id=pair09"),
        (short_hash, r"column 'gen_sha256': 'abc' is not a sha256"),
        (change_type("gen_sha256", pa.int64()), r"column 'gen_sha256': '1' is not a sha256"),
        (change_type("train_seed", pa.float64()), r"column 'train_seed': must hold integers, found double"),
        (change_type("sample_idx", pa.string()), r"column 'sample_idx': must hold integers, found string"),
        (change_type("value", pa.string()), r"column 'value': must hold numbers, found string"),
        (change_type("prompt_id", pa.int64()), r"column 'prompt_id': '1' is not in the prompts file"),
        (
            no_common_seed,
            r"column 'train_seed': seeds 1, 2, 3 of 'sft' are missing \('sft_dpo', 'dpo_only' have them\)",
        ),
        (drop_column, r"part-0.parquet: column 'status' is missing"),
        (late_sample, r"column 'sample_idx' holds 30000 but never 1"),
        (huge_value, r"column 'value': 1e\+308 is too large to compute with \(at most 1e\+60\).*prompt_id=pair09"),
        (huge_seed, r"column 'train_seed': holds a number beyond 2\^63"),
        (no_metric, r"scores: no metric=pass_rate/part-\*.parquet"),
        (not_parquet, r"part-0.parquet: not a readable parquet file"),
        (leaked, r"prompts.parquet: held-out prompt 'pair05' has the text \(prompt_sha256\) of a training prompt"),
        (null_cluster, r"prompts.parquet, row 3: column 'cluster_id' is null"),
        (double_prompt, r"prompts.parquet: prompt_id 'pair07' occurs more than once"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_bad_input_is_one_clear_error_and_leaves_earlier_results(copy, monkeypatch, breach, message):
    (copy / "stats").mkdir(exist_ok=True)
    (copy / "stats/contrasts.parquet").write_text("earlier")
    breach(copy)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, copy)
    assert (copy / "stats/contrasts.parquet").read_text() == "earlier"


def test_job_needs_a_manifest(monkeypatch, capsys):
    arguments = ["--job", '{"rule": "compare"}', "--scores", "s", "--prompts", "p", "--output", "o"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--manifest" in capsys.readouterr().err


def test_what_people_see_decides_no_result():
    """The rule's code, by which its results are made again, holds neither figures nor the reading of logs."""
    found, waiting = set(), [ROOT / "scripts/compare.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += module_facts(path)[1]
    names = {str(path.relative_to(ROOT)) for path in found}
    assert {"scripts/paired/words.py", "scripts/study/question.py"} <= names
    assert not {"scripts/paired/summary.py", "scripts/paired/compare.py"} & names
    assert not [name for name in names if name.startswith(("tools/", "scripts/display/", "scripts/paired/inputs/"))]
