"""`snakemake publish`: a folder for each adapter that PEFT loads and the hub's own library reads."""

import csv
import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT, SMOKE

PYTHON = ROOT / ".envs" / "train" / "bin" / "python"
READ = """
import json, sys
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

weights, folder, own = sys.argv[1:]
base = lambda: AutoModelForCausalLM.from_pretrained(weights, local_files_only=True)
ids = torch.arange(3, 40).unsqueeze(0)
with torch.inference_mode():
    plain = base()(ids).logits
    published, trained = (PeftModel.from_pretrained(base(), path)(ids).logits for path in (folder, own))
card = ModelCard.load(folder + "/README.md", ignore_metadata_errors=False)
print(json.dumps({
    "same": bool(torch.equal(published, trained)),
    "moved": float((published - plain).abs().max()),
    "metadata": {name: value for name, value in card.data.to_dict().items() if name != "model-index"},
    "results": {one.metric_type: [one.metric_value, one.metric_args["n"]] for one in card.data.eval_results},
    "text": card.text,
}))
"""


def read(study, run, elsewhere):
    """What PEFT and huggingface_hub, without the network, make of a published folder that was moved."""
    folder = study.folder / "results"
    shutil.copytree(folder / "smoke-publish" / run, elsewhere / run)
    paths = [folder / "smoke" / "model" / "weights", elsewhere / run, folder / "smoke" / run / "adapter"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(PYTHON), "-c", READ, *map(str, paths)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    """A copy of the finished study, published; nothing but that ran."""
    study = finished.copy(tmp_path_factory.mktemp("publish") / "a copy")
    with (study.folder / SMOKE).open("a") as config:
        config.write('\npublish: {base_model: "someone/tiny-llama", license: apache-2.0}\n')
    assert study.planned("publish") == {"publish": 1}
    assert study.planned() == {}
    done = study.snakemake("--cores", "1", "publish")
    assert done.returncode == 0, done.stdout
    assert study.planned("publish") == {}
    return study


def test_every_run_has_a_folder_of_the_hubs_form(published):
    folder = published.folder / "results" / "smoke-publish"
    runs = {f"{arm}-seed{seed}" for arm in ("sft", "sft_dpo", "dpo_only") for seed in (1, 2)}
    assert {path.name for path in folder.iterdir()} == runs
    for run in runs:
        names = {path.name for path in (folder / run).iterdir()}
        assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"}
        config = json.loads((folder / run / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("someone/tiny-llama", None)
        record = json.loads((folder / run / "training.json").read_text())
        assert "host" not in record["machine"]
        assert str(published.folder) not in json.dumps(record) + (folder / run / "README.md").read_text()


def test_peft_loads_it_and_the_hubs_library_reads_the_card(published, tmp_path):
    found = read(published, "sft_dpo-seed1", tmp_path)
    assert found["same"]
    assert found["moved"] > 1e-4
    assert found["metadata"] == {
        "base_model": "someone/tiny-llama", "library_name": "peft", "license": "apache-2.0",
        "pipeline_tag": "text-generation", "tags": ["lora", "trl", "sft", "dpo"],
    }  # fmt: skip
    rows = csv.DictReader((published.folder / "results/smoke/stats/arm_means.csv").open())
    own = [row for row in rows if (row["arm"], row["train_seed"], row["group_kind"]) == ("sft_dpo", "1", "overall")]
    assert found["results"] == {row["metric"]: [round(float(row["mean"]), 4), int(row["n"])] for row in own}
    assert len(own) == 3
    for said in ("## Data", "## Recipe", "## Results", "## Limits", "## Provenance", "One run of one seed", "points"):
        assert said in found["text"], said
    tokens = json.loads((published.folder / "results/smoke/sft_dpo-seed1/train.manifest.json").read_text())
    assert tokens["model"]["sha256"] in found["text"]


def test_a_base_model_is_named_by_its_id_on_the_hub(clone):
    with (clone.folder / SMOKE).open("a") as config:
        config.write("\npublish: {base_model: /models/llama}\n")
    done = clone.snakemake("--dry-run", "publish")
    assert done.returncode != 0
    assert "publish.base_model: '/models/llama' does not match" in done.stdout
