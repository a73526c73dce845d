"""Held-out and development pairs that are split off the training pairs, through the public command."""

import json

import pytest
from conftest import Clone
from test_verify import flip

RESULTS = "results/smoke"


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A clone in which a study with both has run, of one seed, and development pairs were scored."""
    made = Clone(tmp_path_factory.mktemp("split"))
    made.edit("config/smoke.yaml", "seeds: [1, 2]", "seeds: [1]")
    made.edit("config/smoke.yaml", "  heldout_prompts: config/data/heldout_prompts.jsonl\n", "")
    made.edit(
        "config/smoke.yaml",
        "  heldout_pairs: config/data/heldout_preferences.jsonl\n",
        "  heldout: {fraction: 0.2}\n  development: {rows: 20}\n",
    )
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-4000:]
    assert not list(made.folder.glob(f"{RESULTS}/**/*development*")), "rule all reads them"
    done = made.snakemake("--cores", "2", "development")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "[score_pairs sft_dpo-seed1 development] done: 20 pairs, chosen more likely than rejected in" in done.stdout
    return made


def verify(study):
    done = study.snakemake("verify")
    said = (study.folder / RESULTS / "logs" / "verify.log").read_text().splitlines()
    return done.returncode, [line for line in said if not line.startswith("note: ")]


def test_each_job_takes_its_own_part(split):
    audits = {
        name: json.loads((split.folder / f"{RESULTS}/data/{name}.audit.json").read_text())
        for name in ("sft", "pairs", "heldout_pairs", "development_pairs")
    }
    rows = [audits[name]["rows"] for name in ("pairs", "heldout_pairs", "development_pairs")]
    assert rows == [143, 41, 20]
    assert len({json.dumps(audit["split"]["parts"]) for audit in audits.values()}) == 1
    manifest = json.loads((split.folder / f"{RESULTS}/data/heldout_pairs.manifest.json").read_text())
    assert manifest["facts"]["split"] == audits["heldout_pairs"]["split"]
    assert set(manifest["inputs"]) == {"config/data/preferences.jsonl", "config/data/sft.jsonl"}


def test_verify_knows_that_no_job_behind_the_report_read_a_development_row(split):
    code, said = verify(split)
    assert (code, len(said)) == (0, 1), said
    assert said[0].endswith("from the report back to the raw data; none of the report's jobs read a development row")
    assert split.planned() == {}


def test_a_rule_that_reads_development_rows_is_found(split, tmp_path):
    study = split.copy(tmp_path / "edited")
    study.edit("rules/data.smk", "data=study.heldout)", 'data=[*study.heldout, "development_pairs"])')
    where = f"{RESULTS}/data/prompts.manifest.json: list_heldout is behind the report and reads development rows"
    code, said = verify(study)
    assert code == 1
    assert f"{where}: {RESULTS}/data/development_pairs.parquet" in said
    done = study.snakemake("--cores", "2", "--until", "list_heldout")
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"{where}: {RESULTS}/data/development_pairs.parquet" in verify(study)[1]


def test_development_rows_under_another_name_are_found(split, tmp_path):
    study = split.copy(tmp_path / "renamed")
    made = json.loads((study.folder / f"{RESULTS}/tokens/development_pairs.manifest.json").read_text())
    path = study.folder / RESULTS / "dpo_only-seed1/train.manifest.json"
    manifest = json.loads(path.read_text())
    manifest["inputs"]["tokens"]["sha256"] = made["outputs"]["tokens"]["sha256"]
    path.write_text(json.dumps(manifest))
    code, said = verify(study)
    assert code == 1
    assert (
        f"{RESULTS}/dpo_only-seed1/train.manifest.json: train_dpo arm=dpo_only seed=1 is behind the report and reads "
        f"development rows: {RESULTS}/tokens/train_pairs.parquet, which has the content of "
        f"{RESULTS}/tokens/development_pairs.parquet"
    ) in said


def test_parts_that_do_not_belong_together_are_found(split, tmp_path):
    study = split.copy(tmp_path / "mixed")
    path = study.folder / RESULTS / "data/heldout_pairs.audit.json"
    audit = json.loads(path.read_text())
    audit["split"]["ids_sha256"] = audit["split"]["parts"]["training"]["ids_sha256"]
    path.write_text(json.dumps(audit))
    said = verify(study)[1]
    assert f"{RESULTS}/data/heldout_pairs.audit.json: its rows are not those of the split's part 'heldout'" in said
    flip(study, f"{RESULTS}/data/development_pairs.parquet")
    assert any(
        "development_pairs.parquet: changed since check_data data=development_pairs" in s for s in verify(study)[1]
    )


def test_another_development_split_trains_anew_and_leaves_the_heldout_pairs_alone(split, tmp_path):
    study = split.copy(tmp_path / "again")
    study.edit("config/smoke.yaml", "development: {rows: 20}", "development: {rows: 20, seed: 1}")
    planned = study.planned()
    assert planned["check_data"] == 3
    assert {"tokenize_data", "train_dpo", "list_heldout"} <= set(planned)
    done = study.snakemake("--cores", "2", "--until", "list_heldout")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Not run: list_heldout; what it reads came out as before." in done.stdout
