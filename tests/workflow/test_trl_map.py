"""The map of TRL's versions holds for two of them; TRL before 0.9 gives the smoke study's DPO arms the same losses.

The environment of TRL 0.8.6 is installed, locked, where it is missing.
"""

import subprocess
import sys

import pytest
from conftest import ROOT

MAP = ROOT / "benchmarks" / "trl_map"
sys.path.append(str(MAP))

import trl_map


@pytest.mark.parametrize("version", ["0.8.6", "0.9.6"])
def test_a_version_does_what_the_record_says(version):
    assert trl_map.differences(version) == []


def test_trl_before_0_9_gives_the_dpo_arms_of_the_smoke_study_the_same_losses(finished):
    runs = ["sft_dpo-seed1", "dpo_only-seed1"]
    command = [str(trl_map.environment("0.8.6")), str(MAP / "legacy.py"), str(finished.folder / "results/smoke"), *runs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"TRL 0.8.6, {run}" for run in runs]
    for line in lines:
        assert float(line.split("at most ")[1].split()[0]) <= 1e-4, line
