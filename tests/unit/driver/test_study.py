"""The study as plain Python: configuration, runs, settings, requests, and the command line of a rule's program."""

import copy
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.utils import validate

from study import environment
from study.base_files import loader_file
from study.command import Programs, job
from study.config import ConfigError, load, refuse_double_keys
from study.digest import code_digest, module_facts
from study.forecast import heldout_rows
from study.ladder import Ladder
from study.resources import Resources
from study.runs import Run
from study.settings import Settings

pytestmark = pytest.mark.usefixtures("in_the_repository")
ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "config" / "schema.yaml"


@pytest.mark.parametrize("name", ["config", "smoke", "qwen2.5-7b", "qwen2.5-32b"])
def test_defaults_are_those_of_snakemakes_own_validation(name):
    asked = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    before, by_snakemake = copy.deepcopy(asked), copy.deepcopy(asked)
    study = load(asked, SCHEMA)
    assert asked == before, "load changes its argument"
    validate(by_snakemake, str(SCHEMA))
    assert study.config == by_snakemake


def test_lists_of_the_recipe_are_variants(smoke):
    study = load({**smoke, "dpo": {**smoke["dpo"], "beta": [0.1, 0.3]}}, SCHEMA)
    assert list(study.recipes) == ["", "-beta~0.3"]
    assert [recipe["beta"] for recipe in study.recipes.values()] == [0.1, 0.3]
    assert study.config["dpo"] == study.recipes[""]
    assert study.dpo_runs("-beta~0.3")[0] == "sft_dpo-beta~0.3-seed1"


