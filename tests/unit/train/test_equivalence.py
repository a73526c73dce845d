"""Our DPO, TRL with a live frozen reference adapter, and the DPO paper's equation written out: the same at every step.

Three programs that share only the token ids and the SFT adapter:

    ours     scripts/train_dpo.py: reference log-probabilities from a table, one forked row a pair
    stock    TRL's DPOTrainer: full logits, padded batches, the reference is a second copy of the adapter in the model
    equation PyTorch alone: one completion at a time, the reference is another model, the loss as in the papers
"""

import copy
import importlib
import json
import math
import random
import shutil

import pandas
import pytest
import torch
from conftest import DPO, SFT, TOKENS, WORDS, Study
from fresh import SEED, fresh_adapter
from peft import PeftModel
from stock_sft import sft_curves
from transformers import AutoModelForCausalLM

from arms.data.token_rows import read_tokens
from arms.stacks import NAME, stack

stock = importlib.import_module(f"stock_{NAME}")  # the TRL that this environment has
TOLERANCE = 2e-5
EPOCHS = 4  # 24 pairs in batches of 4: 24 optimiser steps
# Adam amplifies fp32 rounding: at 1e-2 stock and equation, which share no code of ours, came 1e-4 apart (hinge).
LEARNING_RATE = 3e-3
torch.set_num_threads(1)


def uneven_pairs():
    """24 pairs of many lengths, so that every batch is padded; some share no beginning, some are cut short."""
    draw = random.Random(3)
    rows = []
    for i in range(24):
        words = draw.sample(WORDS, 12)
        shared = words[: i % 4]
        chosen, rejected = shared + words[4 : 5 + i % 3], shared + words[8 : 8 + max(i % 5, not shared)]
        row = {"id": f"u{i}", "category": "a", "prompt": f"Say {' '.join(draw.sample(WORDS, 1 + i % 7))}."}
        rows.append({**row, "chosen": " ".join(chosen), "rejected": " ".join(rejected)})
    return rows


@pytest.fixture(scope="module")
def uneven(study, tmp_path_factory):
    """The study's model and SFT adapter with other pairs, and the reference tables of these."""
    folder = tmp_path_factory.mktemp("uneven")
    for name in ("model", "sft"):
        shutil.copytree(study.folder / name, folder / name)
    study = Study(folder)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in uneven_pairs()))
    flags = ["--data", "pairs.jsonl", "--kind", "pairs", "--tokens", "pairs.parquet", "--audit", "pairs.json"]
    study.run("tokenize_data", TOKENS, "--model", "model/model.json", *flags)
    study.score("base.parquet")
    study.score("sft.table.parquet", "--adapter", "sft/arm.json")
    return study


def log_ratio(policy, reference, pair, side, mean):
    """log pi(y|x) - log pi_ref(y|x) of one completion (its tokens' mean if `mean`); the gradient runs into `policy`."""
    ids = torch.tensor([pair["prompt_ids"] + pair[side]])
    values = []
    for model in (policy, reference):
        with torch.set_grad_enabled(model is policy):
            logps = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            completion = logps[len(pair["prompt_ids"]) - 1 :]
            values.append(completion.mean() if mean else completion.sum())
    return values[0] - values[1]


def equation(loss_type, beta, smoothing, difference):
    """The loss of one pair. `difference`: the chosen log-ratio minus the rejected one.

    sigmoid: Rafailov et al. 2023, equation 7; with label smoothing the conservative DPO of Mitchell 2023, equation 3.
    robust: Chowdhury et al. 2024, equation 12. hinge: Zhao et al. 2023 (SLiC), normalised as in Liu et al. 2024.
    ipo: Azar et al. 2023, equation 17, where TRL takes log-ratios per token.
    """
    right, wrong = -torch.log(torch.sigmoid(beta * difference)), -torch.log(torch.sigmoid(-beta * difference))
    if loss_type == "sigmoid":
        return (1 - smoothing) * right + smoothing * wrong
    if loss_type == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    if loss_type == "hinge":
        return torch.clamp(1 - beta * difference, min=0)
    assert loss_type == "ipo"
    return (difference - 1 / (2 * beta)) ** 2


