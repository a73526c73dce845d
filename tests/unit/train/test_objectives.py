"""ORPO, KTO and SimPO: equal to TRL's own losses, to the papers' equations at every step, and held by their gate."""

import math
from dataclasses import dataclass

import pandas
import pyarrow.parquet
import pytest
import torch
from conftest import RECIPE, SHARED, training_flags
from fresh import SEED, fresh_adapter
from peft import PeftModel
from test_equivalence import TOLERANCE, learning_rate, uneven  # noqa: F401 (a fixture)
from transformers import AutoModelForCausalLM

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job.files import UserError
from arms.model.models import load_base, new_adapter, prepare_training
from arms.scoring.tables import KEY
from arms.stacks import NAME
from arms.training.objectives import Kto, Logps, Orpo, Simpo, build_objective, check_start, read_recipe

EPOCHS = 3  # 24 pairs in batches of 4 (micro-batches of 2): 18 optimiser steps
torch.set_num_threads(1)
OWN = {
    "orpo": {"beta": 0.3},
    "kto": {"beta": 0.5, "desirable_weight": 3.0, "undesirable_weight": 0.5},  # so that it gains on all answers: KL > 0
    "simpo": {"beta": 2.0, "gamma": 1.0},
}


def settings_of(name, **changes):
    recipe = {**RECIPE, "learning_rate": 3e-3, "epochs": EPOCHS, **OWN[name], **changes}
    return {**SHARED, "start": "adapter", "objective": name, name: recipe}


def train(study, output, arm, *flags, settings, fails=False):
    own = [*training_flags(output), "--tokens", "pairs.parquet", *flags]
    return study.run("train_objective", settings, *own, fails=fails, arm=arm, seed=str(SEED))


def kto_flags(study, start):
    """Flags of KTO's tables, which are made here if they are not there: for "base", or from the adapter in "sft"."""
    table, adapter = f"mismatched.{start}.parquet", ["--adapter", "sft/arm.json"] if start == "sft" else []
    study.mismatch(table, *adapter)
    own = {"base": ["base.parquet"], "sft": ["sft.table.parquet", "--start", "sft/arm.json"]}[start]
    return ["--reference", *own, "--mismatched", "mismatched.parquet", "--mismatched-reference", table]


def logps(model, prompt, completion):
    """The log-probabilities of a completion's tokens, from the model's own logits."""
    ids = torch.tensor([prompt + completion])
    found = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return found[len(prompt) - 1 :]


def mismatch(pairs):
    """For each pair the answers of the nearest pair before it, in a circle, that has another prompt; cut to fit."""
    longest = max(len(row["prompt_ids"] + row[side]) for row in pairs for side in ("chosen_ids", "rejected_ids"))
    found = []
    for place, row in enumerate(pairs):
        other = next(
            pairs[place - back]
            for back in range(1, len(pairs))
            if pairs[place - back]["prompt_ids"] != row["prompt_ids"]
        )
        room = longest - len(row["prompt_ids"])
        found.append([other[side][:room] for side in ("chosen_ids", "rejected_ids")])
    return found