@pytest.mark.parametrize(
    ("dpo", "words"),
    [
        ({"beta": []}, "an empty list stands for no recipe"),
        ({"beta": "1e-1"}, "is text to YAML, not a number; write 1.000e-01"),
        ({"betta": 0.1}, "unknown key 'dpo.betta'; did you mean 'beta'?"),
        ({"beta": [0.1, -1]}, "dpo.beta"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "has no effect on dpo.loss_type hinge"),
        ({"batch_size": 5, "micro_batch_size": 2}, "dpo.micro_batch_size (2) must divide dpo.batch_size (5)"),
        ({"learning_rate": float("inf")}, "dpo.learning_rate: inf is not a finite number"),
        ({"learning_rate": float("nan")}, "dpo.learning_rate: nan is not a finite number"),
        ({"engine": "unsloth"}, "dpo.engine: 'unsloth' is not one of ['trl', 'minimal']"),
        ({"learning_rate": "1e400"}, "'1e400' is text to YAML, not a number; write a finite number"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_cure(smoke, dpo, words):
    with pytest.raises(ConfigError) as error:
        load({**smoke, "dpo": {**smoke["dpo"], **dpo}}, SCHEMA, where="mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert words in str(error.value)


def test_a_loss_that_the_minimal_engine_does_not_know_is_refused(smoke, tmp_path):
    """A loss that somebody added to the schema and to TRL's engine, as CONTRIBUTING.md says."""
    schema = tmp_path / "schema.yaml"
    schema.write_text(SCHEMA.read_text().replace("aot_pair, reference_free]", "aot_pair, reference_free, new]", 1))
    load({**smoke, "dpo": {**smoke["dpo"], "loss_type": "new"}}, schema)
    with pytest.raises(ConfigError, match=r"dpo.loss_type: 'new' is not .*engine minimal does not know it"):
        load({**smoke, "dpo": {**smoke["dpo"], "loss_type": "new", "engine": ["trl", "minimal"]}}, schema)


def test_the_default_engine_by_its_name_is_no_setting(smoke):
    named = load({**smoke, "dpo": {**smoke["dpo"], "engine": "trl"}}, SCHEMA)
    assert named == load(smoke, SCHEMA)
    both = load({**smoke, "dpo": {**smoke["dpo"], "engine": ["trl", "minimal"]}}, SCHEMA)
    assert {label: recipe.get("engine") for label, recipe in both.recipes.items()} == {
        "": None,
        "-engine~minimal": "minimal",
    }


def test_a_loader_is_a_file_and_its_function(smoke, tmp_path):
    def asked(loader, **more):
        return load({**smoke, "model": {**smoke["model"], "loader": loader, **more}, "gpus": 1}, SCHEMA)

    file = tmp_path / "load.py"
    file.touch()
    study = asked(f"{tmp_path}/./load.py:own")
    assert study.config["model"]["loader"] == f"{file}:own"
    assert loader_file(study.config["model"]) == [str(file)]
    assert loader_file(load(smoke, SCHEMA).config["model"]) == []
    with pytest.raises(ConfigError, match=r"model.loader: nowhere.py is not there; name a file and its function"):
        asked("nowhere.py:own")
    with pytest.raises(ConfigError, match=r"model.loader: 'load.py' does not match .*path/to/file.py:function"):
        asked("load.py")
    with pytest.raises(ConfigError, match=r"model.loader cannot be used with model.precision nf4"):
        asked(f"{file}:own", precision="nf4")


def test_numbers_are_the_same_in_every_spelling(smoke):
    asked = {**smoke, "seeds": [1.0, 2], "dpo": {**smoke["dpo"], "beta": [0.1, 1.0], "batch_size": 16.0}}
    study = load(asked, SCHEMA)
    plain = {**smoke, "seeds": [1, 2], "dpo": {**smoke["dpo"], "beta": [0.1, 1], "batch_size": 16}}
    assert study == load(plain, SCHEMA)
    assert study.dpo_runs("-beta~1")[0] == "sft_dpo-beta~1-seed1"
    assert str(study.config["dpo"]["batch_size"]) == "16"


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("study: mine\ndpo:\n  beta: 0.1\nsft: {epochs: 1}\nseeds:\n- {a: 1, b: 2}\n")
    refuse_double_keys(path)
    path.write_text("study: mine\ndpo:\n  beta: 0.1\n  epochs: 1\n  beta: 0.2\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 5: 'beta' is there already, in line 3; remove one"):
        refuse_double_keys(path)


def test_data_files_are_looked_for_in_the_repository_too(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.sft: no such file"):
        load(smoke, SCHEMA)
    assert load(smoke, SCHEMA, home=ROOT).config["data"]["sft"] == str(ROOT / smoke["data"]["sft"])


def test_the_examples_of_splits_and_mixtures_are_configurations(smoke, tmp_path, monkeypatch):
    """Those of config/README.md; the examples of Your own data are run by tests/workflow/test_own_data.py."""
    text = (ROOT / "config" / "README.md").read_text()
    sections = text.split("## Samples and mixtures")[1].split("## Several recipes")[0]
    examples = [yaml.safe_load(example)["data"] for example in re.findall(r"```yaml\n(.*?)```", sections, re.DOTALL)]
    assert len(examples) == 2
    for path in ("my/sft.jsonl", "my/pairs.jsonl", "a.jsonl", "b.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    monkeypatch.chdir(tmp_path)
    for example in examples:
        asked = {**smoke["data"], **example}
        if "heldout" in example:
            del asked["heldout_pairs"]
        assert load({**smoke, "data": asked}, SCHEMA, home=ROOT).sets["pairs"]


def test_a_split_is_a_part_of_each_data_set_that_it_touches(smoke):
    del smoke["data"]["heldout_pairs"]
    smoke["data"] |= {"heldout": {"fraction": 0.1}, "development": {"rows": 20, "seed": 3}}
    study = load(smoke, SCHEMA)
    assert list(study.sets) == ["sft", "pairs", "heldout_pairs", "heldout_prompts", "development_pairs"]
    assert [source["part"] for source in study.sets.values() if isinstance(source, dict)] == [
        "training", "training", "heldout", "development",
    ]  # fmt: skip
    asked = {"by": "prompt", "seed": 0, "fraction": 0.1}, {"by": "prompt", "seed": 3, "rows": 20}
    assert study.sets["sft"]["split"] == dict(zip(("heldout", "development"), asked, strict=True))
    assert study.data_files("heldout_pairs") == [smoke["data"]["pairs"], smoke["data"]["sft"]]
    assert study.data_files("sft") == [smoke["data"]["sft"], smoke["data"]["pairs"]]
    assert smoke["data"]["pairs"] not in study.beside("development_pairs")
    settings = Settings(study, Ladder(study)).source(SimpleNamespace(data="pairs"))
    assert settings == {**study.sets["pairs"], "among": {"sft": {}, "pairs": {}}}
    assert not any("development" in path for path in (*study.targets, *study.audits, *study.data_audits))
    assert study.development[0] == "results/smoke/base/development_logps.parquet"
    assert heldout_rows(study.config) == 20  # a tenth of 204


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "data.heldout_pairs is missing; name held-out pairs, or have some split off data.pairs: heldout: {fr"),
        (
            {"heldout": {"fraction": 0.1}, "heldout_pairs": "config/data/heldout_preferences.jsonl"},
            "data: heldout makes held-out pairs of data.pairs, and heldout_pairs names some; remove one",
        ),
        ({"heldout": {"seed": 1}}, "data.heldout: give either fraction or rows, such as heldout: {fraction: 0.1}"),
        ({"heldout": {"rows": 9, "fraction": 0.5}}, "data.heldout: give either fraction or rows"),
        ({"heldout": {"fraction": 1.5}}, "data.heldout.fraction: 1.5 is greater than or equal to the maximum of 1"),
        ({"heldout": {"fraction": 0.1, "by": "row"}}, "data.heldout.by: 'row' is not one of ['prompt']"),
        (
            {"heldout": {"fraction": 0.6}, "development": {"fraction": 0.4}},
            "heldout.fraction and development.fraction leave nothing to train on; lower them",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused_at_once(smoke, data, words):
    del smoke["data"]["heldout_pairs"]
    smoke["data"] |= data
    with pytest.raises(ConfigError) as error:
        load(smoke, SCHEMA)
    assert words in str(error.value)


REVISION, SFT = "0" * 40, "config/data/sft.jsonl"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            {"hub": "mine/pairs", "split": "train"},
            "data.pairs: revision is missing; a data set on the hub is a commit's",
        ),
        ({"hub": "mine/pairs", "revision": REVISION}, "data.pairs: split is missing"),
        ({"hub": "mine/pairs", "revision": "main", "split": "train"}, "data.pairs.revision: 'main' does not match"),
        ({"hub": "mine/pairs", "path": "x"}, "data.pairs: give either path or hub"),
        ({"layout": "hh"}, "data.pairs: give either path or hub"),
        ({"path": "nowhere.csv"}, "data.pairs: no such file: nowhere.csv"),
        ("mine/pairs", "no such file: mine/pairs (relative to"),
        ("mine/pairs", "if it is on the hub, write {hub: mine/pairs, revision: ..., split: ...}"),
        ({"path": SFT, "sample": 0}, "data.pairs.sample: 0 is less than the minimum of 1"),
        ({"path": SFT, "weight": 2}, "unknown key 'data.pairs.weight'"),
        ({"mix": [{"path": SFT}]}, "data.pairs.mix: [{'path': 'config/data/sft.jsonl'}] is too short"),
        ({"mix": [{"path": SFT}, {"hub": "a/b"}]}, "data.pairs.mix[1]: revision is missing"),
        ({"mix": [{"path": SFT}, {"path": "nowhere.csv"}]}, "data.pairs.mix[1]: no such file: nowhere.csv"),
        ({"mix": [{"path": SFT}, {"path": SFT}]}, "data.pairs.mix: two data sets are called 'sft'; give each a name"),
        ({"mix": [{"path": SFT}] * 2, "layout": "hh"}, "data.pairs: layout belongs to one of the data sets in mix"),
        ({"mix": [{"path": SFT, "sample": 3}, {"path": SFT}]}, "unknown key 'data.pairs.mix.0.sample'"),
        ({"mix": [{"path": SFT, "weight": 0}, {"path": SFT}]}, "weight: 0 is less than or equal to the minimum of 0"),
        ({"path": "x", "layout": "hhh"}, "data.pairs.layout: 'hhh' is not one of"),
        ({"path": "x", "columns": {"prompt": 3}}, "data.pairs.columns.prompt: 3 is not of type 'string'"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused_at_once(smoke, source, words):
    with pytest.raises(ConfigError) as error:
        load({**smoke, "data": {**smoke["data"], "pairs": source}}, SCHEMA)
    assert words in str(error.value)


def test_without_heldout_prompts_preferences_alone_are_judged(smoke):
    data = {name: path for name, path in smoke["data"].items() if name != "heldout_prompts"}
    study = load({**smoke, "data": data}, SCHEMA)
    assert study.metrics == ["pref_acc", "logp_margin"]
    assert not [path for path in study.audits if "prompts." in path and "data/prompts." not in path]
    with pytest.raises(ConfigError, match=r"pass_rate is judged on data\.heldout_prompts, which is missing"):
        load({**smoke, "data": data, "statistics": {"primary_metric": "pass_rate"}}, SCHEMA)


def test_files_of_data_sets(smoke, tmp_path):
    (tmp_path / "shards").mkdir()
    for name in ("b.parquet", "a.parquet"):
        (tmp_path / "shards" / name).touch()
    hub = {"hub": "mine/pairs", "revision": REVISION, "split": "train"}
    data = {"pairs": hub, "heldout_pairs": {"path": str(tmp_path / "shards"), "columns": {"prompt": "q"}}}
    study = load({**smoke, "data": {**smoke["data"], **data}}, SCHEMA)
    assert study.data_files("pairs") == []
    assert [Path(path).name for path in study.data_files("heldout_pairs", "sft")] == [
        "a.parquet",
        "b.parquet",
        "sft.jsonl",
    ]


@pytest.mark.parametrize("text", ["base", "sft-seed1", "sft_dpo-seed12", "dpo_only-beta~0.3-loss_type~ipo-seed3"])
def test_a_run_is_its_text(text):
    assert str(Run.parse(text)) == text


@pytest.mark.parametrize("text", ["sft", "base-seed1", "dpo-seed1", "sft_dpo-seed", "sft-seed1/x", ""])
def test_what_is_no_run_is_refused(text):
    with pytest.raises(ValueError, match="is no run"):
        Run.parse(text)


def test_parents():
    assert Run.parse("sft_dpo-beta~0.3-seed2").parent == Run("sft", "", 2)
    assert Run.parse("dpo_only-seed2").parent == Run.parse("sft-seed2").parent == Run("base")
    assert Run("base").parent is None


class Files(dict):
    """Named files as Snakemake's rules have them."""

    __getattr__ = dict.__getitem__


def test_flags_of_a_program_are_the_names_of_its_files():
    program = Programs(ROOT, uses_conda=True)
    params = program("grade", "grade", {}, threads=2, absent=[], late=lambda wildcards, output: output.table)
    inputs, outputs = Files(pair_logps="a b.parquet", rung=[], gates=["x", "y"]), Files(table="t")
    words = shlex.split(params["command"](None, inputs, outputs))
    assert words == [
        *["python", str(ROOT / "scripts/grade.py"), "--pair-logps", "a b.parquet", "--gates", "x", "y"],
        *["--table", "t", "--lock", "envs/grade.yaml", "--threads", "2", "--late", "t"],
    ]
    venv = Programs(ROOT, uses_conda=False)("grade", "grade")
    assert set(venv) == {"command"}
    assert venv["command"](None, Files(), Files()).startswith(str(ROOT / ".envs/grade/bin/python"))


def test_what_decides_a_job_is_canonical_and_follows_the_lock(tmp_path):
    (tmp_path / "one.yaml").write_text("a\n")
    (tmp_path / "two.yaml").write_text("b\n")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    text = job("grade", {"b": 1, "a": 2}, one)({"seed": "1"})
    assert text == job("grade", lambda wildcards: {"a": 2, "b": 1}, one)({"seed": "1"})
    assert text != job("grade", {"b": 1, "a": 2}, two)({"seed": "1"})
    assert text != job("grade", {"b": 2, "a": 1}, one)({"seed": "1"})


def test_the_digest_knows_no_comment_and_no_docstring(tmp_path):
    texts = []
    for words, value in (("One.", 1), ("Other.", 1), ("One.", 2)):
        path = tmp_path / f"module{len(texts)}.py"
        path.write_text(f'"""{words}"""\n\n\ndef f():\n    """{words}"""\n    return {value}  # {words}\n')
        texts.append(module_facts(path)[0])
    assert texts[0] == texts[1] != texts[2]
    assert code_digest("grade") != code_digest("generate")


def test_requests_of_data_jobs_follow_the_size_of_the_files():
    """What was measured on a million pairs (1.3 GB) and on 100 000 fits twice over (benchmarks/data_size.py)."""
    ask = Resources.of_data()
    small, large = (SimpleNamespace(size_mb=size) for size in (129, 1292))
    assert [ask["mem_mb"](None, files, 1) for files in (small, large)] == [4000, 4000]
    assert ask["mem_mb"](None, SimpleNamespace(size_mb=12_920), 1) == 21_380
    assert ask["mem_mb"](None, large, 3) == 12_000
    assert ask["runtime"](None, small, 1) == 72
    assert ask["runtime"](None, large, 2) == 378


def test_memory_and_time_grow_by_attempt_up_to_the_sites_limit(smoke):
    config = load({**smoke, "gpus": 1, "job_memory_gb": 10, "job_hours": 8}, SCHEMA).config
    site = {"SFT_VS_DPO_GPU_PARTITION": "gpu", "SFT_VS_DPO_MAX_HOURS": "12"}
    asked = Resources(config, site).asked(retries=3)
    assert (asked["gpu"]["first"]["mem_mb"], asked["gpu"]["last"]["mem_mb"]) == (10000, 40000)
    assert (asked["gpu"]["first"]["runtime"], asked["gpu"]["last"]["runtime"]) == (480, 720)
    assert (asked["cpu"]["first"]["slurm_partition"], asked["gpu"]["first"]["slurm_partition"]) == ("", "gpu")
    with pytest.raises(ConfigError, match="give a number of hours"):
        Resources(config, {"SFT_VS_DPO_MAX_HOURS": "24:00"})
    with pytest.raises(ConfigError, match="only takes letters"):
        Resources(config, {"SFT_VS_DPO_GPU_MODEL": "a-b"})
    Resources({**config, "gpus": 0}, {"SFT_VS_DPO_GPU_MODEL": "a-b"})


def test_recipes_that_need_the_same_memory_share_a_rung(smoke):
    smoke["gpus"] = 1
    smoke["dpo"] = {**smoke["dpo"], "beta": [0.1, 0.3], "micro_batch_size": [smoke["dpo"]["batch_size"], 1]}
    study = load(smoke, SCHEMA)
    ladder = Ladder(study)
    assert ladder.rungs() == [
        "<results>/memory/sft.json",
        "<results>/memory/dpo.json",
        "<results>/memory/dpo-micro_batch_size~1.json",
    ]
    assert set(Settings(study, ladder).memory_plan()["stages"]) == {
        *["sft", "dpo", "dpo-micro_batch_size~1", "score_pairs", "generate"]
    }
    assert ladder.token_rungs("train_pairs") == []
    smoke["out_of_memory"] = {"max_length": [32]}
    smoke["tokens"]["on_overlong"] = "drop"
    assert len(Ladder(load(smoke, SCHEMA)).token_rungs("train_pairs")) == 3
    assert Ladder(load({**smoke, "gpus": 0}, SCHEMA)).rungs() == []


def test_one_driver_in_a_folder_is_alone_and_clears_what_a_dead_one_left(tmp_path):
    folder = tmp_path / ".snakemake"
    (folder / "locks").mkdir(parents=True)
    (folder / "locks" / "0.input.lock").touch()
    first = environment.Alive(folder)
    assert first.alone
    assert not list(folder.glob("locks/*"))
    (folder / "locks" / "1.input.lock").touch()
    assert not environment.Alive(folder).alone
    assert list(folder.glob("locks/*")), "those of a live driver"


def test_the_users_shell_does_not_reach_the_jobs():
    environ = {"CONDA_PREFIX_1": "/x", "CONDA_SHLVL": "1", "PYTHONPATH": "/x", "CONDA_EXE": "/c", "HOME": "/h"}
    environment.clean(environ)
    assert environ == {**environment.FIXED, "CONDA_EXE": "/c", "HOME": "/h"}
