"""What the doctor reads from the words of sinfo."""

import pytest
from check_login import fits, minutes

ASKED = {"threads": 8, "mem_mb": 64000, "gpu": 2, "runtime": 120}


@pytest.mark.parametrize(
    ("model", "offer", "held"),
    [
        (None, "8|64000|gpu:2|infinite", True),
        (None, "64+|515000+|gpu:a100:4(S:0-1)|1-00:00:00", True),
        ("a100", "64|515000|gpu:a100:4(S:0-1)|1-00:00:00", True),
        ("nvidia_a100-sxm4-80gb", "64|515000|gpu:nvidia_a100-sxm4-80gb:4(S:0-3)|1-00:00:00", True),
        ("2080ti", "64|515000|gpu:2080ti:8|1-00:00:00", True),
        (None, "64|515000|gpu:a100:1,gpu:v100:1|1-00:00:00", True),
        ("a100", "64|515000|gpu:a100:1,gpu:v100:4|1-00:00:00", False),
        ("a100", "64|515000|gpu:2|infinite", False),
        (None, "64|515000|gpu:2080ti:1|1-00:00:00", False),
        (None, "64|515000|(null)|infinite", False),
        (None, "64|515000|mps:400|infinite", False),
        (None, "4|515000|gpu:2|infinite", False),
        (None, "64|32000|gpu:2|infinite", False),
        (None, "64|515000|gpu:2|1:00:00", False),
    ],
)
def test_which_nodes_hold_a_job(model, offer, held):
    assert fits({**ASKED, "gpu_model": model}, offer) == held


def test_time_limits():
    texts = ("infinite", "30:00", "2:00:00", "1-12:00:00", "n/a")
    assert [minutes(text) for text in texts] == [float("inf"), 30, 120, 2160, float("inf")]
