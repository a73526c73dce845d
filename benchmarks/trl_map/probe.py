"""Runs inside one environment: what does this TRL do? Writes one JSON.

    .envs/map-0.8.6/bin/python benchmarks/trl_map/probe.py --inputs FOLDER --output 0.8.6.json

Trains the same tiny DPO in several ways and finds which reference each really used: the loss and rewards of the first
step are compared with those that follow from plain forward passes of the bare base and of base and SFT adapter, over
the very ids that the trainer fed. Then makes the calls of calls.py and keeps their exact errors.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_DISABLED="true")

import torch
from calls import all_calls, fresh_lora, outcome_of
from stack import BETA, Inputs, right_trainer, see_ids, watched

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy")
GIVEN = (0.0, -50.0)  # false log-probabilities of a reference, far from any that a model gives
CLOSE = 1e-4
SIDES = ("chosen", "rejected")


def main() -> None:
    """Run everything, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", required=True, type=Path, help="the folder that make_inputs.py wrote")
    parser.add_argument("--output", required=True, type=Path, help="what was found, JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable(logging.WARNING)
    inputs = Inputs(args.inputs)
    found = {
        "packages": {name: importlib.metadata.version(name) for name in ("trl", *PACKAGES)},
        "cases": {
            name: tried(case, inputs) for name, case in CASES.items()
        },  # first: a call may leave bf16 switched on
        "calls": all_calls(inputs),
    }
    args.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


def tried(case, inputs: Inputs) -> dict:
    """What a case found, or the error that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome_of(lambda: case(inputs))


def trained(inputs: Inputs, start: str, model=None, rows=None, **options) -> dict:
    """Train six steps; the losses, the passes of the model in the last step, and the reference of the first.

    start: the adapter that the policy starts from, or "base" for all weights. model: such a policy, made otherwise.
    """
    model = model or (inputs.base() if start == "base" else inputs.policy(start))
    kind = watched()
    see_ids(model, kind.seen)
    if options.get("ref_model") is not None:
        see_ids(options["ref_model"], kind.seen)
    trainer = right_trainer(kind, inputs, model, rows if rows is not None else inputs.rows(), **options)
    trainer.train()
    first = next(line for line in trainer.state.log_history if "rewards/chosen" in line)
    step0 = {"loss": kind.losses[0], **{side: first[f"rewards/{side}"] for side in SIDES}}
    tokens, expected = references(inputs, kind.seen, "sft" if start == "sft" else "base")
    names = [name for name, values in expected.items() if close(step0, values)]
    return {
        "losses": kind.losses,
        "passes": kind.passes[-1],
        "reference": " and ".join(names) or "none of these",
        "step0": step0,
        "expected": expected,
        "tokens": tokens,
    }


def close(found: dict, values: dict) -> bool:
    """Whether loss and both rewards are those of a reference."""
    return all(abs(found[name] - values[name]) < CLOSE for name in values)


def references(inputs: Inputs, seen: list, start: str) -> tuple[dict, dict]:
    """(how a pair was tokenised, what the first step gives with each possible reference).

    start: which of the two the policy is before its first step. By plain forward passes, one row at a time.
    """
    ids = next(batch for batch in seen if len(batch) == 2 * len(inputs.pairs))
    models = {"base": inputs.base(), "sft": inputs.policy("sft", is_trainable=False)}
    logps = {"given": dict(zip(SIDES, map(torch.tensor, GIVEN), strict=True))}
    tokens = {}
    for name, model in models.items():
        sums = [logp(model.eval(), inputs, row, tokens) for row in ids]
        logps[name] = dict(zip(SIDES, torch.tensor(sums).chunk(2), strict=True))
    expected = {}
    for name, reference in logps.items():
        rewards = {side: BETA * (logps[start][side] - reference[side]) for side in SIDES}
        loss = -torch.nn.functional.logsigmoid(rewards["chosen"] - rewards["rejected"]).mean().item()
        expected[name] = {"loss": loss, **{side: rewards[side].mean().item() for side in SIDES}}
    return tokens, expected


def logp(model, inputs: Inputs, row: torch.Tensor, tokens: dict) -> float:
    """The sum over an answer's tokens of their log-probability; notes what surrounds them in `tokens`."""
    tokenizer = inputs.tokenizer
    row = row[row != tokenizer.pad_token_id]  # which is no token of any text here
    for pair in inputs.pairs:
        prompt = tokenizer(pair["prompt"], add_special_tokens=False)["input_ids"]
        starts = [at for at in (0, 1) if row[at : at + len(prompt)].tolist() == prompt]
        if starts:
            break
    else:
        raise ValueError(f"no prompt in {row.tolist()}")
    begin = starts[0] + len(prompt)
    tokens["before the prompt"] = tokenizer.decode(row[: starts[0]])
    tokens["end of the answer"] = tokenizer.eos_token if row[-1] == tokenizer.eos_token_id else ""
    with torch.no_grad():
        scores = model(input_ids=row[None]).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, row[1:, None])[begin - 1 :, 0].sum().item()


def two_names(inputs: Inputs) -> dict:
    """The SFT adapter twice, with TRL's names for the two."""
    model = inputs.policy("sft", adapter_name="policy")
    model.load_adapter(str(inputs.folder / "sft"), adapter_name="reference")
    return trained(inputs, "sft", model, model_adapter_name="policy", ref_adapter_name="reference")


def merged(inputs: Inputs, lora: bool) -> dict:
    """The SFT adapter merged in memory; trained whole, or with TRL's fresh adapter on it."""
    model = inputs.policy("sft", is_trainable=False).merge_and_unload().requires_grad_(True)
    return trained(inputs, "sft", model, learning_rate=1e-3, **({"peft_config": fresh_lora()} if lora else {}))


def columns(names: str, flag: bool):
    """A case with false log-probabilities of the reference in columns of these names."""
    given = dict(zip((f"{names}_chosen_logps", f"{names}_rejected_logps"), GIVEN, strict=True))

    def case(inputs: Inputs) -> dict:
        options = {"precompute_ref_log_probs": True} if flag else {}
        return trained(inputs, "sft", rows=inputs.rows(**given), **options)

    return case


CASES = {
    "fresh": lambda inputs: trained(inputs, "fresh"),
    "kept": lambda inputs: trained(inputs, "sft"),
    "two_names": two_names,
    "explicit": lambda inputs: trained(
        inputs, "sft", ref_model=inputs.policy("sft", is_trainable=False).merge_and_unload()
    ),
    "kept_precompute": lambda inputs: trained(inputs, "sft", precompute_ref_log_probs=True),
    "full": lambda inputs: trained(inputs, "base", learning_rate=1e-3),
    "full_precompute": lambda inputs: trained(inputs, "base", learning_rate=1e-3, precompute_ref_log_probs=True),
    "merged": lambda inputs: merged(inputs, lora=False),
    "merged_lora": lambda inputs: merged(inputs, lora=True),
    "kept_peft_config": lambda inputs: trained(inputs, "sft", peft_config=fresh_lora()),
    "columns_reference": columns("reference", False),
    "columns_reference_flag": columns("reference", True),
    "columns_ref": columns("ref", False),
    "columns_ref_flag": columns("ref", True),
}


if __name__ == "__main__":
    main()
