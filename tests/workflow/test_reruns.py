"""A job runs if and only if the content that it depends on changed: what is planned, and what then really runs."""

import json
import os
import random
import re
import shutil
import subprocess
import time

import pytest

from arms.job.files import sha256_file

SMOKE = "config/smoke.yaml"
DATA = "config/data"
STATISTICS = {"compare": 1, "plot": 1, "report": 1}
NEW_PLAN = {"freeze_plan": 1, **STATISTICS}
BELOW_DPO = {"train_dpo": 4, "check_parity": 1, "score_pairs": 4, "generate": 4, "grade": 4, **STATISTICS}
NEW_RECIPE = {name: count for name, count in BELOW_DPO.items() if name != "plot"}
NEW_SFT = {"train_sft": 2, "train_dpo": 2, "check_parity": 1, "score_pairs": 6, "generate": 4, "grade": 4, **STATISTICS}
# file, what is replaced in it by what, and which jobs then run at most
EDITS = {
    "a comment in a program": ("scripts/arms/training/dpo.py", "import math\n", "import math  # why\n", {}),
    "a comment in the config": (SMOKE, "seeds: [1, 2]", "seeds: [1, 2]  # two", {}),
    "dpo.beta": (SMOKE, "dpo:\n", "dpo:\n  beta: 0.2\n", BELOW_DPO),
    "dpo.engine": (SMOKE, "dpo:\n", "dpo:\n  engine: minimal\n", BELOW_DPO),
    "the default dpo.engine by its name": (SMOKE, "dpo:\n", "dpo:\n  engine: trl\n", {}),
    "dpo.learning_rate": (SMOKE, "1.0e-3", "1.1e-3", BELOW_DPO),
    "the same number in another spelling": (
        SMOKE,
        "  learning_rate: 1.0e-3",
        "  learning_rate: 0.00100\n  epochs: 1.0",
        {},
    ),
    "integers with a point": (SMOKE, "seeds: [1, 2]", "seeds: [1.0, 2.0]", {}),
    "a second dpo.beta": (SMOKE, "dpo:\n", "dpo:\n  beta: [0.1, 0.3]\n", NEW_RECIPE),
    "keys in another order": (
        SMOKE,
        "  learning_rate: 1.0e-3\n  batch_size: 16\n",
        "  batch_size: 16\n  learning_rate: 1.0e-3\n",
        {},
    ),
    "two values of a stage swapped": (
        SMOKE,
        "max_new_tokens: 16\n  batch_size: 128",
        "max_new_tokens: 128\n  batch_size: 16",
        {"generate": 7, "grade": 7, **STATISTICS},
    ),
    "sft_dpo.start": (
        SMOKE,
        "tokens:\n",
        "sft_dpo: {start: fresh}\n\ntokens:\n",
        {"train_dpo": 2, "check_parity": 1, "score_pairs": 2, "generate": 2, "grade": 2, **STATISTICS},
    ),
    "how often to save": (SMOKE, "checkpoint_minutes: 0", "checkpoint_minutes: 5", {}),
    "a comment in an environment": ("envs/train.yaml", "dependencies:", "# pinned\n\ndependencies:  # all", {}),
    "a package of the statistics": (
        "envs/stats.yaml",
        "--hash=",
        "--hash=sha256:0 --hash=",
        {"freeze_plan": 1, "check_parity": 1, **STATISTICS},
    ),
    "sft.learning_rate": (SMOKE, "2.0e-3", "2.1e-3", NEW_SFT),
    "a new seed": (
        SMOKE,
        "seeds: [1, 2]",
        "seeds: [1, 2, 3]",
        {"train_sft": 1, "train_dpo": 2, "check_parity": 1, "score_pairs": 4, "generate": 3, "grade": 3, **NEW_PLAN},
    ),
    "a generation setting": (
        SMOKE,
        "max_new_tokens: 16",
        "max_new_tokens: 17",
        {"generate": 7, "grade": 7, **STATISTICS},
    ),
    "statistics.alpha": (SMOKE, "tokens:\n", "statistics: {alpha: 0.01}\n\ntokens:\n", NEW_PLAN),
    "the code of the statistics": ("scripts/paired/adjust.py", "\ndef ", "\nUNUSED = 1\n\n\ndef ", STATISTICS),
    "the code of the figures": (
        "scripts/plot.py",
        "\ndef main",
        "\nUNUSED = 1\n\n\ndef main",
        {"plot": 1, "report": 1},
    ),
    "the report's template": ("scripts/report.html.j2", "</body>", "<!-- end --></body>", {"report": 1}),
    "a data file under another spelling": (SMOKE, "sft: config/data/", "sft: ./config//data/../data/", {}),
    "a held-out margin": (SMOKE, "tokens:\n", "statistics: {margins: {pref_acc: 0.1}}\n\ntokens:\n", NEW_PLAN),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_plans_exactly_what_depends_on_it(finished, case):
    name, old, new, jobs = EDITS[case]
    kept = (finished.folder / name).read_bytes()
    try:
        finished.edit(name, old, new)
        os.utime(finished.folder / name, (0, 0))  # whatever its time says
        assert finished.planned() == jobs
    finally:
        (finished.folder / name).write_bytes(kept)


def test_a_data_file_under_its_absolute_path_is_the_same_file(finished):
    kept = (finished.folder / SMOKE).read_text()
    try:
        (finished.folder / SMOKE).write_text(kept.replace(f": {DATA}/", f": {finished.folder}/{DATA}/"))
        assert finished.planned() == {}
    finally:
        (finished.folder / SMOKE).write_text(kept)


def test_times_are_no_reason_to_run(finished):
    for path in finished.folder.rglob("*"):
        if path.is_file() and not {".envs", ".snakemake"}.intersection(path.parts):
            os.utime(path, (random.Random(str(path)).randrange(2**31),) * 2)
    assert finished.planned() == {}


def test_a_new_commit_is_no_reason_to_run(finished):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *arguments], cwd=finished.folder, check=True)

    try:
        git("init", "--quiet")
        git("add", "--all", ":!results")
        git("commit", "--quiet", "--message", "first")
        assert finished.planned() == {}
    finally:
        shutil.rmtree(finished.folder / ".git")


