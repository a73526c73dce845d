"""Adapters of a model of experts: saved, loaded again, and a stack of two as one."""

import pytest
import torch
from test_agreement import make

from arms.model import models
from arms.stacks import NAME

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
IDS = torch.arange(20, 60)[None]


def moved(model, seed: int):
    """Whose trainable weights are drawn at random."""
    torch.manual_seed(seed)
    for parameter in models.trainable(model).values():
        parameter.data.normal_(std=0.3)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", *(["qwen3_moe"] if NAME == "current" else [])])
def test_a_stack_of_adapters_is_one(tmp_path, family):
    sizes = {"num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
    sizes |= {"shared_expert_intermediate_size": 32} if family == "qwen2_moe" else {}
    first = moved(models.new_adapter(make(family, scale=1, **sizes), LORA, 1), 5)
    models.save_adapter(first, tmp_path / "first" / "arm.json", {})
    expected = first(IDS).logits
    again = models.load_adapter(make(family, scale=1, **sizes), tmp_path / "first" / "arm.json").eval()
    assert torch.equal(again(IDS).logits, expected)
    both = models.stack_adapter(make(family, scale=1, **sizes), tmp_path / "first" / "arm.json", LORA, 2).eval()
    torch.testing.assert_close(both(IDS).logits, expected, atol=1e-5, rtol=0)
    stacked = moved(both, 6)(IDS).logits
    assert (stacked - expected).abs().max() > 0.01
    models.save_adapter(both, tmp_path / "second" / "arm.json", {})
    joined = models.load_adapter(make(family, scale=1, **sizes), tmp_path / "second" / "arm.json").eval()
    torch.testing.assert_close(joined(IDS).logits, stacked, atol=1e-4, rtol=0)
