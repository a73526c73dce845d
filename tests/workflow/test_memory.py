"""`snakemake plan_memory`: the prediction, and the refusal of a card that is too small, through the public command."""

import json
import re
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture
def standin(clone, request):
    """A clone in which the folder of a model is a stand-in: gigabytes of zeros that take no disk."""
    python = str(ROOT / ".envs" / "train" / "bin" / "python")
    command = [python, str(ROOT / "tests" / "standin_model.py"), request.param.lower(), f"models/{request.param}"]
    subprocess.run(command, cwd=clone.folder, check=True)
    return clone


@pytest.mark.parametrize("standin", ["Qwen2.5-32B"], indirect=True)
def test_the_doctor_misses_nothing_of_qwen_32b_but_the_gpu(standin):
    done = standin.snakemake("doctor", "--cores", "1", config="config/qwen2.5-32b.yaml")
    assert "ok    model          models/Qwen2.5-32B: 32.76 B parameters, bfloat16, 65.5 GB, whole" in done.stdout
    shown = done.stdout[done.stdout.rindex("this machine (") :]
    assert re.findall(r"^  FAIL +(\S+)", shown, re.MULTILINE) == ["GPU"]
    assert "sees none" in shown


def test_the_plan_and_a_card_that_is_too_small(clone):
    done = clone.snakemake("plan_memory")
    assert done.returncode == 0, done.stdout[-4000:]
    study = clone.folder / "results" / "smoke"
    plan = json.loads((study / "memory" / "plan.json").read_text())
    assert sorted(plan["stages"]) == ["dpo", "generate", "score_pairs", "sft"]
    dpo = plan["stages"]["dpo"]
    assert (dpo["rows"], dpo["tokens"]) == (16, 511)
    assert dpo["bytes"] == sum(dpo["parts"].values()) < dpo["needed_bytes"]
    assert "predicted, not measured" in (study / "logs" / "plan_memory.log").read_text()
    assert json.loads((study / "memory" / "plan.manifest.json").read_text())["rule"] == "plan_memory"
    assert clone.planned("--cores", "1", "plan_memory") == {}

    clone.edit("config/smoke.yaml", "study: smoke\n", "study: smoke\ngpu_memory_gb: 0.8\n")
    done = clone.snakemake("plan_memory")
    assert done.returncode != 0
    assert (
        "error: dpo needs 0.8 GB; gpu_memory_gb is 0.8. The cheapest change that fits: dpo.micro_batch_size: 8 "
        "(now 16). Predicted with it: dpo needs 0.7 GB (log: results/smoke/logs/plan_memory.log)\n" in done.stdout
    )
    assert not (study / "memory" / "plan.json").exists()
    clone.edit("config/smoke.yaml", "dpo:\n", "dpo:\n  micro_batch_size: 8\n")
    clone.edit(
        "config/smoke.yaml", "  batch_size: 16\n  micro_batch_size: 16\n\ngeneration", "  batch_size: 16\n\ngeneration"
    )
    done = clone.snakemake("plan_memory")
    assert done.returncode == 0, done.stdout[-4000:]