def test_results_without_snakemakes_records_are_taken_by_their_manifests(finished, tmp_path):
    clone = finished.copy(tmp_path / "copied")
    shutil.rmtree(clone.folder / ".snakemake")
    assert clone.planned() == {}
    (clone.folder / "results/smoke/sft-seed1/train.manifest.json").write_text("{")
    assert clone.planned()["train_sft"] == 1


HELDOUT = {
    "heldout_prompts": {"tokenize_data": 1, "generate": 7},
    "heldout_preferences": {"tokenize_data": 1, "score_pairs": 7},
}


@pytest.mark.parametrize("name", HELDOUT)
def test_heldout_pairs_and_prompts_are_apart(finished, name):
    path = finished.folder / DATA / f"{name}.jsonl"
    kept = path.read_text()
    try:
        path.write_text(kept.replace("Describe", "Please describe", 1))
        jobs = finished.planned()
    finally:
        path.write_text(kept)
    assert jobs == {"check_data": 1, "list_heldout": 1, **HELDOUT[name], "grade": 7, **STATISTICS}


def test_a_row_of_the_pairs_leaves_sft_alone(finished):
    path = finished.folder / DATA / "preferences.jsonl"
    kept = path.read_text()
    try:
        path.write_text(kept.replace(" the ", " that ", 1))
        os.utime(path, (0, 0))
        jobs = finished.planned()
    finally:
        path.write_text(kept)
    below = {"check_data": 1, "tokenize_data": 1, "score_pairs": 7, "train_dpo": 4, "check_parity": 1}
    assert jobs == {**below, "generate": 4, "grade": 4, **STATISTICS}


def ran(done: subprocess.CompletedProcess) -> dict[str, int]:
    """How often each rule ran in a real run, without `all`."""
    assert done.returncode == 0, done.stdout[-4000:]
    rules = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", done.stdout, re.MULTILINE)
    return {rule: rules.count(rule) for rule in sorted(set(rules)) if rule != "all"}


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    """A finished study to run again for real."""
    return finished.copy(tmp_path_factory.mktemp("again") / "study")


