"""The cluster profile and the doctor where there is no cluster, and targets that outlived their driver."""

import base64
import os
import re

import pytest

from arms.job.files import read_json

NEEDED = ("bash", "cat", "env", "git", "mkdir", "rm", "sh", "tee", "which")
GPU_RULES = {"train_sft", "train_dpo", "score_pairs", "generate"}


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with neither SLURM nor conda on it."""
    import shutil

    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_a_dry_run_needs_no_cluster(clone, bare_path):
    assert clone.planned("--profile", "slurm", PATH=bare_path) == clone.planned()
    assert clone.snakemake("--dry-run", "--profile", "slurm", "all", PATH=bare_path).returncode == 0


def test_a_real_run_without_a_cluster_says_what_to_do(clone, bare_path):
    done = clone.snakemake("--profile", "slurm", "all", PATH=bare_path)
    assert done.returncode != 0
    assert "this machine has no SLURM" in done.stdout
    assert "snakemake --cores all" in done.stdout
    assert not (clone.folder / "results" / "smoke").exists()


def test_a_killed_local_run_goes_on_where_slurm_is_installed_but_down(clone, tmp_path):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 'squeue: fatal: Could not establish a configuration source' >&2\nexit 1\n")
    squeue.chmod(0o755)
    marker = clone.folder / ".snakemake" / "incomplete" / "bWFya2Vy"
    marker.parent.mkdir(parents=True)
    marker.write_text('{"external_jobid": null}')
    path = f"{squeue.parent}:{os.environ['PATH']}"
    done = clone.snakemake("--cores", "1", "results/smoke/data/sft.audit.json", PATH=path)
    assert done.returncode == 0, done.stdout
    (clone.folder / "results" / "slurm_logs").mkdir()
    done = clone.snakemake("--cores", "1", "results/smoke/data/heldout_pairs.audit.json", PATH=path)
    assert done.returncode != 0, "jobs on the cluster may still run"
    assert "the scheduler does not answer" in done.stdout


def resources(output):
    """rule -> the resources line of its first job in a dry run."""
    found = {}
    for block in re.split(r"^(?:local)?rule ", output, flags=re.MULTILINE)[1:]:
        line = re.search(r"resources: (.*)", block)
        found.setdefault(block.split(":", 1)[0], line[1] if line else "")
    return found


def test_only_jobs_that_run_the_model_go_to_gpu_nodes(clone):
    clone.edit("config/smoke.yaml", "study: smoke", "study: smoke\ngpus: 1\njob_memory_gb: 20\njob_hours: 12")
    site = {"PARTITION": "short", "GPU_PARTITION": "gpu", "GPU_MODEL": "a100", "GPU_QOS": "high", "MAX_HOURS": "10"}
    site = {f"SFT_VS_DPO_{name}": value for name, value in site.items()}
    done = clone.snakemake("--dry-run", "--profile", "slurm", "all", **site)
    asked = resources(done.stdout)
    for rule in GPU_RULES:
        for part in ("gpu=1", "slurm_partition=gpu", "gpu_model=a100", "qos=high", "mem_mb=20000", "runtime=600"):
            assert part in asked[rule], (rule, part)
    wrong = clone.snakemake("--dry-run", "all", **{**site, "SFT_VS_DPO_GPU_MODEL": "nvidia_a100-sxm4-80gb"})
    assert wrong.returncode != 0
    assert "'nvidia_a100-sxm4-80gb', but Snakemake's SLURM plugin only takes" in wrong.stdout
    wrong = clone.snakemake("--dry-run", "all", **{**site, "SFT_VS_DPO_MAX_HOURS": "24:00"})
    assert wrong.returncode != 0
    assert "SFT_VS_DPO_MAX_HOURS is '24:00'; give a number of hours" in wrong.stdout
    others = set(asked) - GPU_RULES - {"all", "probe_memory"}
    assert {"tokenize_data", "grade", "compare", "report"} <= others
    for rule in others:
        assert "gpu" not in asked[rule], rule
        assert "slurm_partition=short" in asked[rule], rule


def test_a_study_on_cpus_leaves_gpu_nodes_alone(clone):
    site = {"SFT_VS_DPO_PARTITION": "short", "SFT_VS_DPO_GPU_PARTITION": "gpu", "SFT_VS_DPO_GPU_MODEL": "a100"}
    asked = resources(clone.snakemake("--dry-run", "--profile", "slurm", "all", **site).stdout)
    assert all("slurm_partition=short" in line for rule, line in asked.items() if rule != "all")
    assert not any("gpu_model" in line for line in asked.values())


def test_targets_without_a_record_are_judged_by_their_manifests(finished, tmp_path):
    clone = finished.copy(tmp_path / "copy")
    manifest = read_json(clone.folder / "results/smoke/sft-seed1/train.manifest.json")
    outputs = [entry["path"] for entry in manifest["outputs"].values()]
    for path in [*outputs, "results/smoke/sft-seed1/train.manifest.json"]:
        name = base64.urlsafe_b64encode(path.encode()).decode()
        (clone.folder / ".snakemake" / "metadata" / name).unlink()
    assert clone.planned() == {}
    clone.edit("config/smoke.yaml", "learning_rate: 2.0e-3", "learning_rate: 3.0e-3")
    assert clone.planned()["train_sft"] == 2, "one by its record, one by its manifest"


def test_the_doctor_looks_at_machine_environment_and_model(clone):
    done = clone.snakemake("doctor", "--cores", "1")
    assert done.returncode == 0, done.stdout
    assert "the study should run here" in done.stdout
    assert re.search(r"ok +environment .*packages as locked", done.stdout)
    assert not (clone.folder / "results" / "smoke").exists()
    clone.edit("config/smoke.yaml", "study: smoke", "study: smoke\ngpus: 1")
    again = clone.snakemake("doctor", "--cores", "1")
    assert again.returncode != 0
    assert re.search(r"FAIL +GPU .*sees none", again.stdout)


def test_the_doctor_misses_a_model_before_anything_runs(clone):
    text = (clone.folder / "config/smoke.yaml").read_text()
    text = re.sub(r"model:\n(  .*\n)+", "model: {source: path, path: /no/such/model}\n", text)
    (clone.folder / "config/smoke.yaml").write_text(text)
    done = clone.snakemake("doctor", "--cores", "1")
    assert done.returncode != 0
    assert "FAIL  model          model.path /no/such/model has no config.json here" in done.stdout
    assert "Nothing was submitted" in done.stdout
    assert "rule check_node:" not in done.stdout