def equation(name, own, policy, reference, rows, others):
    """The loss of one micro-batch, written out pair by pair as in the papers."""
    sides = [[logps(policy, row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids")] for row in rows]
    if name == "orpo":
        odds = [[p.mean().exp() / (1 - p.mean().exp()) for p in pair] for pair in sides]
        ratios = torch.stack([-torch.log(torch.sigmoid(torch.log(w / lost))) for w, lost in odds])
        return -torch.cat([chosen for chosen, _ in sides]).mean() + own["beta"] * ratios.mean()
    if name == "simpo":
        margins = [own["beta"] * (chosen.mean() - rejected.mean()) - own["gamma"] for chosen, rejected in sides]
        return -torch.stack([torch.log(torch.sigmoid(margin)) for margin in margins]).mean()
    with torch.no_grad():
        gains = [
            logps(policy, row["prompt_ids"], ids).sum() - logps(reference, row["prompt_ids"], ids).sum()
            for row, pair in zip(rows, others, strict=True)
            for ids in pair
        ]
        start = [
            [logps(reference, row["prompt_ids"], row[side]).sum() for side in ("chosen_ids", "rejected_ids")]
            for row in rows
        ]
    kl = max(0.0, float(torch.stack(gains).mean()))
    losses = []
    for (chosen, rejected), (chosen_start, rejected_start) in zip(sides, start, strict=True):
        good, bad = chosen.sum() - chosen_start, rejected.sum() - rejected_start
        losses.append(own["desirable_weight"] * (1 - torch.sigmoid(own["beta"] * (good - kl))))
        losses.append(own["undesirable_weight"] * (1 - torch.sigmoid(own["beta"] * (kl - bad))))
    return torch.stack(losses).mean()


def equation_losses(study, name, start, recipe):
    """Per-step losses of a training loop of PyTorch alone: no Trainer, no padding, no forked rows, no table."""
    pairs, weights = list(read_tokens(study.folder / "pairs.parquet")), str(study.folder / "model" / "weights")
    others, own = mismatch(pairs), OWN[name]
    base, reference = (AutoModelForCausalLM.from_pretrained(weights, torch_dtype=torch.float32) for _ in range(2))
    if start == "sft":
        policy = PeftModel.from_pretrained(base, str(study.folder / "sft"), is_trainable=True)
        reference = PeftModel.from_pretrained(reference, str(study.folder / "sft"))
    else:
        policy, _ = fresh_adapter(base)
    policy.eval()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    size, micro, found = recipe["batch_size"], recipe["micro_batch_size"], []
    for epoch in range(recipe["epochs"]):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        for first in range(0, len(pairs), size):
            losses = []
            for place in range(first, first + size, micro):
                some = order[place : place + micro]
                loss = equation(name, own, policy, reference, [pairs[i] for i in some], [others[i] for i in some])
                (loss * micro / size).backward()
                losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(trained, recipe["max_grad_norm"])
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, len(found), recipe["epochs"] * len(pairs) // size)
            optimizer.step()
            optimizer.zero_grad()
            found.append(sum(losses) / len(losses))
    return found


@pytest.mark.parametrize(("arm", "name", "start"), [
    ("orpo_only", "orpo", "base"), ("simpo_only", "simpo", "base"), ("kto_only", "kto", "base"),
    ("sft_kto", "kto", "sft"),
])  # fmt: skip
def test_every_step_equals_the_equation(uneven, arm, name, start):  # noqa: F811
    settings = settings_of(name)
    train(uneven, f"equation {arm}", arm, *(kto_flags(uneven, start) if name == "kto" else []), settings=settings)
    ours = pandas.read_parquet(uneven.folder / f"equation {arm}" / "curves.parquet")
    paper = equation_losses(uneven, name, start, settings[name])
    assert len(ours) == len(paper) == 18
    assert ours["loss"].tolist() == pytest.approx(paper, abs=TOLERANCE, rel=0)
    assert ours["logp_chosen"].max() - ours["logp_chosen"].min() > 0.5, "the policy really moved"
    if name == "kto":
        assert ours["kl"].max() > 0.001, "its KL term was in use"
    observed = uneven.read(f"equation {arm}/observed.json")
    assert observed["objective"] == name
    assert observed["arm"] == arm
    assert {key: observed[key] for key in OWN[name]} == OWN[name]
    assert observed["step0"]["loss"] == pytest.approx(observed["step0"]["closed_form"], abs=1e-5)


@pytest.mark.skipif(NAME == "current", reason="TRL 1.16 has no functions of log-probabilities to compare with")
def test_losses_are_trls_own(study):
    """Its three functions, on the same tensors."""
    from trl import CPOTrainer, KTOTrainer, ORPOTrainer

    draw = torch.Generator().manual_seed(0)
    tokens = [torch.tensor([3, 5, 9]), torch.tensor([4, 7, 2])]
    sums = [-2 * torch.rand(3, generator=draw) * count for count in tokens]
    policy = Logps(*sums, *tokens)
    means = policy.per_token()

    def stock(kind, **values):
        trainer = kind.__new__(kind)
        trainer.accelerator = type(
            "Accelerator", (), {"device": torch.device("cpu"), "gather": staticmethod(lambda x: x)}
        )
        trainer.__dict__.update(values)
        return trainer

    losses, *rewards, _, log_odds = stock(ORPOTrainer, beta=0.3).odds_ratio_loss(*means)
    loss, found = Orpo(0.3).loss(policy, {})
    assert (loss - found["nll"]).item() == pytest.approx(-losses.mean().item(), abs=1e-6)
    assert found["log_odds"].item() == pytest.approx(log_odds, abs=1e-6)
    assert found["margin"].item() == pytest.approx((rewards[0] - rewards[1]).mean().item(), abs=1e-6)
    assert found["nll"].item() == pytest.approx(-sums[0].sum().item() / 17)

    simpo = stock(CPOTrainer, beta=2.0, loss_type="simpo", simpo_gamma=1.0, label_smoothing=0.0)
    losses, *rewards = simpo.cpo_loss(*means)
    loss, found = Simpo(2.0, 1.0).loss(policy, {})
    assert loss.item() == pytest.approx(losses.mean().item(), abs=1e-6)
    assert found["margin"].item() == pytest.approx((rewards[0] - rewards[1]).mean().item(), abs=1e-6)

    kl_policy, kl_reference = torch.tensor([-3.0, -4.0]), torch.tensor([-3.5, -4.1])
    reference = [values + torch.randn(3, generator=draw) for values in sums]
    kto = stock(KTOTrainer, beta=0.5, desirable_weight=1.0, undesirable_weight=1.5)
    losses, *rewards, kl = kto.kto_loss(*sums, kl_policy, *reference, kl_reference)
    given = {"reference_chosen_logps": reference[0], "reference_rejected_logps": reference[1], "kl": kl}
    loss, found = Kto(0.5, 1.0, 1.5).loss(policy, given)
    assert loss.item() == pytest.approx(losses.mean().item(), abs=1e-6)
    assert found["margin"].item() == pytest.approx((rewards[0] - rewards[1]).mean().item(), abs=1e-6)


def test_closed_forms():
    """By hand, of one pair with 2 and 4 tokens of probability 1/2 and 1/4."""
    pair = [(2 * math.log(1 / 2), 4 * math.log(1 / 4), 2, 4)]
    assert Orpo(0.1).closed_form(pair) == pytest.approx(math.log(2) - 0.1 * math.log(3 / 4))  # odds 1 and 1/3
    assert Simpo(2.0, 1.0).closed_form(pair) == pytest.approx(math.log(1 + math.exp(1 - 2 * math.log(2))))
    assert Kto(0.1, 1.0, 1.0).closed_form(pair) == 0.5
    assert Kto(0.1, 1.0, 2.0).closed_form(pair) == 0.75


def trainer_of(study, name, objective=None):
    """The trainer of an objective on the study's pairs, before its first step."""
    card = study.folder / "model" / "model.json"
    settings = settings_of(name)
    own, recipe = read_recipe(settings)
    model = new_adapter(load_base(card, "fp32"), settings["lora"], SEED)
    prepare_training(model, 0.0, False)
    shared = {"model": model, "tokenizer": load_tokenizer(card), "dtype": torch.float32}
    return build_objective(objective or own, recipe, read_tokens(study.folder / "pairs.parquet"), SEED, **shared)


@pytest.mark.parametrize("name", ["orpo", "simpo"])
def test_the_gate_catches_an_adapter_that_is_not_fresh(study, name):
    trainer = trainer_of(study, name)
    assert check_start(trainer)["reference_difference"] == 0
    for key, parameter in trainer.model.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(std=0.2)
    with pytest.raises(UserError, match=r"step-0 gate.*base model, on which its adapter is fresh"):
        check_start(trainer)


@dataclass(frozen=True)
class SwappedOrpo(Orpo):
    """ORPO that prefers the rejected answer."""

    def loss(self, policy, given):
        chosen, rejected, *tokens = policy
        return super().loss(Logps(rejected, chosen, tokens[1], tokens[0]), given)


@dataclass(frozen=True)
class SumSimpo(Simpo):
    """SimPO on sums, which longer answers lose."""

    def loss(self, policy, given):
        ones = torch.ones_like(policy.chosen_tokens)
        return super().loss(Logps(policy.chosen, policy.rejected, ones, ones), given)


@pytest.mark.parametrize("wrong", [SwappedOrpo(0.3), SumSimpo(2.0, 1.0)], ids=["orpo", "simpo"])
def test_the_gate_catches_a_wrong_loss(study, wrong):
    with pytest.raises(UserError, match=r"step-0 gate: .* the loss is .* starts at"):
        check_start(trainer_of(study, type(wrong).__mro__[1].__name__.lower(), wrong))


@pytest.mark.parametrize("which", ["reference", "mismatched"])
def test_the_gate_catches_the_base_as_ktos_reference(study, which):
    """The base's numbers under the names of the SFT adapter's tables."""
    flags = kto_flags(study, "sft")
    kto_flags(study, "base")
    base, honest = {"reference": ("base.parquet", "sft.table.parquet"),
                    "mismatched": ("mismatched.base.parquet", "mismatched.sft.parquet")}[which]  # fmt: skip
    metadata = pyarrow.parquet.read_schema(study.folder / honest).metadata[KEY]
    forged = pyarrow.parquet.read_table(study.folder / base).replace_schema_metadata({KEY: metadata})
    pyarrow.parquet.write_table(forged, study.folder / f"forged-{which}.parquet")
    flags[flags.index(honest)] = f"forged-{which}.parquet"
    message = train(study, f"forged {which}", "sft_kto", *flags, settings=settings_of("kto"), fails=True)
    assert "step-0 gate" in message
    assert "reference table" in message
    assert not (study.folder / f"forged {which}" / "arm.json").exists()


def test_a_table_for_what_has_none_and_none_for_what_needs_one(study):
    message = train(study, "no", "orpo_only", "--reference", "base.parquet", settings=settings_of("orpo"), fails=True)
    assert "--reference base.parquet: orpo has no reference, and would not read it; remove it" in message
    message = train(study, "no", "kto_only", "--reference", "base.parquet", settings=settings_of("kto"), fails=True)
    assert "--mismatched is missing: kto is measured against a reference" in message
    flags = kto_flags(study, "base")
    flags[flags.index("mismatched.base.parquet")] = "base.parquet"
    message = train(study, "no", "kto_only", *flags, settings=settings_of("kto"), fails=True)
    assert "this table is of another reference policy (tokens_sha256" in message


def test_mismatched_answers_are_of_other_prompts(uneven):  # noqa: F811
    kto_flags(uneven, "base")
    pairs, found = (list(read_tokens(uneven.folder / name)) for name in ("pairs.parquet", "mismatched.parquet"))
    assert [(row["id"], row["prompt_ids"]) for row in found] == [(row["id"], row["prompt_ids"]) for row in pairs]
    assert [[row["chosen_ids"], row["rejected_ids"]] for row in found] == mismatch(pairs)


def test_without_two_prompts_nothing_is_mismatched(study):
    table = pyarrow.parquet.read_table(study.folder / "pairs.parquet")
    pyarrow.parquet.write_table(pyarrow.concat_tables([table.slice(0, 1)] * 3), study.folder / "one.parquet")
    message = study.run("mismatch_pairs", {}, "--pairs", "one.parquet", "--mismatched", "never.parquet", fails=True)
    assert "all pairs have one prompt" in message
    assert not (study.folder / "never.parquet").exists()
