"""The parity gate: every setting that would confound the arms is observed from the trainer, compared, and named."""

import copy
import json

import pytest
import torch
from check_parity import LOSS, STAGE, WORLD, compare, merged_weights
from conftest import DPO, RECIPE, SFT
from transformers import SchedulerType

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job.files import UserError
from arms.model.models import load_base, new_adapter, prepare_training
from arms.training.observation import observe
from arms.training.recipe import Recipe
from arms.training.trainer import build_trainer


def alter(**changed):
    """A change of a trainer's arguments, which is what transformers reads."""

    def change(trainer):
        for name, value in changed.items():
            setattr(trainer.args, name, value)

    return change


# What is observed: how a trainer comes to differ in it behind the recipe's back.
OF_EVERY_STAGE = {
    "batch_size": alter(gradient_accumulation_steps=1),
    "epochs": alter(num_train_epochs=2),
    "optimizer": alter(optim="adafactor"),
    "betas": alter(adam_beta2=0.99),
    "eps": alter(adam_epsilon=1e-6),
    "weight_decay": alter(weight_decay=0.1),
    "learning_rate": alter(learning_rate=2e-3),
    "scheduler": alter(lr_scheduler_type=SchedulerType.COSINE),
    "warmup_steps": alter(warmup_steps=2),
    "max_grad_norm": alter(max_grad_norm=0.5),
    "compute_dtype": lambda trainer: setattr(trainer, "dtype", torch.bfloat16),
}
OF_DPO = {
    "beta": lambda trainer: setattr(trainer, "beta", 0.2),
    "loss_type": lambda trainer: setattr(trainer, "loss_type", "hinge"),
    "label_smoothing": lambda trainer: setattr(trainer, "label_smoothing", 0.1),
    "f_divergence": lambda trainer: setattr(trainer, "f_divergence_type", "js_divergence"),
    "reference_free": lambda trainer: setattr(trainer, "reference_free", True),
}


def trained(study, stage, change=None):
    """What is observed of a small run whose trainer `change` has altered after it was built."""
    settings = {"sft": SFT, "dpo": DPO}[stage]
    recipe = Recipe.of({**settings, stage: {**settings[stage], "batch_size": 8, "micro_batch_size": 4}}, stage)
    card = study.folder / "model" / "model.json"
    rows = read_tokens(study.folder / ("sft.parquet" if stage == "sft" else "pairs.parquet"))[:16]
    rows = [{**row, "reference_chosen_logps": -9.0, "reference_rejected_logps": -9.0} for row in rows]
    model = new_adapter(load_base(card, "fp32"), settings["lora"], seed=1)
    prepare_training(model, 0.0, gradient_checkpointing=False)
    trainer = build_trainer(recipe, model, load_tokenizer(card), rows, torch.float32, seed=1)
    if change:
        change(trainer)
    trainer.train()
    return json.loads(json.dumps(observe(trainer)))


@pytest.fixture(scope="module")
def honest(study):
    """What is observed of a run of each stage."""
    return {stage: trained(study, stage) for stage in ("sft", "dpo")}


def runs(honest, **altered):
    """observed.json of SFT and both DPO arms of two seeds; `altered` fields are those of the last."""
    found = {}
    for seed in (1, 2):
        for arm in ("sft", "sft_dpo", "dpo_only"):
            name = f"{arm}-seed{seed}"
            run = {"arm": arm, "seed": seed, "adapter_sha256": name, "model_sha256": "m", "tokens_sha256": "t"}
            found[name] = {**honest["sft" if arm == "sft" else "dpo"], **run}
    found["dpo_only-seed2"].update(altered)
    return found


def test_equal_runs_are_alike_in_everything_that_is_named(honest):
    alike = compare(runs(honest))
    assert alike["every dpo run"]["beta"] == 0.1
    assert alike["every dpo run"]["learning_rate"] == [DPO["dpo"]["learning_rate"]]
    assert alike["every sft run"]["learning_rate"] == [RECIPE["learning_rate"]]
    assert alike["every sft run"]["batch_size"] == 8
    assert "beta" not in alike["every sft run"]
    sometimes = {"processes", "max_length", "micro_batch_size", "engine"}
    assert set(alike["every dpo run"]) == {*STAGE, *LOSS} - sometimes
    assert set(alike["every run"]) == set(WORLD) - sometimes


