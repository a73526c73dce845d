"""The loss reference_free: no reference in loss and rewards, a gate of its own, and what stock TRL does instead."""

import copy
import math

import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import DPO
from transformers import AutoModelForCausalLM

from arms.scoring.tables import KEY
from arms.stacks import NAME
from arms.training.gates import reference_free_start

BETA = DPO["dpo"]["beta"]


def settings(engine=None, **changes):
    recipe = {**DPO["dpo"], "loss_type": "reference_free", **changes}
    return {**DPO, "dpo": {**recipe, "engine": engine} if engine else recipe}


def by_hand(table, smoothing):
    """The mean loss of pairs, from their sums of log-probabilities."""
    x = torch.tensor((BETA * (table["chosen_logp"] - table["rejected_logp"])).to_numpy())
    right, wrong = (-torch.log(torch.sigmoid(sign * x)) for sign in (1, -1))
    return ((1 - smoothing) * right + smoothing * wrong).mean().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("engine", [None, "minimal"])
def test_it_starts_where_the_log_probabilities_of_the_start_put_it(study, engine, smoothing):
    name = f"free-{engine}-{smoothing}"
    changes = {"label_smoothing": smoothing}
    study.train_dpo(name, "sft.table.parquet", "--start", "sft/arm.json", settings=settings(engine, **changes))
    observed, curves = study.read(f"{name}/observed.json"), pandas.read_parquet(study.folder / name / "curves.parquet")
    table = pandas.read_parquet(study.folder / "sft.table.parquet")
    step0 = observed["step0"]
    assert step0["closed_form"] == pytest.approx(by_hand(table.head(16), smoothing), abs=1e-6)
    assert step0["loss"] == pytest.approx(step0["closed_form"], abs=1e-4)
    assert abs(step0["closed_form"] - math.log(2)) > 1e-3, "not DPO's"
    assert (observed["loss_type"], observed["reference_free"]) == ("sigmoid", True)
    assert curves["reward_chosen"].to_numpy() == pytest.approx(BETA * curves["logp_chosen"].to_numpy(), rel=1e-5)
    assert curves["reward_rejected"].to_numpy() == pytest.approx(BETA * curves["logp_rejected"].to_numpy(), rel=1e-5)


def test_closed_form_of_far_apart_answers():
    assert reference_free_start([(-5000.0, -1.0)], 1.0, 0.0) == pytest.approx(4999)
    assert reference_free_start([(-1.0, -5000.0)], 1.0, 0.1) == pytest.approx(499.9)


@pytest.mark.parametrize("engine", ["trl", "minimal"])
def test_the_gate_catches_another_start(study, engine):
    forged = pyarrow.parquet.read_table(study.folder / "base.parquet")
    honest = pyarrow.parquet.read_schema(study.folder / "sft.table.parquet").metadata[KEY]
    pyarrow.parquet.write_table(forged.replace_schema_metadata({KEY: honest}), study.folder / "not sft.parquet")
    flags = ["not sft.parquet", "--start", "sft/arm.json"]
    message = study.train_dpo("free-forged", *flags, settings=settings(engine), fails=True)
    assert "step-0 gate" in message
    assert "(a reference_free loss starts at" in message


def test_the_reference_changes_nothing_in_training(study):
    """Other numbers in the table, other drift: the adapter is the same to the byte."""
    table = pyarrow.parquet.read_table(study.folder / "base.parquet")
    moved = table.set_column(1, "chosen_logp", pyarrow.compute.add(table["chosen_logp"], 1e-4))
    pyarrow.parquet.write_table(moved.replace_schema_metadata(table.schema.metadata), study.folder / "moved.parquet")
    for name, reference in (("free-one", "base.parquet"), ("free-other", "moved.parquet")):
        study.train_dpo(name, reference, settings=settings())
    one, other = (study.folder / name / "adapter_model.safetensors" for name in ("free-one", "free-other"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.skipif(NAME == "current", reason="TRL 1.16 has no reference_free")
def test_stock_trl_runs_the_reference_all_the_same_and_logs_rewards_against_it(study):
    """With reference_free a reference passes forward as often, and stays in memory; only the loss leaves it out."""
    from test_traps import stock_dpo

    base = AutoModelForCausalLM.from_pretrained(study.folder / "model/weights")
    passes, losses, rewards = {}, {}, {}
    for free in (False, True):
        policy, reference = copy.deepcopy(base), copy.deepcopy(base)
        with torch.no_grad():
            reference.lm_head.weight.mul_(1.5)
        seen = []
        reference.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        trainer = stock_dpo(study, policy, ref_model=reference, config={"reference_free": free})
        assert trainer.ref_model is not None
        batch = next(iter(trainer.get_train_dataloader()))
        loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
        losses[free], rewards[free] = loss.item(), metrics["rewards/chosen"].item()
        seen.clear()
        trainer.train()
        passes[free] = len(seen) / trainer.state.global_step
    assert passes[True] == passes[False] >= 1
    assert losses[True] != losses[False]
    assert rewards[True] == rewards[False], "of beta (log p - log p_ref), which this loss does not know"
