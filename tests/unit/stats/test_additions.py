"""Added arms are analysed apart: nothing of the study depends on them, to the byte; the record says when they came."""

import json

import pytest

pytest.importorskip("statsmodels", reason="runs in the stats environment")

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from questions import QUESTION

from paired import freeze
from paired.additions import FAMILY, analyse_all
from paired.analysis import analyse
from paired.files import ContractError
from paired.plan import read_plan
from paired.tables import write_table

PLAN = {
    "metrics": {
        "m": {"kind": "binary", "higher_is_better": True, "margin": 0.05, "role": "primary"},
        "n": {"kind": "continuous", "higher_is_better": True},
    },
    "primary_metric": "m",
    "pool_seed_variance": True,
}
ADDITIONS = {"C8": {"orpo_only": 1, "base": -1}, "C9": {"orpo_only": 1, "dpo_only": -1}}
EFFECTS = {"base": 0.0, "sft": 0.3, "sft_dpo": 0.9, "dpo_only": 0.6, "orpo_only": 1.6}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(score files by arm and metric, prompts) of a small study whose added arm is far better, and fails at times."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(5)
    names = [f"p{i:03d}" for i in range(60)]
    difficulty, files = rng.standard_normal(60), []
    for arm, effect in EFFECTS.items():
        for metric in ("m", "n"):
            rows = []
            for seed in [-1] if arm == "base" else [1, 2, 3]:
                score = difficulty + effect + 0.1 * seed + rng.standard_normal(60)
                for i, name in enumerate(names):
                    failed = arm == "orpo_only" and i % 10 == 0
                    value = None if failed else float(score[i] > 0 if metric == "m" else score[i])
                    rows.append((arm, seed, name, 0, value, "error" if failed else "ok", None))
            columns = ["arm", "train_seed", "prompt_id", "sample_idx", "value", "status", "gen_sha256"]
            frame = pd.DataFrame(rows, columns=columns).astype({"gen_sha256": pd.StringDtype()})
            path = folder / f"metric={metric}" / f"part-{arm}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
            files.append(path)
    prompts = pd.DataFrame({"prompt_id": names, "category": "c", "cluster_id": names, "split": "heldout"})
    return files, prompts.assign(prompt_sha256=names)


def plan(**more):
    return read_plan(PLAN | more, question=QUESTION)


def analysed(study, *, late=(), **more):
    files, prompts = study
    return analyse_all(plan(**more), files, prompts, plan_changes=[], late=late)


def of_study(study):
    files, prompts = study
    return analyse(plan(), [path for path in files if "orpo" not in path.name], prompts, plan_changes=[])


def test_nothing_of_the_study_depends_on_additions(study, tmp_path):
    alone, found = of_study(study), analysed(study, additions=ADDITIONS)
    differing = {key for key in found.decision if found.decision[key] != alone.decision.get(key)}
    assert differing == {"additions", "plan_sha256"}
    for name, table in alone.tables.items():
        for which, own in (("alone", table), ("found", found.tables[name].slice(0, table.num_rows))):
            kept = [column for column in own.column_names if column != "plan_sha256"]
            write_table(own.select(kept), tmp_path / f"{which}.csv")
        assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "found.csv").read_bytes(), name
    together = plan(contrasts={**QUESTION.contrasts, **ADDITIONS})
    mixed = analyse(together, study[0], study[1]).tables["contrasts"].to_pandas().set_index("hypothesis_id")
    apart = alone.tables["contrasts"].to_pandas().set_index("hypothesis_id")
    assert (mixed.loc[apart.index, "n_prompts"] < apart["n_prompts"]).all(), (
        "in one analysis they would have changed it"
    )


def test_additions_are_a_family_of_their_own(study):
    found = analysed(study, additions=ADDITIONS)
    rows = found.tables["contrasts"].to_pandas()
    added = rows[rows["contrast"].isin(ADDITIONS)]
    assert len(added) == 4
    assert set(added["family"]) == {FAMILY}
    assert FAMILY not in set(rows[~rows["contrast"].isin(ADDITIONS)]["family"])
    alone = analyse(
        read_plan(PLAN | {"contrasts": ADDITIONS, "primary_contrasts": ["C8"]}),
        [path for path in study[0] if path.stem in ("part-base", "part-dpo_only", "part-orpo_only")],
        study[1],
    )
    theirs = alone.tables["contrasts"].to_pandas().set_index("hypothesis_id")["estimate"]
    assert added.set_index("hypothesis_id")["estimate"].to_dict() == theirs.to_dict()
    assert found.decision["additions"]["claims"] == 4
    assert found.decision["additions"]["gates"]["coverage"] is False
    assert "orpo_only 10.0%" in found.decision["additions"]["gate_notes"][0]
    means = found.tables["arm_means"].to_pandas()
    assert means.groupby(["metric", "arm", "level", "train_seed"], dropna=False).size().max() == len(
        set(means["group_kind"])
    )
    words = " ".join(rows.set_index("hypothesis_id")["words"].dropna())
    assert "ORPO-only is better than the base model" in words


def test_late_additions_are_exploratory_and_the_study_is_not(study):
    rows = analysed(study, additions=ADDITIONS, late=["C9"]).tables["contrasts"].to_pandas()
    late = rows["flags"].map(lambda flags: "exploratory" in flags)
    assert set(rows[late]["contrast"]) == set(ADDITIONS)
    assert late.sum() == 4


def test_another_recipe_has_no_added_arms(study):
    files = [path for path in study[0] if "orpo" not in path.name]
    found = analyse_all(plan(additions=ADDITIONS), files, study[1])
    assert "additions" not in found.decision
    assert "C8" not in set(found.tables["contrasts"].to_pandas()["contrast"])


def test_the_record_says_which_additions_are_late(tmp_path):
    record, none, scores = tmp_path / "plan.json", tmp_path / "none", tmp_path / "scores"
    (scores / "metric=m").mkdir(parents=True)
    (scores / "metric=m" / "part-0.parquet").touch()
    first = {"C8": ADDITIONS["C8"]}
    assert "late" not in freeze.freeze(PLAN, none, record), "a record without additions is what it was"
    assert freeze.freeze(PLAN | {"additions": first}, none, record)["late"] == []
    found = freeze.freeze(PLAN | {"additions": ADDITIONS}, scores, record)
    assert (found["exploratory"], found["changes"], found["late"]) == (False, [], ["C9"])
    assert freeze.summary(found).endswith("registered before any score; additions after scores existed: C9")
    assert freeze.late_additions(record) == ["C9"]
    gone = freeze.freeze(PLAN, scores, record)
    assert gone["exploratory"]
    assert [change.partition(":")[0] for change in gone["changes"]] == ["additions.C8"]
    changed = freeze.freeze(PLAN | {"alpha": 0.1, "additions": ADDITIONS}, scores, record)
    assert changed["changes"] == ["alpha: null → 0.1"]
    assert json.loads(record.read_text())["late"] == ["C9"]


@pytest.mark.parametrize(
    ("additions", "words"),
    [
        ([], "key 'additions': must be an object"),
        ({"C8": 1}, "key 'additions': must be an object"),
        ({"C8": {"orpo_only": 1}}, "contrast 'C8': coefficients sum to 1"),
        ({"C1": {"orpo_only": 1, "base": -1}}, "'C1' adds no arm to the plan's contrasts"),
        ({"C8": {"sft": 1, "base": -1}}, "'C8' adds no arm to the plan's contrasts"),
    ],
)
def test_additions_that_make_no_sense(additions, words):
    with pytest.raises(ContractError, match=words):
        plan(additions=additions)