def learning_rate(recipe, step, steps):
    """The learning rate of one step, constant or cosine after a linear warm-up."""
    warmup = math.ceil(recipe["warmup_ratio"] * steps)
    if recipe["scheduler"] == "constant":
        return recipe["learning_rate"]
    assert recipe["scheduler"] == "cosine"
    if step < warmup:
        return recipe["learning_rate"] * step / warmup
    return recipe["learning_rate"] * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def equation_curves(study, arm, recipe):
    """Per-step loss and margin of a training loop without TRL, transformers' Trainer or a reference table."""
    pairs = read_tokens(study.folder / "pairs.parquet")
    base = AutoModelForCausalLM.from_pretrained(str(study.folder / "model" / "weights"), **{stack.DTYPE: torch.float32})
    reference = copy.deepcopy(base)
    if arm == "sft_dpo":
        policy = PeftModel.from_pretrained(base, str(study.folder / "sft"), is_trainable=True)
        reference = PeftModel.from_pretrained(reference, str(study.folder / "sft"))
    else:
        policy, _ = fresh_adapter(base)
    policy.eval()  # there is no dropout to lose
    weights = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.999), eps=1e-8, weight_decay=recipe["weight_decay"])
    size, curves = recipe["batch_size"], []
    steps = recipe["epochs"] * len(pairs) // size
    for epoch in range(recipe["epochs"]):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        for start in range(0, len(pairs), size):
            losses, margins = [], []
            for index in order[start : start + size]:
                sides = [
                    log_ratio(policy, reference, pairs[index], side, mean=recipe["loss_type"] == "ipo")
                    for side in ("chosen_ids", "rejected_ids")
                ]
                difference = sides[0] - sides[1]
                loss = equation(recipe["loss_type"], recipe["beta"], recipe["label_smoothing"], difference)
                (loss / size).backward()
                losses.append(loss.item())
                margins.append(recipe["beta"] * difference.item())
            torch.nn.utils.clip_grad_norm_(weights, recipe["max_grad_norm"])
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, len(curves), steps)
            optimizer.step()
            optimizer.zero_grad()
            row = {"step": len(curves), "loss": sum(losses) / size, "margin": sum(margins) / size}
            curves.append({**row, "flat": losses.count(0.0)})
    return pandas.DataFrame(curves).set_index("step")


CASES = {
    "sigmoid": ("sft_dpo", {}),
    "sigmoid, DPO only, cosine": ("dpo_only", {"scheduler": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.1}),
    "sigmoid, label smoothing": ("sft_dpo", {"label_smoothing": 0.1, "scheduler": "cosine"}),
    "robust": ("sft_dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
    "hinge": ("sft_dpo", {"loss_type": "hinge", "beta": 2.0}),
    "ipo": ("sft_dpo", {"loss_type": "ipo", "beta": 1.0}),
}


@pytest.mark.parametrize(("arm", "changes"), CASES.values(), ids=CASES)
def test_every_step_equals_trl_and_the_equation(uneven, request, arm, changes):
    recipe = {**DPO["dpo"], "epochs": EPOCHS, "learning_rate": LEARNING_RATE, "beta": 0.5, **changes}
    output = f"equivalence, {request.node.callspec.id}"
    start = ["sft.table.parquet", "--start", "sft/arm.json"] if arm == "sft_dpo" else ["base.parquet"]
    uneven.train_dpo(output, *start, settings={**DPO, "dpo": recipe})
    ours = pandas.read_parquet(uneven.folder / output / "curves.parquet").set_index("step")
    trl, paper = stock.stock_curves(uneven, arm, recipe), equation_curves(uneven, arm, recipe)
    assert len(ours) == len(trl) == len(paper) == 24
    unlike = stock.UNLIKE.get(request.node.callspec.id, ())
    for column in ("loss", "margin"):
        for theirs in (paper, *([trl] if column not in unlike else [])):
            assert ours[column].to_numpy() == pytest.approx(theirs[column].to_numpy(), abs=TOLERANCE, rel=0)
    for column in unlike:
        assert ours[column].to_numpy() != pytest.approx(trl[column].to_numpy(), abs=TOLERANCE, rel=0)
    assert ours["margin"].abs().max() > 0.05  # the policy really moved
    if recipe["loss_type"] == "hinge":
        assert paper["flat"].sum() > 0  # some pairs were beyond the hinge, where the loss has no gradient


def test_sft_equals_trl_at_every_step(study):
    recipe = {**SFT["sft"], "epochs": 4, "micro_batch_size": 4, "learning_rate": LEARNING_RATE}
    study.train_sft("equivalence sft", settings={**SFT, "sft": recipe})
    ours = pandas.read_parquet(study.folder / "equivalence sft" / "curves.parquet")["loss"]
    theirs = sft_curves(study, recipe, **stock.SFT)
    assert len(ours) == len(theirs) == 24
    assert ours.to_numpy() == pytest.approx(theirs, abs=TOLERANCE, rel=0)
    assert theirs[-1] < theirs[0] - 0.1  # it really learns
