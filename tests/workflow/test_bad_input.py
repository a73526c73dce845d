"""Bad input: one clear message with file, key or row and the cure, before any training, earlier results untouched."""

import json
import shutil

import pytest

CONFIGS = {
    "misspelt key": (
        "learning_rate: 2.0e-3",
        "learning_rat: 2.0e-3",
        "'sft.learning_rat'; did you mean 'learning_rate'?",
    ),
    "number read as text": (
        "learning_rate: 2.0e-3",
        "learning_rate: 1e-5",
        "sft.learning_rate: '1e-5' is text to YAML",
    ),
    "missing file": (
        "config/data/sft.jsonl",
        "config/data/sfft.jsonl",
        "data.sft: no such file: config/data/sfft.jsonl",
    ),
    "missing key": ("  family: llama\n", "", "model.family is missing"),
    "wrong choice": ("family: llama", "family: lama", "model.family: 'lama' is not one of"),
    "seed twice": ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: [1, 1] has non-unique elements"),
    "batches that do not divide": (
        "  micro_batch_size: 16\n\ndpo",
        "  micro_batch_size: 5\n\ndpo",
        "sft.micro_batch_size (5) must divide sft.batch_size (16)",
    ),
    "number read as text in a list": (
        "learning_rate: 1.0e-3",
        "learning_rate: [1.0e-3, 1e-5]",
        "dpo.learning_rate: '1e-5' is text to YAML",
    ),
    "no recipe": ("learning_rate: 1.0e-3", "learning_rate: []", "dpo: an empty list stands for no recipe"),
    "a list outside dpo": (
        "learning_rate: 2.0e-3",
        "learning_rate: [2.0e-3]",
        "sft.learning_rate: [0.002] is not of type",
    ),
    "merging the adapter": (
        "tokens:\n",
        "sft_dpo: {start: merge}\n\ntokens:\n",
        "'merge' is not one of ['adapter', 'fresh', 'merged']; adapter goes on training the SFT adapter.",
    ),
    "smoothing without effect": (
        "dpo:\n",
        "dpo:\n  loss_type: [sigmoid, ipo]\n  label_smoothing: 0.1\n",
        "dpo.label_smoothing has no effect on dpo.loss_type ipo; remove one of them",
    ),
    "a loss that sorts half a batch": (
        "  batch_size: 16\n  micro_batch_size: 16\n\ngeneration",
        "  batch_size: 16\n  micro_batch_size: 8\n  loss_type: aot\n\ngeneration",
        "dpo.micro_batch_size must equal dpo.batch_size",
    ),
    "more GPUs than micro-batches": (
        "cpu_instructions: portable",
        "gpus: 2\ncpu_instructions: portable",
        "gpus (2) times sft.micro_batch_size (16) must divide sft.batch_size (16); lower one of the first two",
    ),
    "an unknown arm": (
        "seeds: [1, 2]",
        "seeds: [1, 2]\narms: [base, sft, sft_dpo, dpo_only, orpo_onyl]",
        "arms: unknown arm 'orpo_onyl'; did you mean 'orpo_only'?",
    ),
    "KTO on one pair": (
        "  batch_size: 16\n  micro_batch_size: 16\n\ngeneration",
        "  batch_size: 16\n  micro_batch_size: 1\n\narms: [base, sft, sft_dpo, dpo_only, sft_kto]\ngeneration",
        "dpo.micro_batch_size is 1, and KTO estimates its KL term from the pairs of a micro-batch: make it 2 or more",
    ),
    "8 bits without a GPU": (
        "  seed: 0\n",
        "  seed: 0\n  precision: int8\n",
        "model.precision int8 needs gpus: 1, or stack: current, which quantizes on a CPU too",
    ),
}
ROWS = {
    "not JSON": ("sft", lambda line: line[:-2], "sft.jsonl, line 3: not valid JSON"),
    "missing column": ("preferences", lambda line: drop(line, "rejected"), "line 3: column 'rejected' is missing"),
    "empty chosen": ("preferences", lambda line: put(line, chosen="  "), "line 3"),
    "chosen equals rejected": ("preferences", lambda line: put(line, chosen="same", rejected="same"), "line 3"),
}


def put(line, **columns):
    return json.dumps({**json.loads(line), **columns})


def drop(line, column):
    return json.dumps({name: value for name, value in json.loads(line).items() if name != column})


def change_row(clone, name, change):
    """Change the third row of a data file of a clone."""
    path = clone.folder / "config" / "data" / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = change(lines[2])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("case", CONFIGS)
