"""`snakemake verify`: silent on a good study, one line for each fault of a bad one."""

import json
import shutil
import subprocess

import jsonschema
import pytest
from conftest import ROOT, SMOKE

RESULTS = "results/smoke"
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished smoke study."""
    return finished.copy(tmp_path / "a copy")


def verify(study, config=SMOKE):
    """(exit code, what verify said, without the note that the tests' clone is no git repository)."""
    log = study.folder / RESULTS / "logs" / "verify.log"
    log.unlink(missing_ok=True)
    done = study.snakemake("verify", config=config)
    assert log.is_file(), done.stdout
    return done.returncode, [line for line in log.read_text().splitlines() if not line.startswith("note: ")]


def read(study, name):
    return json.loads((study.folder / RESULTS / name).read_text())


def write(study, name, value):
    (study.folder / RESULTS / name).write_text(json.dumps(value))


def test_a_good_study_gets_one_line_and_is_left_alone(study):
    files = [path for path in study.folder.glob(f"{RESULTS}/**/*") if path.is_file() and path.name != "verify.log"]
    before = {path: path.stat().st_mtime_ns for path in files}
    code, said = verify(study)
    assert (code, len(said)) == (0, 1), said
    assert said[0].startswith(f"{RESULTS}: OK; ")
    assert "of 45 jobs" in said[0]
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert study.planned() == {}


def test_a_study_that_was_not_run_is_no_success_and_is_not_run_now(clone):
    done = clone.snakemake("verify", config=None)  # the default configuration, as a user would type it
    assert done.returncode != 0
    assert "results/demo: not one manifest of this study; run it first" in done.stdout
    assert [path.name for path in (clone.folder / "results/demo").rglob("*") if path.is_file()] == ["verify.log"]


def flip(study, name):
    path = study.folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flipped_adapter(study):
    name = f"{RESULTS}/sft-seed1/adapter/adapter_model.safetensors"
    flip(study, name)
    return [f"{name}: changed since train_sft seed=1 made it"]


def flipped_base_model(study):
    flip(study, f"{RESULTS}/model/weights/model.safetensors")
    return [f"{RESULTS}/model/weights: changed since fetch_model made it"]


def deleted_manifest(study):
    name = f"{RESULTS}/dpo_only-seed2/train.manifest.json"
    (study.folder / name).unlink()
    return [f"{name}: missing; the manifest of train_dpo arm=dpo_only seed=2"]


def deleted_result(study):
    name = f"{RESULTS}/base/generations.parquet"
    (study.folder / name).unlink()
    return [f"{name}: missing; generate run=base made it"]


SCORE = f"{RESULTS}/scores/metric=pref_acc/part-sft-seed1.parquet"


def edited_score(study):
    edit = "import pandas, sys; pandas.read_parquet(sys.argv[1]).assign(value=1.0).to_parquet(sys.argv[1])"
    subprocess.run([ROOT / ".envs/stats/bin/python", "-c", edit, study.folder / SCORE], check=True)
    return [f"{SCORE}: changed since grade run=sft-seed1 made it"]


def edited_score_and_its_manifest(study):
    edited_score(study)
    manifest = read(study, "scores/part-sft-seed1.manifest.json")
    digest = subprocess.run(["sha256sum", SCORE], cwd=study.folder, capture_output=True, text=True, check=True).stdout
    manifest["outputs"]["pref_acc"]["sha256"] = digest.split()[0]
    write(study, "scores/part-sft-seed1.manifest.json", manifest)
    maker = f"{RESULTS}/scores/part-sft-seed1.manifest.json"
    return [f"{RESULTS}/stats/manifest.json: disagrees with {maker}: read another {SCORE} than was written"]


def foreign_files(study):
    (study.folder / RESULTS / "notes.txt").write_text("mine")
    shutil.copytree(study.folder / RESULTS / "sft-seed1", study.folder / RESULTS / "sft-seed7")
    return [
        f"{RESULTS}/notes.txt: foreign; no job of this configuration makes it",
        f"{RESULTS}/sft-seed7: foreign; no job of this configuration makes it",
    ]


def another_seed_copied_over(study):
    shutil.copytree(
        study.folder / RESULTS / "dpo_only-seed2", study.folder / RESULTS / "dpo_only-seed1", dirs_exist_ok=True
    )
    place, run = f"{RESULTS}/dpo_only-seed1", "run=dpo_only-seed"
    return [
        f"{place}/train.manifest.json: the manifest of train_dpo arm=dpo_only seed=2 in the place of "
        "train_dpo arm=dpo_only seed=1",
        f"{place}/generations.manifest.json: the manifest of generate {run}2 in the place of generate {run}1",
        f"{place}/heldout_logps.manifest.json: the manifest of score_pairs {run}2 split=heldout in the place of "
        f"score_pairs {run}1 split=heldout",
        f"{place}/curves.parquet: changed since plot read it",
        f"{place}/observed.json: changed since check_parity read it",
        f"{place}/generations.parquet: changed since grade {run}1 read it",
        f"{place}/generations.parquet: changed since report read it",
        f"{place}/heldout_logps.parquet: changed since grade {run}1 read it",
        f"{place}/train.manifest.json: changed since report read it",
    ]


def off_lock_version(study):
    manifest = read(study, "sft-seed1/train.manifest.json")
    manifest["versions"]["trl"] = "0.9.7"
    write(study, "sft-seed1/train.manifest.json", manifest)
    place = f"{RESULTS}/sft-seed1/train.manifest.json"
    return [
        f"{place}: trl 0.9.7 is off the lock: envs/train.yaml pins 0.9.6",
        f"{place}: changed since report read it",
    ]


def other_environment(study):
    place = "sft-seed1/train.manifest.json"
    manifest = read(study, place)
    manifest["lock"]["file"] = "stats.yaml"
    write(study, place, manifest)
    return [
        f"{RESULTS}/{place}: ran in the environment of stats.yaml, the rule here has envs/train.yaml",
        f"{RESULTS}/{place}: changed since report read it",
    ]


def other_configuration(study):
    study.edit(SMOKE, "dpo:\n", "dpo:\n  beta: 0.2\n")
    manifests = [f"{arm}-seed{seed}/train" for arm in ("sft_dpo", "dpo_only") for seed in (1, 2)] + ["report"]
    fault = "made by another configuration: dpo.beta was 0.1, is 0.2"
    return [f"{RESULTS}/{name}.manifest.json: {fault}" for name in manifests]


def other_code(study):
    study.edit("scripts/display/words.py", "\ndef number", "\nUNUSED = 1\n\n\ndef number")
    made = {"figures/manifest.json": "plot", "report.manifest.json": "report"}
    return [f"{RESULTS}/{name}: made by other code: {rule} ran with digest " for name, rule in made.items()]


def edited_data(study):
    name = "config/data/preferences.jsonl"
    study.edit(name, " the ", " that ")
    return [f"{name}: changed since check_data data=pairs read it"]


@pytest.mark.parametrize(
    "damage",
    [
        flipped_adapter,
        flipped_base_model,
        deleted_manifest,
        deleted_result,
        edited_score,
        edited_score_and_its_manifest,
        foreign_files,
        another_seed_copied_over,
        off_lock_version,
        other_environment,
        other_configuration,
        other_code,
        edited_data,
    ],
    ids=lambda damage: damage.__name__,
)
def test_each_fault_is_found_and_nothing_else_is_blamed(study, damage):
    expected = sorted(damage(study))
    code, said = verify(study)
    assert code != 0
    assert said[-1] == f"{RESULTS}: {len(said) - 1} fault{'s' * (len(said) > 2)}"
    found = sorted(said[:-1])
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_off_lock_is_refused_unless_allowed_and_then_recorded(study):
    target = f"{RESULTS}/data/sft.audit.json"
    lock = (study.folder / "envs/grade.yaml").read_text()
    pinned = next(line for line in lock.splitlines() if '"jinja2==' in line).split("==")[1].split()[0]
    study.edit("envs/grade.yaml", f"jinja2=={pinned}", "jinja2==3.0.0")
    done = study.snakemake("--cores", "1", target)
    assert done.returncode != 0
    assert f"jinja2 {pinned} (pinned: 3.0.0)" in done.stdout
    assert "allow_off_lock: true" in done.stdout

    study.edit(SMOKE, "study: smoke\n", "study: smoke\nallow_off_lock: true\n")
    done = study.snakemake("--cores", "1", target)
    assert done.returncode == 0, done.stdout
    assert read(study, "data/sft.manifest.json")["off_lock"] == {"jinja2": ["3.0.0", pinned]}
    code, said = verify(study)
    assert code != 0
    wanted = f"{RESULTS}/data/sft.manifest.json: jinja2 {pinned} is off the lock: envs/grade.yaml pins 3.0.0"
    assert any(line.startswith(f"{RESULTS}/") and f"jinja2 {pinned} is off the lock" in line for line in said), said
    assert any("(allow_off_lock)" in line and line.startswith(wanted) for line in said), said


def test_allowing_off_lock_runs_nothing_again(study):
    study.edit(SMOKE, "study: smoke\n", "study: smoke\nallow_off_lock: true\n")
    assert study.planned() == {}
    assert verify(study)[0] == 0


def test_training_in_a_dirty_tree_is_found(study):
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*GIT, *command], cwd=study.folder, check=True)
    clean, dirty = "data/sft.manifest.json", "dpo_only-seed1/train.manifest.json"
    for name in (clean, dirty):
        kept = (study.folder / RESULTS / name).read_bytes()
        (study.folder / RESULTS / name).unlink()
        done = study.snakemake("--cores", "2", f"{RESULTS}/{name}")
        assert done.returncode == 0, done.stdout
        before, after = json.loads(kept)["outputs"], read(study, name)["outputs"]
        assert {key for key in before if before[key] != after[key]} <= {"speed"}  # all else has the same bytes again
        with (study.folder / "scripts/arms/training/dpo.py").open("a") as stream:
            stream.write("# a comment\n")  # changes no code digest
    assert read(study, clean)["git"]["dirty"] is False
    assert read(study, dirty)["git"]["dirty"] is True
    code, said = verify(study)
    assert code != 0
    commit = read(study, dirty)["git"]["sha"][:12]
    assert f"{RESULTS}/{dirty}: ran with uncommitted changes on top of commit {commit}" in said


