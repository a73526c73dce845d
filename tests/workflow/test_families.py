"""The whole study with the other families of models: Qwen2 (no BOS, chat template) and GPT-2 (one special token only).

The data are cut down, and one training row of each file is longer than tokens.max_length, to be cut.
"""

import json
import math
import subprocess

import pytest
import yaml
from conftest import ROOT

ARMS = ("sft", "sft_dpo", "dpo_only")
TEMPLATES = {"qwen2": "chat", "gpt2": "Question: {prompt}\nAnswer:"}


def write_data(clone) -> dict[str, str]:
    """A few rows of each of the demo's files; the first training rows get completions without end."""
    data = {}
    for name, file in (("sft", "sft"), ("pairs", "preferences")):
        rows = [json.loads(line) for line in (clone.folder / f"config/data/{file}.jsonl").read_text().splitlines()[:16]]
        for side in {"completion", "chosen"} & set(rows[0]):
            rows[0][side] += " and so on" * 200
        data[name] = f"{name}.jsonl"
        (clone.folder / data[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, file in (("heldout_pairs", "heldout_preferences"), ("heldout_prompts", "heldout_prompts")):
        data[name] = f"{name}.jsonl"
        lines = (clone.folder / f"config/data/{file}.jsonl").read_text().splitlines(keepends=True)[:30]
        (clone.folder / data[name]).write_text("".join(lines))
    return data


def read_parquet(path) -> list[dict]:
    """Rows of a parquet file, read by an environment that can (the driver's cannot).

    It ends without Python's teardown, in which Arrow's threads sometimes abort (arms.job.files.exit_with_message).
    """
    code = "import os, pandas, sys; print(pandas.read_parquet(sys.argv[1]).to_json(orient='records'), flush=True)"
    code += "; os._exit(0)"
    command = [ROOT / ".envs" / "stats" / "bin" / "python", "-c", code, path]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_study(clone, family):
    study = yaml.safe_load((clone.folder / "config/smoke.yaml").read_text())
    study |= {"study": family, "seeds": [1], "data": write_data(clone)}
    study["model"] |= {"family": family}
    study["tokens"] = {"template": TEMPLATES[family], "max_length": 300, "on_overlong": "truncate"}
    study["generation"] = {"max_new_tokens": 4, "batch_size": 128}
    for stage in ("sft", "dpo"):
        study[stage] |= {"batch_size": 4, "micro_batch_size": 4}
    (clone.folder / "study.yaml").write_text(yaml.safe_dump(study))
    done = clone.snakemake("--cores", "2", "--quiet", "rules", config="study.yaml")
    assert done.returncode == 0, done.stdout[-6000:]

    results = clone.folder / "results" / family
    parity = json.loads((results / "parity.json").read_text())
    assert sorted(parity["step0_loss"]) == ["dpo_only-seed1", "sft_dpo-seed1"]
    assert all(loss == pytest.approx(math.log(2), abs=1e-4) for loss in parity["step0_loss"].values())
    assert "<svg" in (results / "report.html").read_text()

    card = json.loads((results / "model" / "model.json").read_text())
    assert card["model_type"] == family
    names = ("sft", "train_pairs", "heldout_pairs", "heldout_prompts")
    audits = {name: json.loads((results / "tokens" / f"{name}.audit.json").read_text()) for name in names}
    decided = audits["sft"]["decided"]
    assert all(audit["decided"] == decided for audit in audits.values())
    assert decided["frame"] == (
        "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n" if family == "qwen2" else TEMPLATES["gpt2"]
    )
    assert (decided["bos_id"] is None) is (family == "qwen2")
    assert not any(audit["starts_with_bos"] or audit["decided"]["adds_bos"] for audit in audits.values())
    assert decided["pad_id"] not in (decided["eos_id"], decided["bos_id"])
    cut = {name: audits[name]["overlong"]["cut"] for name in names}
    assert cut == {"sft": {"completion": 1}, "train_pairs": {"chosen": 1}, "heldout_pairs": {}, "heldout_prompts": {}}
    for name in names:
        rows = read_parquet(results / "tokens" / f"{name}.parquet")
        assert len(rows) == audits[name]["rows"]
        for row in rows:
            prompt, completions = (
                row["prompt_ids"],
                [row[key] for key in row if key not in ("id", "category", "prompt_ids")],
            )
            assert decided["pad_id"] not in prompt
            assert family == "qwen2" or decided["eos_id"] not in prompt
            for ids in completions:
                assert ids.index(decided["eos_id"]) == len(ids) - 1
                assert decided["pad_id"] not in ids
    for run in ("base", *(f"{arm}-seed1" for arm in ARMS)):
        manifest = json.loads((results / run / "generations.manifest.json").read_text())
        assert manifest["facts"]["answers"] == 30
