"""Added arms in the configuration: what follows from them, what nobody who has none sees, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from study.config import ConfigError, load
from study.ladder import Ladder
from study.runs import Run
from study.settings import Settings
from study.vocabulary import ADDED_ARMS, ALL_CONTRASTS, ARMS, CONTRASTS

pytestmark = pytest.mark.usefixtures("in_the_repository")
ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "config" / "schema.yaml"
SHARED = ("epochs", "learning_rate", "batch_size", "micro_batch_size", "scheduler", "warmup_ratio", "weight_decay")


def added(smoke, *arms, **more):
    return load({**smoke, "arms": [*ARMS, *arms], **more}, SCHEMA, where="mine.yaml")


def settings_of(study):
    return Settings(study, Ladder(study))


def test_the_four_arms_by_name_are_the_default(smoke):
    plain, named = load(smoke, SCHEMA), added(smoke)
    assert {**plain.config, "arms": list(ARMS)} == named.config
    assert not {"arms", "orpo", "kto", "simpo"} & set(plain.config), "no job's settings may show what nobody asked for"
    for study in (plain, named):
        assert study.runs() == ["base", "sft-seed1", "sft-seed2", *study.dpo_runs()]
        assert "additions" not in settings_of(study).plan()
        assert "objectives" not in settings_of(study).report()
    assert settings_of(plain).plan() == settings_of(named).plan()
    assert settings_of(plain).report() == settings_of(named).report()


def test_contrasts_follow_from_the_arms(smoke):
    plan, before = settings_of(added(smoke, *ADDED_ARMS)).plan(), settings_of(load(smoke, SCHEMA)).plan()
    assert {name: value for name, value in plan.items() if name != "additions"} == before
    assert len(plan["additions"]) == 8
    for arm in ADDED_ARMS:
        like = "sft_dpo" if arm.startswith("sft_") else "dpo_only"
        own = [weights for weights in plan["additions"].values() if arm in weights]
        assert own == [{arm: 1, "base": -1}, {arm: 1, like: -1}]
    assert not set(plan["additions"]) & set(CONTRASTS)
    few = settings_of(added(smoke, "kto_only")).plan()["additions"]
    assert few == {name: plan["additions"][name] for name in ("C10", "C11")}, "another arm renames nothing"


def test_added_arms_are_of_the_studys_own_recipe(smoke):
    study = added(smoke, "sft_kto", "orpo_only", dpo={**smoke["dpo"], "beta": [0.1, 0.3]})
    assert study.runs()[-4:] == ["orpo_only-seed1", "orpo_only-seed2", "sft_kto-seed1", "sft_kto-seed2"]
    assert not [run for run in study.runs("-beta~0.3") if Run.parse(run).arm in ADDED_ARMS]


def test_a_job_gets_its_own_settings_only(smoke):
    study = added(smoke, *ADDED_ARMS, orpo={"beta": 0.2, "learning_rate": 5.0e-4}, kto={"desirable_weight": 2})
    found = {arm: settings_of(study).objective(SimpleNamespace(arm=arm, seed="1")) for arm in ADDED_ARMS}
    dpo = study.config["dpo"]
    for arm, settings in found.items():
        name = Run(arm).stage
        assert settings["objective"] == name
        assert not {"orpo", "kto", "simpo", "dpo", "sft"} - {name} & set(settings)
        same = [key for key in SHARED if not (name == "orpo" and key == "learning_rate")]
        assert {key: settings[name][key] for key in same} == {key: dpo[key] for key in same}
        assert not {"loss_type", "label_smoothing"} & set(settings[name])
    assert (found["orpo_only"]["orpo"]["beta"], found["orpo_only"]["orpo"]["learning_rate"]) == (0.2, 5e-4)
    assert found["kto_only"]["kto"] == found["sft_kto"]["kto"]
    own = {key: found["sft_kto"]["kto"][key] for key in ("beta", "desirable_weight", "undesirable_weight")}
    assert own == {"beta": 0.1, "desirable_weight": 2, "undesirable_weight": 1.0}
    assert {key: found["simpo_only"]["simpo"][key] for key in ("beta", "gamma")} == {"beta": 2.0, "gamma": 1.0}
    assert [arm for arm in found if "start" in found[arm]] == ["sft_kto"]


def test_only_kto_is_given_a_reference(smoke):
    needs = added(smoke, *ADDED_ARMS).objectives.needs
    asked = {arm: needs(SimpleNamespace(arm=arm, seed="2")) for arm in ADDED_ARMS}
    assert asked["orpo_only"] == asked["simpo_only"] == {}
    assert asked["kto_only"]["reference"] == "<results>/base/train_logps.parquet"
    assert asked["sft_kto"]["mismatched_reference"] == "<results>/sft-seed2/mismatched_logps.parquet"


def test_ktos_micro_batches_keep_two_pairs_on_gpus(smoke):
    more = {"gpus": 1}
    assert Ladder(load({**smoke, **more}, SCHEMA)).recipe("dpo")["least_micro_batch_size"] == 1
    study = added(smoke, "kto_only", **more)
    assert Ladder(study).recipe("dpo")["least_micro_batch_size"] == 2
    assert Ladder(study).recipe("sft")["least_micro_batch_size"] == 1


def test_a_judge_may_judge_an_added_contrast(smoke):
    judge = {"endpoint": "http://localhost:1/v1", "model": "m", "contrasts": ["C1", "C9"]}
    more = {"evaluation": {"judges": {"j": judge}}, "dpo": {**smoke["dpo"], "beta": [0.1, 0.3]}}
    study = added(smoke, "orpo_only", **more)
    assert study.judges.pairs("j")[2:] == ["orpo_only-seed1-vs-dpo_only-seed1", "orpo_only-seed2-vs-dpo_only-seed2"]
    assert len(study.judges.pairs("j", "-beta~0.3")) == 2
    with pytest.raises(ConfigError) as error:
        load({**smoke, **more}, SCHEMA)
    assert "evaluation.judges.j.contrasts: C9 (ORPO-only − DPO-only) is about orpo_only, which is not" in str(
        error.value
    )


FOUR = list(ARMS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"arms": [*FOUR, "orpo_onyl"]}, "arms: unknown arm 'orpo_onyl'; did you mean 'orpo_only'?"),
        ({"arms": [*FOUR, "ppo"]}, "arms: unknown arm 'ppo'; known: base, sft, sft_dpo, dpo_only, orpo_only"),
        ({"arms": [*FOUR, "kto"]}, "arms: unknown arm 'kto'; did you mean 'sft_kto'?"),
        ({"arms": [*FOUR, "kto_only", "kto_only"]}, "arms: kto_only is there 2 times; name each arm once"),
        ({"arms": ["base", "sft_dpo", "dpo_only"]}, "arms: sft is missing; base, sft, sft_dpo, dpo_only are what the"),
        ({"arms": []}, "arms: base is missing"),
        ({"arms": "sft"}, "arms: 'sft' is not of type 'array'"),
        ({"arms": [*FOUR, 3]}, "arms.4: 3 is not of type 'string'"),
        ({"orpo": {"beta": 0.1}}, "orpo: no arm is trained with it; add orpo_only to arms, or remove it"),
        ({"arms": [*FOUR, "orpo_only"], "kto": {}}, "kto: no arm is trained with it; add kto_only or sft_kto to arms"),
        ({"arms": [*FOUR, "orpo_only"], "orpo": {"gamma": 1}}, "unknown key 'orpo.gamma'; "),
        ({"arms": [*FOUR, "kto_only"], "kto": {"gama": 1}}, "unknown key 'kto.gama'; "),
        ({"arms": [*FOUR, "simpo_only"], "simpo": {"beta": -1}}, "simpo.beta: -1 is less than or equal to the minimum"),
        ({"arms": [*FOUR, "simpo_only"], "simpo": {"loss_type": "ipo"}}, "unknown key 'simpo.loss_type'; "),
        ({"arms": [*FOUR, "orpo_only"], "orpo": {"batch_size": 4}}, "unknown key 'orpo.batch_size'; "),
        (
            {"arms": [*FOUR, "sft_kto"], "dpo": {"batch_size": 4, "micro_batch_size": 1}},
            "dpo.micro_batch_size is 1, and KTO estimates its KL term from the pairs of a micro-batch: make it 2",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(smoke, more, words):
    with pytest.raises(ConfigError) as error:
        load({**smoke, **more}, SCHEMA, where="mine.yaml")
    assert str(error.value).startswith(f"mine.yaml: {words}")


def test_every_judged_contrast_has_a_name():
    enum = yaml.safe_load(SCHEMA.read_text())["$defs"]["judge"]["properties"]["contrasts"]["items"]["enum"]
    assert enum == [name for name, (weights, *_) in ALL_CONTRASTS.items() if len(weights) == 2]
