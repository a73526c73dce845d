"""`snakemake crate`: the study as an RO-Crate that other people's tools accept and can read."""

import json
import os
import subprocess
import zipfile

import pytest
from conftest import ROOT

PYTHON = ROOT / ".envs" / "provenance" / "bin" / "python"
READ = """
import json, sys
from rocrate.rocrate import ROCrate
crate = ROCrate(sys.argv[1])
actions = crate.get_by_type("CreateAction")
training = crate.dereference("#job/results/smoke/sft_dpo-seed1/train.manifest.json")
tool = training["instrument"]
print(json.dumps({
    "engine": crate.get_by_type("OrganizeAction")[0]["instrument"]["softwareVersion"],
    "main": crate.mainEntity.id,
    "jobs": len([action for action in actions if action.id.startswith("#job/")]),
    "runs": len([action for action in actions if action["instrument"] is crate.mainEntity]),
    "controls": len(crate.get_by_type("ControlAction")),
    "steps": sorted(step["name"] for step in crate.get_by_type("HowToStep")),
    "tool": tool.id,
    "packages": {package["name"]: package["softwareVersion"] for package in tool["softwareRequirements"]},
    "read": sorted(entity["name"] for entity in training["object"] if "File" in entity.type),
    "settings": {entity["name"]: entity["value"] for entity in training["object"] if entity.type == "PropertyValue"},
    "made": {entity["name"]: [entity.id, entity["sha256"]] for entity in training["result"]},
}))
"""
VALIDATE = "import json, sys, export_crate; print(json.dumps(export_crate.validate(sys.argv[1])))"


def python(program, *arguments):
    """What a program printed as JSON in the environment of the crate, with every way to the network blocked."""
    blocked = dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9")
    environment = {**os.environ, **blocked, "PYTHONPATH": str(ROOT / "scripts")}
    command = [str(PYTHON), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """A copy of the finished study, with its crate."""
    study = finished.copy(tmp_path_factory.mktemp("crate") / "a copy")
    done = study.snakemake("--cores", "1", "crate")
    assert done.returncode == 0, done.stdout
    assert study.planned() == {}
    return study


def test_the_crate_is_valid_and_tells_how_everything_was_made(exported):
    crate = exported.folder / "results/smoke-crate.zip"
    assert python(VALIDATE, crate) == []
    found = python(READ, crate)
    assert found["main"] == "Snakefile"
    assert (found["jobs"], found["controls"], found["runs"]) == (45, 45, 1)
    assert len(found["steps"]) == 14
    assert found["engine"] == "9.27.1"
    assert found["tool"] == "scripts/train_dpo.py"
    assert found["packages"]["trl"] == "0.9.6"
    assert found["settings"]["dpo.beta"] == "0.1"
    assert found["settings"]["seed"] == "1"
    manifest = json.loads((exported.folder / "results/smoke/sft_dpo-seed1/train.manifest.json").read_text())
    assert found["read"] == sorted(entry["path"] for entry in manifest["inputs"].values())
    assert {name: digest for name, (_, digest) in found["made"].items()} == {
        entry["path"]: entry["sha256"] for entry in manifest["outputs"].values()
    }


def test_weights_are_described_and_not_copied(exported):
    found = python(READ, exported.folder / "results/smoke-crate.zip")["made"]
    weights = "results/smoke/sft_dpo-seed1/adapter/adapter_model.safetensors"
    assert found[weights][0] == f"#{weights}"
    with zipfile.ZipFile(exported.folder / "results/smoke-crate.zip") as crate:
        names = crate.namelist()
    assert not [name for name in names if name.endswith(".safetensors")]
    assert {"results/smoke/report.html", "config.json", "config/data/sft.jsonl", "Snakefile", "uv.lock"} <= set(names)
    assert len([name for name in names if name.endswith("manifest.json") and name.startswith("results/")]) == 45


def test_the_validator_finds_what_is_missing(exported, tmp_path):
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(exported.folder / "results/smoke-crate.zip") as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            if name != "results/smoke/report.html":
                new.writestr(name, old.read(name))
    assert any("results/smoke/report.html" in problem for problem in python(VALIDATE, broken))


def test_a_changed_file_is_not_exported(exported, tmp_path):
    study = exported.copy(tmp_path / "changed")
    (study.folder / "results/smoke-crate.zip").unlink()
    with (study.folder / "results/smoke/sft-seed1/observed.json").open("a") as stream:
        stream.write("\n")
    manifests = sorted(map(str, study.folder.glob("results/smoke/**/*manifest.json")))
    identity = {"rule": "export_crate", "wildcards": {}, "settings": {"study": "smoke", "data": {}}, "code": "0" * 16}
    command = [str(PYTHON), "scripts/export_crate.py", "--job", json.dumps(identity), "--manifest", "m.json"]
    command += ["--engine", "9.27.1", "--crate", "crate.zip", "--manifests", *manifests]
    command += ["--report", "results/smoke/report.html"]
    done = subprocess.run(command, cwd=study.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "results/smoke/sft-seed1/observed.json: missing or changed since it was made" in done.stderr
    assert not (study.folder / "crate.zip").exists()