def test_what_comes_out_as_before_ends_the_rerun_there(study):
    """A blank line in the data: the rows are the same, in one command."""
    with (study.folder / DATA / "sft.jsonl").open("a") as data:
        data.write("\n")
    assert study.planned()["train_dpo"] == 4  # at most
    assert "At most these jobs run" in study.snakemake("--dry-run").stdout
    done = study.snakemake("--cores", "2")
    # the report shows the manifest of the model, whose random tokenizer comes from these rows
    assert ran(done) == {"check_data": 1, "fetch_model": 1, "report": 1}
    assert "Not run: train_sft seed=1; what it reads came out as before." in done.stdout
    assert "train_dpo arm=dpo_only seed=2" in (study.folder / "results/smoke/logs/skipped.txt").read_text()
    assert study.planned() == {}


def test_a_package_of_the_statistics_trains_nothing(study):
    before = (study.folder / "results/smoke/report.html").read_bytes()
    study.edit("envs/stats.yaml", "--hash=", "--hash=sha256:0 --hash=")
    done = study.snakemake("--cores", "2")
    assert ran(done) == {"freeze_plan": 1, "check_parity": 1, **STATISTICS}
    assert (study.folder / "results/smoke/report.html").read_bytes() != before
    assert study.planned() == {}


def test_a_package_of_the_graders_checks_the_data_and_grades_again(study):
    study.edit("envs/grade.yaml", "--hash=", "--hash=sha256:0 --hash=")
    jobs = ran(study.snakemake("--cores", "2"))
    # what they made came out as before, so nothing is trained and tested; the report shows the manifest of a grading
    assert jobs == {"check_data": 4, "list_heldout": 1, "grade": 7, "report": 1}


def test_missing_pieces_are_named_and_made_again(study):
    results = study.folder / "results" / "smoke"
    table, run = results / "stats" / "contrasts.csv", results / "dpo_only-seed2"
    before = {path: path.read_bytes() for path in (table, run / "generations.parquet")}
    table.unlink()
    shutil.rmtree(run)
    done = study.snakemake("why")
    assert "compare: missing results/smoke/stats/contrasts.csv" in done.stdout
    assert "train_dpo arm=dpo_only seed=2: missing results/smoke/dpo_only-seed2/adapter/arm.json, " in done.stdout
    assert "other content" not in done.stdout
    jobs = ran(study.snakemake("--cores", "2"))
    assert jobs == {"train_dpo": 1, "score_pairs": 1, "generate": 1, **{"compare": 1, "report": 1}}
    assert {path: path.read_bytes() for path in before} == before
    assert study.planned() == {}


def test_why_names_first_causes_of_a_target(study):
    path, target = study.folder / DATA / "preferences.jsonl", "results/smoke/dpo_only-seed1/train.manifest.json"
    assert "Nothing has to run." in study.snakemake("why", target).stdout
    kept, config = path.read_bytes(), (study.folder / SMOKE).read_bytes()
    path.write_bytes(kept.replace(b" the ", b" that ", 1))
    study.edit(SMOKE, "dpo:\n", "dpo:\n  beta: 0.2\n")
    done = study.snakemake("why", target)
    path.write_bytes(kept)
    (study.folder / SMOKE).write_bytes(config)
    assert "check_data data=pairs: other content in config/data/preferences.jsonl\n" in done.stdout
    assert "train_dpo arm=dpo_only seed=1: dpo.beta was 0.1, is 0.2\n" in done.stdout
    assert "report" not in done.stdout


def test_a_result_changed_by_hand_is_told(study):
    """Its reader is not of what its maker made: no rerun mends that, so it must be said."""
    results = study.folder / "results" / "smoke"
    prompts = results / "parity.json"
    kept = prompts.read_bytes()
    prompts.write_bytes(kept + b"\n")
    done = study.snakemake("--cores", "2", "--forcerun", "compare")
    assert "compare is not of what is there now: other content in results/smoke/parity.json" in done.stdout
    prompts.write_bytes(kept)
    study.snakemake("--cores", "2")
    assert study.planned() == {}


def test_another_configuration_under_the_same_name_is_refused(study):
    other = study.folder / "config" / "other.yaml"
    shutil.copy(study.folder / SMOKE, other)
    assert study.planned(config="config/other.yaml") == {}  # the same by another name
    other.write_text(other.read_text().replace("1.0e-3", "1.1e-3"))
    done = study.snakemake("--cores", "2", config="config/other.yaml")
    assert done.returncode != 0
    assert "results/smoke was made with config/smoke.yaml, and config/other.yaml has the same `study`" in done.stdout
    assert "Traceback" not in done.stdout
    assert study.planned() == {}
    (study.folder / "results/smoke/logs/configuration.txt").unlink()
    assert study.planned(config="config/other.yaml") == BELOW_DPO


