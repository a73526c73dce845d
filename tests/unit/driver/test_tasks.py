"""What the configuration says of tasks, and the files that they are made of."""

from pathlib import Path

import pytest
import yaml

from study.config import ConfigError, load
from study.ladder import Ladder
from study.settings import Settings
from study.tasks import task_files

pytestmark = pytest.mark.usefixtures("in_the_repository")
ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "config" / "schema.yaml"
FACTS = {"file": "config/tasks/facts.yaml", "metric": ["acc", "acc_norm"]}


def study_of(tasks, **statistics):
    smoke = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    return load({**smoke, "evaluation": {"tasks": tasks}, "statistics": statistics}, SCHEMA)


def plan(study):
    return Settings(study, Ladder(study)).plan()


def test_a_studys_plan_knows_the_metrics_of_its_tasks():
    tasks = {"facts": FACTS, "squad": {"metric": "f1", "kind": "continuous"}}
    metrics = plan(study_of(tasks, primary_metric="facts.acc_norm", margins={"facts.acc_norm": 0.03}))["metrics"]
    assert metrics["facts.acc_norm"] == {
        "kind": "binary", "higher_is_better": True, "bounds": [0, 1], "margin": 0.03, "role": "primary",
    }  # fmt: skip
    assert (metrics["squad.f1"]["bounds"], metrics["facts.acc"]["role"]) == (None, "secondary")
    assert list(metrics)[:3] == ["pref_acc", "pass_rate", "logp_margin"]


def test_a_study_without_tasks_is_what_it_was():
    smoke = load(yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text()), SCHEMA)
    assert "evaluation" not in smoke.config
    assert smoke.metrics == list(plan(smoke)["metrics"]) == ["pref_acc", "pass_rate", "logp_margin"]


def test_each_task_has_settings_of_its_own():
    study = study_of({"facts": FACTS, "gsm8k": {"metric": "exact_match.strict-match", "few_shot": 5}})
    assert study.tasks.settings("gsm8k") == {
        "name": "gsm8k", "task": "gsm8k", "own": False, "metric": ["exact_match.strict-match"], "few_shot": 5,
        "chat_template": False, "system_prompt": None, "limit": None, "higher_is_better": True,
    }  # fmt: skip
    assert study.tasks.settings("facts")["few_shot"] is None


@pytest.mark.parametrize(
    ("tasks", "statistics", "complaint"),
    [
        ({"a": {}}, {}, "evaluation.tasks.a.metric is missing"),
        ({"a.b": {"metric": "acc"}}, {}, "does not match"),
        ({"a": {"metric": "f1"}}, {}, "kind is missing: is f1 of one item 0 or 1"),
        ({"a": {"metric": "acc", "fewshot": 1}}, {}, "did you mean 'few_shot'"),
        ({"a": {"metric": "acc", "file": "no.yaml"}}, {}, "evaluation.tasks.a.file: no such file: no.yaml"),
        ({"facts": FACTS}, {"primary_metric": "facts.ac"}, "facts.ac is no metric of this study; did you mean facts.a"),
        ({"facts": FACTS}, {"primary_metric": "logp_margin"}, "statistics.primary_metric: logp_margin is no metric"),
        ({"facts": FACTS}, {"margins": {"fact.acc": 0.1}}, "statistics.margins: fact.acc is no metric"),
        ({"facts": FACTS}, {"margins": {"facts.acc": 0.1, "acc": 0.1}}, "unknown key 'statistics.margins.acc'"),
        ({"a": {"metric": "../acc"}}, {}, "evaluation.tasks.a.metric: '../acc' does not match"),
    ],
)
def test_what_is_wrong_is_said(tasks, statistics, complaint):
    with pytest.raises(ConfigError, match=complaint):
        study_of(tasks, **statistics)


def test_a_conversation_needs_a_chat_template():
    smoke = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    smoke["tokens"]["template"] = "Q: {prompt}\nA:"
    with pytest.raises(ConfigError, match=r"facts.chat_template: the study has none: tokens.template is a text"):
        load({**smoke, "evaluation": {"tasks": {"facts": {**FACTS, "chat_template": True}}}}, SCHEMA)


@pytest.fixture
def own(tmp_path):
    """A group of two tasks that share a file and a function, beside a task that is not asked for."""
    texts = {
        "group.yaml": "group: all\ntask: [one, {task: two, num_fewshot: 0}, hellaswag]\n",
        "one.yaml": "include: shared.yaml\ntask: one\n",
        "two.yaml": f"include: shared.yaml\ntask: two\ndataset_kwargs: {{data_files: {tmp_path}/data/*.jsonl}}\n",
        "other.yaml": "task: other\ndataset_kwargs: {data_files: nowhere.jsonl}\n",
        "shared.yaml": f"process_docs: !function parts.clean\ndataset_kwargs: {{data_files: {tmp_path}/a.csv}}\n",
        "parts.py": "from more import clean\n", "more.py": "", "a.csv": "", "data/1.jsonl": "", "data/2.jsonl": "",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_files_of_a_task_are_all_that_it_is_made_of(own):
    files = [str(Path(path).relative_to(own)) for path in task_files(str(own / "group.yaml"))]
    assert files[0] == "group.yaml"
    assert sorted(files[1:]) == [
        "a.csv", "data/1.jsonl", "data/2.jsonl", "more.py", "one.yaml", "parts.py", "shared.yaml", "two.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("shared.yaml", None, r"shared.yaml: no such file"),
        ("one.yaml", "task: [one\n", r"one.yaml: while parsing"),
        ("one.yaml", "- one\n", r"one.yaml: not a task of lm-evaluation-harness"),
        ("data/1.jsonl", None, None),
        ("a.csv", None, r"shared.yaml: no such data file: .*a.csv \(relative to"),
    ],
)
def test_a_file_that_is_missing_or_no_task_is_named(own, name, text, complaint):
    (own / name).unlink() if text is None else (own / name).write_text(text)
    if complaint is None:  # a pattern that still finds another
        assert str(own / "data/2.jsonl") in task_files(str(own / "group.yaml"))
        return
    with pytest.raises(ConfigError, match=complaint):
        task_files(str(own / "group.yaml"))
