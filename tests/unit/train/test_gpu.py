"""benchmarks/gpu.py on a CPU, and which cards a torch has kernels for."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from arms.model.cards import unsupported
from arms.stacks import stack

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90a", "compute_120"]


def test_the_benchmark_of_a_card_runs_on_a_cpu(tmp_path):
    """One precision that works here; where int8 does not, it says so and the rest is written all the same."""
    asked = ["int8"] if stack.QUANTIZES_ON_CPU else ["int8", "bf16"]
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--found", "found.json", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--size", "tiny", "--precisions", *asked], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert "error" not in found["plan"], found["plan"]
    assert sorted(found["plan"]) == sorted(asked)
    if not stack.QUANTIZES_ON_CPU:
        assert "which needs a CUDA GPU" in found["measured"]["int8"]["error"]
    sections = found["measured"][asked[-1]]
    assert list(sections) == ["load", "score", "generate", "train", "resume", "run_out"]
    assert not [name for name, facts in sections.items() if "error" in facts], sections
    assert {facts["peak_bytes"] for facts in sections.values()} == {None}, "no memory is measured on a CPU"
    assert sections["train"]["step0_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert sections["resume"]["same_bytes"]
    assert sections["run_out"]["attempts"][0]["fits"]
    assert (tmp_path / "found.md").read_text() == done.stdout
    assert f"| {asked[-1]} | resume |  |  |  |" in done.stdout


@pytest.mark.skipif(stack.QUANTIZES_ON_CPU, reason="of either stack, and the other run says it")
def test_without_a_card_it_says_so(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--found", "found.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch ")
    assert "sees no GPU; --device cpu --size tiny tries the program without" in done.stderr


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0), (12, 1)])
def test_cards_that_torch_has_kernels_for(capability):
    assert unsupported("a card", capability, BUILT) == ""


@pytest.mark.parametrize(("capability", "cure"), [((6, 1), "a newer card or an older torch"), ((7, 0), "a newer card")])
def test_cards_that_are_too_old(capability, cure):
    said = unsupported("a card", capability, BUILT)
    assert said.startswith(f"a card has compute capability {capability[0]}.{capability[1]}, and this torch was built")
    assert cure in said


def test_a_card_that_is_too_new():
    assert unsupported("a card", (13, 0), ["sm_80"]).endswith("built for 8.0; take an older card or a newer torch")