def test_a_models_folder_counts_by_content(study):
    """Its weights, configuration and tokenizer; nothing else that lies there."""
    model = study.folder / "my model"
    shutil.copytree(study.folder / "results/smoke/model/weights", model)
    config = (study.folder / SMOKE).read_text()
    section = config[config.index("model:") : config.index("data:")]
    text = config.replace(section, 'model: {source: path, path: "my model"}\n\n').replace("study: smoke", "study: mine")
    (study.folder / "config/mine.yaml").write_text(text)
    card = "results/mine/model/model.json"
    assert ran(study.snakemake("--cores", "1", card, config="config/mine.yaml")) == {"fetch_model": 1}
    (model / "README.md").write_text("Other words.")
    os.utime(model / "model.safetensors")
    (study.folder / "config/mine.yaml").write_text(text.replace('"my model"', f'"{study.folder}/./my model/"'))
    assert "Nothing has to run." in study.snakemake("why", card, config="config/mine.yaml").stdout
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    os.utime(model / "model.safetensors", (0, 0))
    told = study.snakemake("why", card, config="config/mine.yaml").stdout
    assert re.search(
        r"^fetch_model: (model\.path was .*; )?other content in .*my model/+model\.safetensors$", told, re.M
    )


MANY = os.environ.get("SFT_VS_DPO_ALL_TESTS") == "1"
SETTINGS = {  # a key of the smoke study, its values, and the jobs whose settings hold it
    ("sft", "learning_rate"): ([2.0e-3, 2.1e-3], {"train_sft", "report"}),
    ("dpo", "learning_rate"): ([1.0e-3, 1.1e-3], {"train_dpo", "report"}),
    ("generation", "max_new_tokens"): ([16, 16.0, 17], {"generate", "report"}),
    ("tokens", "max_length"): ([256, 256.0, 255], {"fetch_model", "tokenize_data", "train_sft", "train_dpo", "report"}),
}
FILES = {
    f"{DATA}/sft.jsonl": {"check_data data=sft", "fetch_model"},
    f"{DATA}/preferences.jsonl": {"check_data data=pairs"},
    "scripts/report.html.j2": {"report"},
    "envs/stats.yaml": {"freeze_plan", "check_parity", "compare", "plot", "report"},
}


def test_random_edits_give_exactly_the_jobs_whose_recorded_inputs_differ(study):
    """Seeded: content, time, path, order and spelling change, and change back; the truth is kept apart from them."""
    import yaml

    draw = random.Random(20261126)
    originals = {name: (study.folder / name).read_bytes() for name in [*FILES, SMOKE]}
    config, content = yaml.safe_load(originals[SMOKE]), dict(originals)
    for step in range(200 if MANY else 12):
        for _ in range(draw.randrange(1, 4)):
            kind = draw.choice(["content", "back", "time", "setting", "spelling", "order", "copy", "comment"])
            name = draw.choice(sorted(FILES))
            path = study.folder / name
            if kind == "content":
                content[name] = originals[name] + b"\n  - x" * draw.randrange(1, 3)
                path.write_bytes(content[name])
                os.utime(path, ns=(draw.randrange(10**18),) * 2)
            elif kind == "back":
                content[name] = originals[name]
                path.write_bytes(content[name])
            elif kind == "time":
                os.utime(path, (draw.randrange(2**31),) * 2)
            elif kind == "setting":
                section, key = draw.choice(sorted(SETTINGS))
                config[section][key] = draw.choice(SETTINGS[section, key][0])
            elif kind == "spelling":
                config["data"]["sft"] = draw.choice(["", "./", "config/../", f"{study.folder}/"]) + f"{DATA}/sft.jsonl"
            elif kind == "order":
                config = dict(draw.sample(sorted(config.items()), len(config)))
            elif kind == "copy":
                shutil.copy2(path, study.folder / "kept")
                path.unlink()
                shutil.move(study.folder / "kept", path)
            elif kind == "comment":
                for commented in ("envs/train.yaml", "scripts/arms/job/files.py", "scripts/paired/__init__.py"):
                    with (study.folder / commented).open("a") as stream:
                        stream.write(f"# step {step}\n")
        (study.folder / SMOKE).write_text(yaml.safe_dump(config, sort_keys=False))
        wanted = {job for name, jobs in FILES.items() if content[name] != originals[name] for job in jobs}
        for (section, key), (values, jobs) in SETTINGS.items():
            if config[section][key] != values[0]:
                wanted |= jobs
        told = study.snakemake("why").stdout
        found = set(re.findall(r"^(\w+(?: \w+=\S+)*): .+", told, re.MULTILINE))
        assert all(job in wanted or job.split()[0] in wanted for job in found), (step, told)
        assert all(any(job in (one, one.split()[0]) for one in found) for job in wanted), (step, wanted, told)
    for name, original in originals.items():
        (study.folder / name).write_bytes(original)


