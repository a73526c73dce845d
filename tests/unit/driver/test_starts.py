"""What runs after SFT start from (sft_dpo.start), as the rules are told, and what is refused."""

from types import SimpleNamespace

import pytest
from test_objectives import FOUR, SCHEMA, settings_of

from study.config import ConfigError, load

pytestmark = pytest.mark.usefixtures("in_the_repository")
BASE = "<results>/model/model.json"
MERGED = "<results>/sft-seed2/merged/model.json"


def started(smoke, start=None, **more):
    return load({**smoke, **({"sft_dpo": {"start": start}} if start else {}), **more}, SCHEMA)


def training(arm):
    return SimpleNamespace(arm=arm, variant="", seed="2")


@pytest.mark.parametrize("start", [None, "adapter", "fresh"])
def test_without_a_merge_all_is_on_the_base(smoke, start):
    study = started(smoke, start)
    starting = study.starting
    for arm, parent in (("sft_dpo", "sft-seed2"), ("dpo_only", "base")):
        assert starting.model(training(arm)) == BASE
        assert starting.reference(training(arm)) == f"<results>/{parent}/train_logps.parquet"
        assert starting.start(training(arm)) == starting.adapter(parent)
    assert {starting.base(run) for run in study.runs()} == {BASE}
    assert study.targets == ["results/smoke/report.html", "results/smoke/model/weights"]
    assert starting.cards == starting.splits == []


def test_merged_what_comes_after_sft_is_on_the_merged_weights_and_nothing_else(smoke):
    study = started(smoke, "merged", arms=[*FOUR, "sft_kto", "kto_only"])
    starting = study.starting
    for arm in ("sft_dpo", "sft_kto"):
        assert starting.model(training(arm)) == MERGED
        assert starting.start(training(arm)) == [], "a new adapter on the merged model"
        assert starting.reference(training(arm)) == "<results>/sft-seed2/merged_train_logps.parquet"
    for arm in ("dpo_only", "kto_only"):
        assert starting.model(training(arm)) == BASE
        assert starting.reference(training(arm)) == "<results>/base/train_logps.parquet"
    own = {run for run in study.runs() if starting.base(run) != BASE}
    assert own == {f"{arm}-seed{seed}" for arm in ("sft_dpo", "sft_kto") for seed in (1, 2)}
    needs = study.objectives.needs(training("sft_kto"))
    assert needs["mismatched_reference"] == "<results>/sft-seed2/merged_mismatched_logps.parquet"
    assert study.objectives.needs(training("kto_only"))["reference"] == "<results>/base/train_logps.parquet"
    assert study.targets[2:] == [f"results/smoke/sft-seed{seed}/merged/weights" for seed in (1, 2)]


def test_the_merged_weights_score_without_an_adapter(smoke):
    starting = started(smoke, "merged").starting
    table = SimpleNamespace(run="sft-seed2", split="merged_train")
    assert (starting.model_of(table), starting.adapter_of(table)) == (MERGED, [])
    assert starting.pairs_of(table) == "<results>/tokens/train_pairs.parquet"
    heldout = SimpleNamespace(run="sft-seed2", split="heldout")
    assert starting.model_of(heldout) == BASE
    assert starting.adapter_of(heldout) == ["<results>/sft-seed2/adapter/arm.json"]
    assert starting.pairs_of(heldout) == "<results>/tokens/heldout_pairs.parquet"


def test_only_what_comes_after_sft_has_other_settings(smoke):
    before, after = (settings_of(started(smoke, start, gpus=1)) for start in ("adapter", "merged"))
    assert before.dpo(training("sft_dpo")) | {"start": "merged"} == after.dpo(training("sft_dpo"))
    assert before.dpo(training("dpo_only")) == after.dpo(training("dpo_only"))
    probe = SimpleNamespace(stage="dpo", variant="")
    assert before.probe(probe) == after.probe(probe), "one adapter, as on the base"
    for name in ("memory_plan", "plan", "report", "plot"):
        assert getattr(before, name)() == getattr(after, name)()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_merged_weights_of_a_quantised_base_are_refused(smoke, precision):
    model = {"source": "path", "path": "model", "precision": precision}
    with pytest.raises(ConfigError, match=f"sft_dpo.start: merged is not for model.precision {precision}: ") as error:
        started(smoke, "merged", model=model, gpus=1)
    assert "nats per token" in str(error.value)
    assert "set sft_dpo.start to fresh or adapter, or model.precision to bf16 or fp32" in str(error.value)
    started(smoke, "fresh", model=model, gpus=1)


def test_an_unknown_start_is_refused(smoke):
    with pytest.raises(ConfigError, match=r"sft_dpo.start: 'merge' is not one of \['adapter', 'fresh', 'merged'\]"):
        started(smoke, "merge")


def test_reference_free_is_said_to_the_figures_alone(smoke):
    study = load({**smoke, "dpo": {**smoke["dpo"], "loss_type": "reference_free", "label_smoothing": 0.1}}, SCHEMA)
    assert settings_of(study).plot() == {"reference_free": True}
    assert settings_of(started(smoke)).plot() == {}
    assert study.starting.reference(training("sft_dpo")) == "<results>/sft-seed2/train_logps.parquet", "for the gate"
    minimal = load({**smoke, "dpo": {**smoke["dpo"], "loss_type": "reference_free", "engine": "minimal"}}, SCHEMA)
    assert minimal.config["dpo"]["engine"] == "minimal"
