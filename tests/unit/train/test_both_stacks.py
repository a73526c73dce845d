"""What the pinned stack computes from a model's files, the current one computes too; the pinned one writes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "benchmarks"))

import families

from arms.model.architecture import check_config
from arms.model.base_card import tensor_headers
from arms.model.fit import check_tensors, empty_model
from arms.stacks import NAME, STACKS

PINNED = ROOT / ".envs" / "train" / "bin" / "python"
pytestmark = [
    pytest.mark.skipif(NAME == "pinned", reason="compared from the current stack's environment"),
    pytest.mark.skipif(not PINNED.exists(), reason="make setup: the pinned stack is not installed"),
]
# Values that no family has by itself: a base that is not read would show.
CHANGES = {
    "cohere": {"rope_theta": 77.0},
    "falcon": {"rope_theta": 77.0},
    "gemma": {"rope_theta": 77.0},
    "gpt_neox": {"rotary_emb_base": 77, "rotary_pct": 0.5},
    "mixtral": {"rope_theta": 77.0},
    "persimmon": {"rope_theta": 77.0, "partial_rotary_factor": 0.5},
    "phi": {"rope_theta": 77.0, "partial_rotary_factor": 0.5},
    "qwen2": {"rope_theta": 77.0},
    "stablelm": {"rope_theta": 77.0, "partial_rotary_factor": 0.5},
}
KINDS = sorted(set(STACKS["pinned"].SUPPORTED) & set(STACKS["current"].SUPPORTED))
# Families whose tiny models the pinned stack refuses, or computes without their window.
TRIED = [name for name, (kind, _) in families.FAMILIES.items() if kind in KINDS and "window" not in name]
TRIED = [name for name in TRIED if "YaRN" not in name and "ALiBi" not in name] + [
    "Mistral, rows longer than its window"
]
WRITE = """
import json, pathlib, sys, torch
from safetensors.torch import save_file
sys.path += sys.argv[3:]
import families
for number, (kind, changes) in enumerate(json.loads(sys.argv[2])):
    model, folder = families.tiny_model(kind, changes, 400), pathlib.Path(sys.argv[1], str(number))
    model.save_pretrained(folder, safe_serialization=True)
    with torch.inference_mode():
        logits = model(torch.arange(20, 80)[None], use_cache=False).logits
    save_file({"logits": logits.contiguous()}, folder.with_suffix(".logits"))
"""
ALL = [families.FAMILIES[name] for name in TRIED]
ALL += [(kind, {**next(own for k, own in ALL if k == kind), **changes}) for kind, changes in CHANGES.items()]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    command = [PINNED, "-c", WRITE, folder, json.dumps(ALL), ROOT / "benchmarks", ROOT / "scripts"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("number", range(len(ALL)), ids=[*TRIED, *CHANGES])
def test_the_same_files_mean_the_same(files, number):
    folder = files / str(number)
    config = check_config(folder)
    shapes = {name: tuple(entry["shape"]) for name, entry in tensor_headers(folder).items()}
    check_tensors(empty_model(config), shapes)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config).eval()
    with torch.inference_mode():
        found = model(torch.arange(20, 80)[None], use_cache=False).logits.log_softmax(-1)
    expected = load_file(files / f"{number}.logits")["logits"].log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