FRONT = [f"results/smoke/tokens/{name}.parquet" for name in ("sft", "train_pairs", "heldout_pairs", "heldout_prompts")]


def test_exactly_the_jobs_ran_whose_recorded_inputs_differ(study):
    """Random edits, and after every few a real run of the front of the study: no false run and no missed one."""
    draw = random.Random(26112026)
    assert study.snakemake("--cores", "2").returncode == 0
    names = [f"{DATA}/sft.jsonl", f"{DATA}/preferences.jsonl", SMOKE, "envs/grade.yaml"]
    originals = {name: (study.folder / name).read_bytes() for name in names}
    edits = 200 if MANY else 12
    while edits > 0:
        several = draw.randrange(1, 8)
        edits -= several
        for _ in range(several):
            name = draw.choice(names)
            (study.folder / name).write_bytes(edited(name, originals[name], draw))
            os.utime(study.folder / name, ns=(draw.randrange(2 * 10**18),) * 2)
        before = manifests(study)
        done = study.snakemake("--cores", "2", *FRONT)
        assert done.returncode == 0, done.stdout[-3000:]
        after = manifests(study)
        for file, (written, what) in after.items():
            if written != before[file][0]:
                assert what != before[file][1], (edits, file, "ran for nothing")
            else:
                for entry in what["inputs"].values():
                    assert entry["sha256"] == sha256_file(study.folder / entry["path"]), (edits, file, entry["path"])
        rules = {what["rule"] for file, (written, what) in after.items() if written != before[file][0]}
        assert rules <= {"check_data", "list_heldout", "fetch_model", "tokenize_data"}


def edited(name: str, original: bytes, draw: random.Random) -> bytes:
    """One of the ways in which a file may change, or only seem to."""
    if name == SMOKE:
        lengths = ["max_length: 256", "max_length: 256.0", "max_length: 255", "max_length: 256  # tokens"]
        return original.replace(b"max_length: 256", draw.choice(lengths).encode())
    if name == "envs/grade.yaml":
        other = original.replace(b"--hash=", b"--hash=sha256:0 --hash=", 1)
        return draw.choice([original, original + b"# why\n", other])
    same = original.replace(b'", "', b'",  "')  # the same rows in other bytes
    other = original.replace(b" the ", b" that ", draw.randrange(1, 4))
    return draw.choice([original, original + b"\n" * draw.randrange(1, 4), same, other])


def manifests(study) -> dict[str, tuple[int, dict]]:
    """Of the front: when each manifest was written, and what it says of what its job was made of."""
    found = {}
    folders = [study.folder / "results/smoke" / name for name in ("data", "model", "tokens")]
    for path in (path for folder in folders for path in folder.glob("*manifest.json")):
        manifest = json.loads(path.read_text())
        kept = ("rule", "wildcards", "settings", "code", "lock", "inputs")
        found[str(path)] = path.stat().st_mtime_ns, {name: manifest[name] for name in kept}
    return found


def test_a_finished_study_plans_fifty_seeds_in_seconds(clone):
    clone.edit(SMOKE, "seeds: [1, 2]", f"seeds: {list(range(50))}")
    clone.edit(SMOKE, "dpo:\n", "dpo:\n  beta: [0.1, 0.2, 0.3]\n")
    started = time.perf_counter()
    planned = clone.planned()
    assert planned["train_dpo"] == 300
    assert time.perf_counter() - started < 60  # a guard against quadratic planning; measured 8 s
