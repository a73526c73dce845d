"""What is said of a plan before anything trains."""

import copy
from pathlib import Path

import pytest
import yaml

from study.config import ConfigError, load
from study.forecast import heldout_rows, power_flags, warning

ROOT = Path(__file__).parents[3]
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def config(**changes):
    given = copy.deepcopy(DEMO)
    for key, value in changes.items():
        given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
    return load(given, ROOT / "config/schema.yaml", home=ROOT).config


def test_rows_of_the_primary_metric_are_counted(tmp_path):
    assert heldout_rows(config()) == 120
    assert heldout_rows(config(data={"rows": {"heldout_pairs": 50}})) == 50
    other = tmp_path / "prompts.jsonl"
    other.write_text('{"id": 1}\n{"id": 2}\n{"id": 3}')
    assert heldout_rows(config(statistics={"primary_metric": "pass_rate"}, data={"heldout_prompts": str(other)})) == 3
    assert heldout_rows(config(data={"heldout_pairs": {"path": DEMO["data"]["heldout_pairs"]}})) == 120
    shards = tmp_path / "pairs.parquet"
    shards.write_bytes(b"PAR1")
    assert heldout_rows(config(data={"heldout_pairs": str(shards)})) is None


def test_where_rows_cannot_be_counted_the_seeds_alone_are_judged(tmp_path):
    shards = tmp_path / "pairs.parquet"
    shards.write_bytes(b"PAR1")
    seldom = config(data={"heldout_pairs": str(shards)})
    assert "3 seeds x any number of held-out rows decide (GO or NO-GO) in at most " in warning(seldom)
    assert power_flags(seldom)["design"](None, None) == ""
    many = config(data={"heldout_pairs": str(shards)}, seeds=list(range(1, 13)))
    assert warning(many) is None


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ({}, True),
        ({"floor": 0}, False),
        ({"difference": 0.3, "cost_difference": 0.2}, False),
        ({"seed_sd": 0.1, "difference": 0.3, "cost_difference": 0.2}, True),
    ],
)
def test_a_plan_that_decides_says_nothing(power, said):
    assert bool(warning(config(statistics={"power": power}))) == said


def test_flags_are_the_guesses_and_the_design():
    flags = power_flags(config(statistics={"power": {"difference": 0.1}}))
    assert flags.pop("design")(None, None) == "3x120"
    assert flags == {
        "difference": "0.1", "cost_difference": "0", "seed_sd": "0.03", "rate": "0.5", "same_prompt": "0.3",
        "same_arm": "0.4",
    }  # fmt: skip


def test_guesses_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"same_arm \(0.1\) must be at least same_prompt \(0.3\)"):
        config(statistics={"power": {"same_arm": 0.1}})
