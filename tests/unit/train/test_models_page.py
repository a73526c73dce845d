"""docs/models.md says of each family what happens when its tiny model goes through the programs."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "benchmarks"))

import families

from arms.stacks.pinned import COMPUTES_WINDOW, FORKING, REFUSED, SCALES_ROPE, SUPPORTED

ROWS = families.rows_of_page()
IN_EVERY_RUN = ("Mistral, rows longer than its window", "OPT", "Gemma 2", "Qwen 3")
OTHERS = pytest.mark.test_all("ten minutes for all of forty families; every run tries four")


def test_every_family_has_its_row():
    assert list(ROWS)[2:] == list(families.FAMILIES)
    runs = {families.FAMILIES[name][0] for name, row in ROWS.items() if row.endswith("| runs |")}
    assert runs == set(SUPPORTED)
    shared = {families.FAMILIES[name][0] for name, row in ROWS.items() if "| yes |" in row}
    assert shared == set(FORKING)
    assert set(REFUSED) == {families.FAMILIES[name][0] for name, row in ROWS.items() if "does not take" in row}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_EVERY_RUN else OTHERS) for name in families.FAMILIES]
)
def test_its_row_is_true(name):
    assert families.row_of(name) == ROWS[name]


def logits(kind: str, **changes) -> torch.Tensor:
    """Logits of a tiny random model, eager, for a row of 40 tokens, after a change of its configuration."""
    config = AutoConfig.for_model(kind, vocab_size=300, **next(c for k, c in families.FAMILIES.values() if k == kind))
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    with torch.inference_mode():
        return model(torch.arange(20, 60)[None]).logits


@pytest.mark.parametrize("kind", SUPPORTED)
def test_whose_scaled_positions_and_windows_are_computed(kind):
    """Others take no notice, which is why they are refused (arms.model.architecture)."""
    plain = logits(kind)
    if kind != "phi3":  # its only kind of scaling is longrope
        scaled = logits(kind, rope_scaling={"type": "linear", "rope_type": "linear", "factor": 4.0})
        assert torch.equal(plain, scaled) == (kind not in SCALES_ROPE)
    windowed = logits(kind, sliding_window=8, use_sliding_window=True)
    assert torch.equal(plain, windowed) == (kind not in COMPUTES_WINDOW)
