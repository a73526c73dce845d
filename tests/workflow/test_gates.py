"""The study stops, and says what to do, when somebody breaks what makes the arms comparable."""

import shutil
import subprocess

import pytest
from conftest import ROOT, Clone

RESULTS = "results/smoke"
DROP_A_TOKEN = """
import sys, pandas
pairs = pandas.read_parquet(sys.argv[1])
pairs.at[0, "chosen_ids"] = pairs.at[0, "chosen_ids"][1:]
pairs.to_parquet(sys.argv[1], index=False)
"""


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study, free to be broken."""
    shutil.copytree(finished.folder / "results", tmp_path / "results")
    shutil.copytree(finished.folder / ".snakemake", tmp_path / ".snakemake")
    return Clone(tmp_path)


def stopped(study, *arguments: str) -> str:
    """Run snakemake, which must fail; the one message of the program that stopped it, on one line."""
    done = study.snakemake("--cores", "2", *arguments)
    assert done.returncode != 0, done.stdout
    messages = {line for line in done.stdout.splitlines() if line.startswith("error: ")}
    assert len(messages) == 1, done.stdout
    return messages.pop()


def test_the_reference_table_of_another_seed(study):
    table = study.folder / RESULTS / "sft-seed1" / "train_logps.parquet"
    shutil.copy(study.folder / RESULTS / "sft-seed2" / "train_logps.parquet", table)
    message = stopped(study, f"{RESULTS}/sft_dpo-seed1/adapter/arm.json", "--forcerun", "train_dpo")
    assert "this table is of another reference policy (adapter_sha256" in message
    assert "delete results/smoke/sft-seed1/train_logps.parquet and run the same command again" in message
    table.unlink()  # the cure
    done = study.snakemake("--cores", "2", f"{RESULTS}/parity.json")
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in study.snakemake("--dry-run", f"{RESULTS}/parity.json").stdout


def test_another_row_of_the_pairs_for_one_arm(study):
    tokens = study.folder / RESULTS / "tokens" / "train_pairs.parquet"
    subprocess.run([str(ROOT / ".envs" / "train" / "bin" / "python"), "-c", DROP_A_TOKEN, str(tokens)], check=True)
    only = ("--allowed-rules", "score_pairs", "train_dpo")
    done = study.snakemake("--cores", "2", f"{RESULTS}/dpo_only-seed1/adapter/arm.json", *only)
    assert done.returncode == 0, done.stdout
    message = stopped(study, f"{RESULTS}/parity.json", "--forcerun", "check_parity", "--allowed-rules", "check_parity")
    assert "tokens_sha256 must be alike in every dpo run" in message
    assert "dpo_only-seed1" in message
    assert "Delete both runs and run the same command again" in message


def test_dropout_in_one_arm(study):
    program = "scripts/train_dpo.py"
    line = "    model = models.start_of_dpo("
    study.edit(program, line, f'    settings["lora"]["dropout"] = 0.0 if args.start else 0.1\n{line}')
    message = stopped(study, f"{RESULTS}/parity.json")
    assert "dropout must be alike in every run" in message
    assert "dpo_only-seed1/observed.json has 0.1" in message


def test_an_adapter_on_another_base(study):
    study.edit("config/smoke.yaml", "  seed: 0\n", "  seed: 1\n")
    rules = ("fetch_model", "tokenize_data", "score_pairs")
    message = stopped(study, f"{RESULTS}/sft-seed1/heldout_logps.parquet", "--allowed-rules", *rules)
    assert "sft-seed1/adapter/arm.json: this adapter was trained on the base model" in message
    assert "delete results/smoke/sft-seed1 and run the same command again" in message


def test_an_adapter_whose_settings_were_edited(study):
    study.edit(f"{RESULTS}/sft-seed1/adapter/adapter_config.json", '"lora_alpha": 32', '"lora_alpha": 64')
    message = stopped(study, f"{RESULTS}/sft-seed1/heldout_logps.parquet", "--forcerun", "score_pairs")
    assert "adapter_config.json: missing or changed since it was trained" in message
