"""What the configuration says of judges, whom they compare, and what decides their jobs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from study.config import ConfigError, load
from study.ladder import Ladder
from study.settings import Settings

pytestmark = pytest.mark.usefixtures("in_the_repository")
ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "config" / "schema.yaml"
SMALL = {"endpoint": "http://localhost:8000/v1", "model": "small"}


def study_of(judges, data=None, tasks=None, **more):
    smoke = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    evaluation = {"judges": judges, **({"tasks": tasks} if tasks else {})}
    return load({**smoke, "evaluation": evaluation, **more, **({"data": data} if data else {})}, SCHEMA)


def test_a_studys_plan_knows_its_judges():
    study = study_of({"a": SMALL, "b": SMALL}, statistics={"primary_metric": "judge.b", "margins": {"judge.b": 0.1}})
    metrics = Settings(study, Ladder(study)).plan()["metrics"]
    assert metrics["judge.b"] == {
        "kind": "pairwise", "higher_is_better": True, "bounds": None, "margin": 0.1, "role": "primary",
    }  # fmt: skip
    assert metrics["judge.a"]["role"] == "secondary"


def test_a_study_without_judges_is_what_it_was():
    smoke = load(yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text()), SCHEMA)
    assert (smoke.judges.scores(), smoke.judges.report, smoke.judges.tables, smoke.waited_for("sft")) == (
        [],
        {},
        (),
        [],
    )
    assert len(smoke.scores("")) == 3 * 7


def test_each_seed_has_pairs_of_its_own():
    study = study_of({"a": {**SMALL, "contrasts": ["C1", "C3", "C4"]}}, dpo={"beta": [0.1, 0.3]})
    assert study.judges.pairs("a") == [
        "sft_dpo-seed1-vs-sft-seed1", "sft_dpo-seed2-vs-sft-seed2",
        "dpo_only-seed1-vs-base", "dpo_only-seed2-vs-base",
        "sft-seed1-vs-base", "sft-seed2-vs-base",
    ]  # fmt: skip
    assert study.judges.pairs("a", "-beta~0.3")[::2] == [
        "sft_dpo-beta~0.3-seed1-vs-sft-seed1", "dpo_only-beta~0.3-seed1-vs-base", "sft-seed1-vs-base",
    ]  # fmt: skip
    assert "<results>/scores/metric=judge.a/part-sft-seed1-vs-base.parquet" in study.scores("")
    assert not [path for path in study.scores("") if "metric=judge.a/part-sft-seed1.parquet" in path]


def test_where_a_judge_is_reached_decides_nothing():
    def settings(**more):
        study = study_of({"a": {**SMALL, **more}})
        return Settings(study, Ladder(study)).judge(SimpleNamespace(judge="a"))

    assert settings() == {"model": "small", "parameters": {"temperature": 0, "max_tokens": 1024}}
    reached = {"endpoint": "https://elsewhere/v1", "key": "A_KEY", "parallel": 9, "timeout": 5, "most_requests": 7}
    assert settings(**reached, retries=0, requests_per_minute=9, most_tokens=9) == settings()
    assert settings(max_tokens=None, parameters={"seed": 3}) == {
        "model": "small", "parameters": {"temperature": 0, "seed": 3},
    }  # fmt: skip


def test_a_reward_model_is_a_judge_with_jobs_of_its_own():
    pinned = {"id": "org/name", "revision": "0" * 40}
    study = study_of({"a": SMALL, "rm": {"reward_model": pinned, "contrasts": ["C1"]}})
    assert (study.judges.asking, study.judges.scoring) == (["a"], ["rm"])
    assert (study.wildcards["judge"], study.wildcards["reward"]) == ("a", "rm")
    assert list(study.judges.metrics) == ["judge.a", "judge.rm"]
    assert study.judges.reward_settings("rm") == {"model": {"source": "hub", **pinned}, "precision": "fp32"}
    assert study.waited_for("sft") == ["<results>/judge/a.json", "<results>/judge/rm.json"]
    assert study.judges.report["judgements"][-1] == "<results>/judge/rm/sft_dpo-seed2-vs-sft-seed2.parquet"


def test_the_key_is_only_named():
    study = study_of({"a": {**SMALL, "key": "A_KEY"}})
    assert json.loads(study.judges.reach(SimpleNamespace(judge="a"), None))["key"] == "A_KEY"
    study.judges.refuse_without_key(set(), {})
    study.judges.refuse_without_key({"a"}, {"A_KEY": "x"})
    with pytest.raises(ConfigError, match="the environment variable A_KEY, which is to hold its key, is not set"):
        study.judges.refuse_without_key({"a"}, {"A_KEY": ""})


def test_training_waits_for_judges_that_are_there():
    study = study_of({"a": SMALL, "late": {**SMALL, "before_training": False}})
    assert study.waited_for("sft") == ["<results>/judge/a.json"]
    assert study.waited_for("heldout_prompts") == []


@pytest.mark.parametrize(
    ("judges", "more", "complaint"),
    [
        ({"a": {"model": "m"}}, {}, "evaluation.judges.a.endpoint is missing"),
        ({"a": {"reward_model": {}}}, {}, "give the path of a folder, or id and revision on the hub"),
        ({"a": {"reward_model": {"id": "one/two"}}}, {}, "give the path of a folder, or id and revision on the hub"),
        ({"a": {"reward_model": {"path": "tests"}}}, {}, "no config.json in tests"),
        ({"a": {"reward_model": {"path": "tests"}, "key": "A"}}, {}, "a reward model has no key; remove it"),
        ({"a": {**SMALL, "endpoint": "localhost:8000"}}, {}, "evaluation.judges.a.endpoint"),
        ({"a": {**SMALL, "endpoint": "https://me:secret@host/v1"}}, {}, "evaluation.judges.a.endpoint"),
        ({"a": {**SMALL, "endpoint": "https://host/v1?key=secret"}}, {}, "evaluation.judges.a.endpoint"),
        ({"a": {**SMALL, "key": "sk-secret-abc"}}, {}, "evaluation.judges.a.key"),
        ({"a": {**SMALL, "paralel": 3}}, {}, "did you mean 'parallel'"),
        ({"a": {**SMALL, "prompt": "nowhere.txt"}}, {}, "evaluation.judges.a.prompt: no such file: nowhere.txt"),
        ({"a": {**SMALL, "contrasts": ["C7"]}}, {}, "evaluation.judges.a.contrasts"),
        ({"a": {**SMALL, "parameters": {"temperature": 1}}}, {}, "set evaluation.judges.a.temperature"),
        ({"a": {**SMALL, "parameters": {"stream": True}}}, {}, "parameters.stream: the study sets this field itself"),
        ({"a/b": SMALL}, {}, "a/b"),
        ({"a": {**SMALL, "contrasts": ["C1", "C2"]}}, {"statistics": {"primary_metric": "judge.a"}}, "C3 is missing"),
        ({"a": SMALL}, {"statistics": {"primary_metric": "judge.b"}}, "did you mean judge.a?"),
        ({"a": SMALL}, {"statistics": {"margins": {"judge.aa": 0.1}}}, "did you mean judge.a?"),
        ({"acc": SMALL}, {"tasks": {"judge": {"metric": "acc"}}}, "a task and a judge share the metric judge.acc"),
        (
            {"a": SMALL},
            {"data": {name: f"config/data/{file}.jsonl" for name, file in {
                "sft": "sft", "pairs": "preferences", "heldout_pairs": "heldout_preferences"}.items()}},
            "evaluation.judges.a: it compares answers to data.heldout_prompts, which is missing",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(judges, more, complaint):
    with pytest.raises(ConfigError) as error:
        study_of(judges, **more)
    assert complaint in str(error.value)
    assert "secret" not in str(error.value)