def with_objectives(honest, **altered):
    """The same with runs of two other objectives, KTO from both starts; `altered` fields are those of the last."""
    found = runs(honest)
    for seed in (1, 2):
        for arm in ("orpo_only", "kto_only", "sft_kto"):
            own = {"orpo": {"beta": 0.1}, "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}}
            name = arm.removeprefix("sft_").removesuffix("_only")
            run = {**found[f"dpo_only-seed{seed}"], "arm": arm, "adapter_sha256": f"{arm}-{seed}", "objective": name}
            for field in LOSS:
                run.pop(field, None)  # engine is said of the minimal one alone
            found[f"{arm}-seed{seed}"] = {**run, **own[name]}
    found["sft_kto-seed2"].update(altered)
    return found


def test_runs_of_one_objective_are_compared_and_all_on_the_pairs_they_saw(honest):
    alike = compare(with_objectives(honest))
    assert alike["every kto run"]["desirable_weight"] == 1.0
    assert alike["every orpo run"]["objective"] == "orpo"
    assert alike["every dpo run"]["loss_type"] == "sigmoid"
    assert alike["every run on pairs"]["tokens_sha256"] == "t"
    assert "batch_order_sha256" in alike["every arm on pairs of seed 1, 1 epochs"]
    assert "every run on pairs" not in compare(runs(honest)), "without added arms nothing more is said"


def with_merged(honest, **altered):
    """Runs after SFT on merged weights, made of one base; `altered` fields are those of sft_kto of the last seed."""
    found = with_objectives(honest)
    for run in found.values():
        if run["arm"].startswith("sft_"):
            run |= {
                "base_sha256": "m",
                "model_sha256": f"merged-{run['seed']}",
                "parent_sha256": f"sft-seed{run['seed']}",
            }
    found["sft_kto-seed2"].update(altered)
    return found


def test_runs_on_merged_weights_have_the_base_that_these_are_made_of(honest):
    alike, found = compare(with_merged(honest)), merged_weights(with_merged(honest))
    assert alike["every run"]["model_sha256"] == "m"
    assert alike["every run on merged weights of seed 1"] == {"merged_sha256": "merged-1"}
    assert found == {"sft-seed1": "merged-1", "sft-seed2": "merged-2"}
    assert merged_weights(with_objectives(honest)) == {}
    assert not [name for name in compare(with_objectives(honest)) if "merged" in name]


@pytest.mark.parametrize("altered", [{"base_sha256": "other"}, {"model_sha256": "other"}])
def test_another_base_or_other_merged_weights_stop_the_study(honest, altered):
    with pytest.raises(UserError, match=r"(model|merged)_sha256 must be alike in .*seed2 has .*other"):
        compare(with_merged(honest, **altered))


def test_all_runs_after_sft_start_from_the_merged_weights_of_their_own_sft_run(honest):
    with pytest.raises(UserError, match=r"sft_kto-seed2: this run does not start from the merged weights of base and"):
        merged_weights(with_merged(honest, parent_sha256="sft-seed1"))
    runs = with_merged(honest)
    del runs["sft_kto-seed2"]["base_sha256"]
    with pytest.raises(UserError, match="as every run after SFT must if one does"):
        merged_weights(runs)


@pytest.mark.parametrize("field", ["beta", "desirable_weight", "learning_rate", "tokens_sha256", "batch_order_sha256"])
def test_a_field_of_an_objective_that_differs_stops_the_study(honest, field):
    with pytest.raises(UserError, match=rf"{field} must be alike in .*seed2 has .*other"):
        compare(with_objectives(honest, **{field: "other"}))


@pytest.mark.parametrize("field", [*WORLD, *STAGE, *LOSS, "batch_order_sha256"])
def test_one_field_that_differs_stops_the_study(honest, field):
    observed = runs(honest)["dpo_only-seed2"].get(field)
    other = [*observed, "other"] if isinstance(observed, list) else "other"
    with pytest.raises(UserError, match=rf"{field} must be alike in .*seed2 has .*other"):
        compare(runs(honest, **{field: other}))


@pytest.mark.parametrize(("stage", "field"), [("sft", f) for f in OF_EVERY_STAGE] + [("dpo", f) for f in OF_DPO])
def test_a_trainer_that_was_altered_shows_it(study, honest, stage, field):
    altered = trained(study, stage, {**OF_EVERY_STAGE, **OF_DPO}[field])
    assert altered[field] != honest[stage][field]
    with pytest.raises(UserError, match=f"{field} must be alike in every "):
        compare(runs(honest, **{**copy.deepcopy(honest["dpo"]), field: altered[field]}))


def test_the_learning_rates_of_all_steps_are_observed(study, honest):
    """Whatever the arguments say: here the scheduler itself is another."""

    def change(trainer):
        trainer.create_optimizer()
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1 / (1 + step))

    altered = trained(study, "sft", change)
    fields = ("scheduler", "learning_rate", "warmup_steps")
    assert [altered[field] for field in fields] == [honest["sft"][field] for field in fields]
    assert altered["learning_rates_sha256"] != honest["sft"]["learning_rates_sha256"]