def test_configuration(clone, case):
    old, new, message = CONFIGS[case]
    clone.edit("config/smoke.yaml", old, new)
    done = clone.snakemake("--dry-run")
    assert done.returncode != 0
    assert f"config/smoke.yaml: {message}" in done.stdout or message in done.stdout
    assert "Traceback" not in done.stdout


def test_what_the_command_line_changes_is_not_blamed_on_the_file(clone):
    done = clone.snakemake("--dry-run", "--config", "dpo={beta: strong}")
    assert done.returncode == 1, done.stdout
    assert "smoke.yaml with --config dpo: dpo.beta: 'strong' is not of type 'number'" in done.stdout


@pytest.mark.parametrize("case", ROWS)
def test_data(clone, case):
    """A dry run tells it, without the programs' environments."""
    (clone.folder / ".envs").unlink()
    name, change, message = ROWS[case]
    change_row(clone, name, change)
    done = clone.snakemake("--dry-run")
    assert done.returncode != 0
    assert f"config/smoke.yaml: data.{'sft' if name == 'sft' else 'pairs'}: config/data/{name}.jsonl, " in done.stdout
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert "Building DAG" not in done.stdout
    assert not (clone.folder / "results").exists() or not list((clone.folder / "results").glob("smoke"))


def test_what_no_head_shows_stops_it_before_tokens_are_made(clone):
    path = clone.folder / "config" / "data" / "preferences.jsonl"
    lines = path.read_text().splitlines()
    lines[150] = put(lines[150], chosen="same", rejected="same")
    path.write_text("\n".join(lines) + "\n")
    assert clone.snakemake("--dry-run").returncode == 0
    done = clone.snakemake("--cores", "2", "--until", "tokenize_data")
    assert done.returncode != 0
    assert "preferences.jsonl, line 151: 'chosen' and 'rejected' are the same" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (clone.folder / "results" / "smoke" / "tokens" / "train_pairs.parquet").exists()


def test_a_heldout_prompt_that_is_trained_on(clone):
    prompt = json.loads((clone.folder / "config" / "data" / "heldout_prompts.jsonl").read_text().splitlines()[0])[
        "prompt"
    ]
    change_row(clone, "sft", lambda line: put(line, prompt=f"  {prompt.upper()} "))
    done = clone.snakemake("--cores", "2", "--until", "check_data")
    assert done.returncode != 0
    assert "sft.jsonl" in done.stdout
    assert "line 3" in done.stdout or "(line 3" in done.stdout or "lines 3" in done.stdout


def test_heldout_prompts_that_cannot_be_graded_stop_it_before_training(clone):
    change_row(clone, "heldout_prompts", lambda line: put(line, instruction_id_list=["punctuation:no_coma"]))
    done = clone.snakemake("--cores", "2")
    assert done.returncode != 0
    assert "heldout_prompts.jsonl, line 3: unknown instruction" in done.stdout
    assert "Traceback" not in done.stdout
    logs = {path.name for path in (clone.folder / "results" / "smoke" / "logs").iterdir() if path.suffix != ".txt"}
    assert not logs & {"tokenize_data", "train_sft", "train_dpo", "score_pairs", "generate"}


def test_bad_data_leaves_earlier_results_alone(finished, tmp_path):
    made = {
        path: path.read_bytes()
        for path in (finished.folder / "results").rglob("*")
        if path.is_file() and "logs" not in path.parts
    }
    data = finished.folder / "config" / "data" / "preferences.jsonl"
    kept = data.read_bytes()
    try:
        change_row(finished, "preferences", lambda line: put(line, rejected=""))
        assert finished.snakemake("--cores", "2").returncode != 0
    finally:
        data.write_bytes(kept)
    lost = [
        path
        for path in made
        if "/data/pairs." not in str(path) and (not path.is_file() or path.read_bytes() != made[path])
    ]
    assert not lost
    done = finished.snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_model_path_with_spaces_and_quotes(clone, finished):
    folder = clone.folder / "my 'own' \"model\""
    shutil.copytree(finished.folder / "results" / "smoke" / "model" / "weights", folder)
    text = (clone.folder / "config" / "smoke.yaml").read_text()
    start, end = text.index("model:"), text.index("data:")
    model = f"model: {{source: path, path: {json.dumps(str(folder))}}}\n\n"
    (clone.folder / "config" / "smoke.yaml").write_text(text[:start] + model + text[end:])
    done = clone.snakemake("--cores", "2", "--until", "tokenize_data")
    assert done.returncode == 0, done.stdout[-3000:]
    (folder / "tokenizer.json").unlink()
    shutil.rmtree(clone.folder / "results")
    done = clone.snakemake("--cores", "2", "--until", "fetch_model")
    assert done.returncode != 0
    assert "tokenizer" in done.stdout
