"""What a manifest says of its job."""

import pytest

from arms.job.manifest import seeds_of


@pytest.mark.parametrize(
    ("run", "seeds"),
    [
        ("base", {}),
        ("sft-seed2", {"wildcards.run": 2}),
        ("sft_dpo-beta~0.3-seed1", {"wildcards.run": 1}),
        ("dpo_only-beta~0.3-loss_type~ipo-seed12", {"wildcards.run": 12}),
        ("sft_dpo-learning_rate~1e-05-seed3", {"wildcards.run": 3}),
    ],
)
def test_the_training_seed_of_every_run_is_on_record(run, seeds):
    assert seeds_of({"wildcards": {"run": run}, "settings": {}}) == seeds


def test_seeds_among_settings_are_on_record():
    found = seeds_of({"wildcards": {"seed": "4"}, "settings": {"model": {"seed": 0}, "train_seeds": [1, 2], "n": 3}})
    assert found == {"wildcards.seed": 4, "settings.model.seed": 0, "settings.train_seeds": [1, 2]}
