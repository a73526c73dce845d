"""What a manifest says of its job."""

import argparse
import os

import pytest

from arms.job.files import UserError, read_json, sha256_file
from arms.job.manifest import Job, seeds_of


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


@pytest.fixture
def job(tmp_path):
    """A job that reads one file."""
    data, made = tmp_path / "data.jsonl", tmp_path / "made.json"
    data.write_text("before")
    made.write_text("{}")
    asked = {"rule": "check", "wildcards": {}, "settings": {}, "code": "0", "lock": None}
    files = {"inputs": {"data": str(data)}, "outputs": {"made": str(made)}}
    return Job(argparse.Namespace(job=asked, manifest=str(tmp_path / "manifest.json"), lock=None, **files)), data


def test_a_file_that_changes_while_a_job_reads_it_stops_the_job(job):
    job, data = job
    times = data.stat().st_atime, data.stat().st_mtime
    data.write_text("behind")  # as many bytes, under the same time
    os.utime(data, times)
    with pytest.raises(UserError, match=r"data\.jsonl: changed while this job read it"):
        job.finish()
    assert not job.path.exists()


def test_a_file_that_was_only_touched_does_not(job):
    job, data = job
    os.utime(data, (1, 1))
    data.chmod(0o600)
    job.finish()
    assert read_json(job.path)["inputs"]["data"]["sha256"] == sha256_file(data)
