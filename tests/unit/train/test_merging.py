"""SFT weights merged into the base (sft_dpo.start: merged): the model, what is trained on it, and what is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import DPO, LOCK, LORA, ROOT, SFT, TORCH, make_study
from safetensors.torch import load_file, save_file

from arms.job.files import sha256_file
from arms.model.models import load_base
from arms.scoring.policy import load_policy
from arms.scoring.tables import read_table

MERGED = {**DPO, "start": "merged"}


def merge(study, output, *flags, precision="fp32", adapter="sft", fails=False):
    """Rule merge_sft into the folder `output`."""
    flags = ["--weights", f"{output}/weights", "--card", f"{output}/model.json", *flags]
    files = ["--model", "model/model.json", "--adapter", f"{adapter}/arm.json"]
    return study.run("merge_sft", {**TORCH, "precision": precision}, *files, *flags, fails=fails, seed="1")


@pytest.fixture(scope="module")
def merged(study):
    """The study with merged weights, their reference table, and DPO from there."""
    merge(study, "merged")
    study.score("merged.table.parquet", "--model", "merged/model.json")
    study.train_dpo("from merged", "merged.table.parquet", "--model", "merged/model.json", settings=MERGED)
    return study


def test_the_weights_are_the_sum_of_base_and_adapter(merged):
    """W + (alpha / rank) B A, by hand."""
    base, adapter, found = (
        load_file(merged.folder / name)
        for name in (
            "model/weights/model.safetensors",
            "sft/adapter_model.safetensors",
            "merged/weights/model.safetensors",
        )
    )
    assert found.keys() == base.keys()
    for name, weight in base.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in adapter:
            product = adapter[f"{key}.lora_B.weight"] @ adapter[f"{key}.lora_A.weight"]
            assert product.abs().max() > 0
            weight = weight + LORA["alpha"] / LORA["rank"] * product
        assert torch.allclose(found[name], weight, atol=1e-7, rtol=0), name


def test_it_is_a_model_like_the_base_that_says_what_it_is_made_of(merged):
    base, card, arm = (merged.read(name) for name in ("model/model.json", "merged/model.json", "sft/arm.json"))
    differing = {key for key in base if card[key] != base[key]}
    assert differing == {"files", "sha256", "source"}
    made_of = {"model_sha256": base["sha256"], "adapter_sha256": arm["adapter_sha256"]}
    assert card["source"] == {"source": "merged", **made_of}
    assert card["sha256"] == sha256_file(merged.folder / "merged" / "weights")
    changed = {name for name, entry in card["files"].items() if base["files"].get(name) != entry}
    assert changed <= {"config.json", "model.safetensors"}, "the tokenizer is the base's"
    assert str(merged.folder) not in (merged.folder / "merged/weights/config.json").read_text()
    assert not list((merged.folder / "merged").glob(".*"))


def test_its_policy_is_the_base_with_the_adapter(merged):
    rows = [
        list(read_table(merged.folder / name, {}, [f"p{i}" for i in range(24)]).values())
        for name in ("merged.table.parquet", "sft.table.parquet", "base.parquet")
    ]
    apart = [
        max(abs(a["chosen_logp"] - b["chosen_logp"]) for a, b in zip(rows[0], other, strict=True)) for other in rows[1:]
    ]
    assert apart[0] < 1e-4 < 1e-1 < apart[1]


def test_dpo_trains_a_fresh_adapter_on_it_against_it(merged):
    observed, only = merged.read("from merged/observed.json"), merged.read("sft/observed.json")
    assert observed["step0"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert observed["step0"]["reference_difference"] < 1e-3
    assert observed["trainable_parameters"] == only["trainable_parameters"]
    identity, card = merged.read("from merged/arm.json"), merged.read("merged/model.json")
    assert identity["model_sha256"] == card["sha256"]
    assert identity["base_sha256"] == merged.read("model/model.json")["sha256"]
    assert identity["parent_sha256"] == merged.read("sft/arm.json")["adapter_sha256"]
    assert observed["reference"]["model_sha256"] == card["sha256"]
    assert observed["reference"]["adapter_sha256"] is None


def test_on_the_base_the_adapter_is_refused_and_so_is_the_adapters_table(merged):
    flags = ["--model", "model/model.json", "--adapter", "from merged/arm.json", "--tokens", "pairs.parquet"]
    scoring = {**TORCH, "batch_size": 4}
    message = merged.run("score_pairs", scoring, *flags, "--table", "never.parquet", fails=True)
    assert "from merged/arm.json: this adapter was trained on the base model" in message
    on_merged = ["--model", "merged/model.json"]
    message = merged.train_dpo("never", "sft.table.parquet", *on_merged, settings=MERGED, fails=True)
    assert "this table is of another reference policy (model_sha256" in message
    message = merged.train_dpo("never", "sft.table.parquet", *on_merged, "--start", "sft/arm.json", fails=True)
    assert "sft/arm.json: this adapter was trained on the base model" in message


def test_merging_twice_gives_the_same_bytes(merged):
    merge(merged, "merged again", "--threads", 2)
    assert merged.read("merged again/model.json") == merged.read("merged/model.json")


def test_bfloat16_is_rounded_once(merged):
    said = merge(merged, "merged bf16", precision="bf16")
    assert "nats per token from the base with the adapter" in said
    exact = load_file(merged.folder / "merged/weights/model.safetensors")
    rounded = load_file(merged.folder / "merged bf16/weights/model.safetensors")
    base = load_base(merged.folder / "model/model.json", "bf16").state_dict()
    adapter = load_file(merged.folder / "sft/adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    product = adapter[f"base_model.model.{name}.lora_B.weight"] @ adapter[f"base_model.model.{name}.lora_A.weight"]
    expected = base[f"{name}.weight"].float() + LORA["alpha"] / LORA["rank"] * product
    assert torch.equal(rounded[f"{name}.weight"], expected.bfloat16())
    assert {tensor.dtype for tensor in rounded.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}
    assert merged.read("merged bf16/model.json")["dtype"] == "bfloat16"


def test_a_change_of_the_merged_weights_is_refused(merged):
    shutil.copytree(merged.folder / "merged", merged.folder / "spoilt")
    path = merged.folder / "spoilt/weights/model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(Exception, match="missing or changed since"):
        load_policy(merged.folder / "spoilt/model.json", None, "fp32")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """An adapter on an embedding that is the head, too: merged, it would change both."""
    study = make_study(tmp_path_factory.mktemp("tied"), "gpt2")
    study.train_sft("sft", settings={**SFT, "lora": {**LORA, "target_modules": ["wte"]}})
    return study


@pytest.mark.parametrize(
    ("precision", "too_far"),
    [
        ("fp32", r"are [\d.]+ nats per token from those of the base with the SFT adapter \(at most 0\.0001\)"),
        ("bf16", r"on average [\d.]+ nats per .* SFT adapter, which changes them by [\d.]+ \(at most 25% of it\)"),
    ],
)
def test_what_does_not_merge_is_refused_and_leaves_nothing(tied, precision, too_far):
    message = merge(tied, "merged", precision=precision, fails=True)
    assert re.search(f"{too_far}: this adapter cannot be merged into this base", message), message
    assert not list((tied.folder / "merged").iterdir())


def test_killed_it_starts_again_and_leaves_nothing_else(merged):
    """SIGKILL while the merged weights are written beside their place."""
    job = {"rule": "merge_sft", "wildcards": {"seed": "1"}, "settings": {**TORCH, "precision": "fp32"}, "code": ""}
    command = [sys.executable, str(ROOT / "scripts" / "merge_sft.py"), "--job", json.dumps(job), "--manifest", "m.json"]
    command += ["--model", "model/model.json", "--adapter", "sft/arm.json", "--weights", "killed/weights"]
    command += ["--card", "killed/model.json", "--lock", str(LOCK)]
    running = subprocess.Popen(command, cwd=merged.folder, stdout=subprocess.DEVNULL)
    while not (merged.folder / "killed/.building/weights/model.safetensors").exists():
        assert running.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    running.kill()
    running.wait()
    assert not (merged.folder / "killed/model.json").exists()
    merge(merged, "killed")
    assert merged.read("killed/model.json") == merged.read("merged/model.json")
    assert sorted(path.name for path in (merged.folder / "killed").iterdir()) == ["model.json", "weights"]
