"""`snakemake plan_memory`: the prediction through the public command, for a model that is there only as headers."""

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


@pytest.mark.parametrize("standin", ["Qwen2.5-7B"], indirect=True)
def test_the_plan_of_qwen_7b(standin):
    config = "config/qwen2.5-7b.yaml"
    done = standin.snakemake("plan_memory", config=config)
    assert done.returncode == 0, done.stdout[-4000:]
    study = standin.folder / "results" / "qwen2.5-7b"
    plan = json.loads((study / "memory" / "plan.json").read_text())
    assert list(plan["stages"]) == ["dpo", "generate", "score_pairs", "sft"]
    dpo = plan["stages"]["dpo"]
    assert (dpo["rows"], dpo["tokens"]) == (1, 1023)
    assert dpo["bytes"] == sum(dpo["parts"].values()) < dpo["needed_bytes"] < 24e9
    log = (study / "logs" / "plan_memory.log").read_text()
    assert "7.6 B parameters, nf4" in log
    assert "predicted, not measured" in log
    assert json.loads((study / "memory" / "plan.manifest.json").read_text())["rule"] == "plan_memory"
    assert standin.planned("plan_memory", config=config) == {}
