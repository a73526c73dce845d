"""A user's own loader (model.loader): used if nobody could tell what it loads from what transformers loads."""

import json

import pyarrow.parquet
import pytest
from conftest import SCORING, Study, make_study

STOCK = """
def load(folder, precision, device):
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype).to(device)
    {then}
    return model
"""
ELSEWHERE = """
import json, torch
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaForCausalLM

def load(folder, precision, device):
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
    model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)
    model.tie_weights()
    return model.to(torch.float32 if precision == "fp32" else torch.bfloat16).to(device)
"""
MERGES = """
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model = adapted.merge_and_unload()
"""
PATCHES = "layer = model.model.layers[0].mlp; own = layer.forward; layer.forward = lambda x: own(x) + x"
PATCHES_ITS_CLASS = """
    from transformers.models.llama import modeling_llama
    own = modeling_llama.LlamaMLP.forward
    modeling_llama.LlamaMLP.forward = lambda self, x: own(self, x) + x
"""
RENAMES = "layer = model.model.layers[0].mlp; layer.gate = layer.gate_proj; del layer.gate_proj"
BAD = {
    "raises": ("raise RuntimeError('no such kernel')", "load raised RuntimeError: no such kernel; correct it"),
    "a string": ("return folder", "load returned a str, not a PreTrainedModel"),
    "a PEFT model": (
        "import peft; return peft.get_peft_model(model, peft.LoraConfig(target_modules=['q_proj']))",
        "load returned a PeftModel, not a PreTrainedModel",
    ),
    "renames": (RENAMES, "what load returns lacks model.layers.0.mlp.gate_proj.weight; "),
    "moves a weight": (
        "model.model.norm.weight.data[0] += 1e-6",
        "load changes weights: model.norm.weight. Has it merged an adapter, or converted them?",
    ),
    "another dtype": ("model = model.to(torch.float64)", "load changes weights: "),
    "merges": (
        MERGES.strip(),
        "load changes weights: model.layers.0.self_attn.q_proj.weight and 1 more parameters. Has",
    ),
    "patches the forward pass": (PATCHES, "with the same weights: its forward pass is another"),
    "patches the class": (PATCHES_ITS_CLASS.strip(), "with the same weights: its forward pass is another"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Study:
    """A tiny study whose model transformers loads."""
    return make_study(tmp_path_factory.mktemp("loaded"), "llama")


def fetch(study, text: str, function: str = "load", name: str = "own", **more) -> str:
    """Fetch the study's model as one of a folder, to be loaded by the function of a file with this text."""
    (study.folder / "load.py").write_text(text)
    model = {"source": "path", "path": "model/weights", "precision": "fp32", "loader": f"load.py:{function}"}
    flags = ["--weights", f"{name}/weights", "--card", f"{name}/model.json", "--loader", "load.py"]
    return study.run("fetch_model", {"model": model}, *flags, **more)


@pytest.mark.parametrize("text", [STOCK.format(then="pass"), ELSEWHERE], ids=["transformers' own", "its own way"])
def test_a_loader_that_behaves_is_used_and_scores_the_same(plain, text):
    assert "load loads what transformers loads" in fetch(plain, text)
    card = plain.read("own/model.json")
    assert card["loader"]["function"] == "load"
    assert "loader.py" in card["files"]
    assert "load.py" not in json.dumps(card["source"])  # where it was is no part of the card
    for model in ("model", "own"):
        flags = ["--model", f"{model}/model.json", "--tokens", "pairs.parquet", "--table", f"{model}.parquet"]
        plain.run("score_pairs", SCORING, *flags)
    tables = [pyarrow.parquet.read_table(plain.folder / f"{model}.parquet") for model in ("model", "own")]
    assert tables[0].to_pylist() == tables[1].to_pylist()
    assert tables[0].schema.metadata != tables[1].schema.metadata  # of another model: its loader is a file of it


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_what_transformers_loads_is_refused(plain, case):
    then, words = BAD[case]
    message = fetch(plain, STOCK.format(then=then), name="bad", fails=True)
    assert message.startswith("error: model.loader: ")
    assert words in message
    assert not (plain.folder / "bad" / "model.json").exists()


def test_a_function_that_is_not_there_is_named(plain):
    message = fetch(plain, STOCK.format(then="pass"), function="lode", name="bad", fails=True)
    assert "model.loader: its file has no function lode" in message


def test_a_loader_that_changes_its_mind_is_refused_where_it_is_used(plain):
    """The same bytes of the file, other weights: it looks at something outside."""
    moved = "import os; model.model.norm.weight.data[0] += os.path.exists('moved')"
    fetch(plain, STOCK.format(then=moved))
    (plain.folder / "moved").touch()
    flags = ["--model", "own/model.json", "--tokens", "pairs.parquet", "--table", "never.parquet"]
    message = plain.run("score_pairs", SCORING, *flags, fails=True)
    assert "model.loader: load loads other weights than when it was checked" in message
    (plain.folder / "moved").unlink()
    file = plain.folder / "own" / "weights" / "loader.py"
    file.write_text(file.read_text() + "\n")
    assert "missing or changed since the rule fetch_model checked it" in plain.run(
        "score_pairs", SCORING, *flags, fails=True
    )


def test_merged_weights_are_loaded_by_the_loader_too(plain):
    """sft_dpo.start: merged. Its file lies beside the merged weights, and what it makes of them is compared again."""
    fetch(plain, ELSEWHERE, name="loaded")
    on_loaded = ("--model", "loaded/model.json")
    plain.train_sft("sft on loaded", *on_loaded)
    files = ["--adapter", "sft on loaded/arm.json", "--weights", "merged/weights", "--card", "merged/model.json"]
    plain.run("merge_sft", {"precision": "fp32", "cpu_instructions": "native"}, *on_loaded, *files, seed="1")
    base, card = plain.read("loaded/model.json"), plain.read("merged/model.json")
    assert card["loader"]["function"] == "load"
    assert card["loader"]["parameters_sha256"] != base["loader"]["parameters_sha256"]
    plain.score("merged.parquet", "--model", "merged/model.json")