def test_manifests_are_complete(finished):
    schema = json.loads((ROOT / "scripts/arms/job/manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    paths = list((finished.folder / RESULTS).rglob("*manifest.json"))
    card = read(finished, "model/model.json")
    for path in paths:
        manifest = json.loads(path.read_text())
        jsonschema.validate(manifest, schema)
        assert path.stat().st_size < 20_000
        assert all(not entry["path"].startswith("/") for entry in manifest["inputs"].values())
        uses_model = manifest["lock"]["file"] == "train.yaml"
        assert (manifest["model"] is not None) == uses_model, path
        if uses_model:
            assert manifest["model"]["sha256"] == card["sha256"]
            assert manifest["model"]["chat_template_sha256"] == card["tokenizer"]["chat_template_sha256"]
            assert manifest["versions"]["torch"] == "2.3.1"
        if manifest["rule"] in ("train_sft", "train_dpo", "score_pairs", "generate"):
            assert manifest["machine"]["threads"] == 1
            assert manifest["machine"]["cpu_capability"]
    assert read(finished, "sft_dpo-seed2/train.manifest.json")["seeds"] == {"wildcards.seed": 2}
    generated = read(finished, "sft-seed1/generations.manifest.json")["seeds"]
    assert generated == {"wildcards.run": 1, "settings.generation.seed": 0}
    assert read(finished, "model/manifest.json")["seeds"] == {"settings.model.seed": 0}
