"""A tiny study on disk, made once through the programs themselves: model, tokens, an SFT adapter, reference tables."""

import json
import random
import subprocess
import sys
from pathlib import Path

import programs
import pytest

from arms.stacks import NAME

ROOT = Path(__file__).parents[3]
collect_ignore = [] if NAME == "pinned" else ["test_traps.py"]  # what TRL 0.9.6 does when it is used as it is
# On the current stack: what is unlike on it. The rest is the code that runs on the pinned one in every run.
EVERY_RUN = ("agreement", "both_stacks", "dpo", "equivalence", "experts", "fetch_model", "generation", "gpu", "logps")
EVERY_RUN += ("models_page", "quantised", "reward", "tokens")
LOCK = ROOT / "envs" / f"{Path(sys.prefix).name}.yaml"  # of the environment in which the tests were started
RECIPE = {
    "epochs": 1,
    "batch_size": 4,
    "micro_batch_size": 2,
    "learning_rate": 5e-3,
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
TORCH = {"precision": "fp32", "cpu_instructions": "native"}
SHARED = {**TORCH, "max_length": 128, "lora": LORA}
SFT = {**SHARED, "sft": RECIPE}
DPO = {
    **SHARED,
    "start": "adapter",
    "dpo": {**RECIPE, "learning_rate": 1e-3, "beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0},
}
TOKENS = {"template": "chat", "system_prompt": None, "max_length": 128, "on_overlong": "error", "rows": None}
TOKENS |= {"eos_after_truncation": True}
SCORING = {**TORCH, "batch_size": 4}
WORDS = [
    "river",
    "stone",
    "cloud",
    "apple",
    "quiet",
    "green",
    "table",
    "music",
    "winter",
    "light",
    "paper",
    "house",
    "garden",
]


def pytest_collection_modifyitems(items):
    """Leave the rest to `make test-all` (tests/conftest.py)."""
    for item in items:
        if NAME == "current" and not item.path.stem.endswith(EVERY_RUN):
            item.add_marker(pytest.mark.test_all("the same code as on the pinned stack, where every run tries it"))


class Study:
    """A folder with a study's files, and a way to run programs on them."""

    anew = False  # whether each program gets a Python of its own, which takes six seconds for its imports

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, rule: str, settings: dict, *flags: object, fails: bool = False, **wildcards: str) -> str:
        """Run a program; return what it printed. With `fails`, require exit code 1 and one clear message."""
        job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings, "code": ""})
        command = [str(ROOT / "scripts" / f"{rule}.py"), "--job", job]
        command += [
            "--lock",
            str(ROOT / "envs" / f"{Path(sys.prefix).name}.yaml"),
            "--manifest",
            "m.json",
            *map(str, flags),
        ]
        done = self.start([sys.executable, *command]) if self.anew else programs.run(command, self.folder)
        assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
        if fails:
            assert "Traceback" not in done.stderr, done.stderr
            return done.stderr[done.stderr.index("error: ") :]
        return done.stdout

    def start(self, command: list[str]) -> subprocess.CompletedProcess:
        """Run a program in a Python of its own."""
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def read(self, name: str) -> dict:
        """A JSON file of the study."""
        return json.loads((self.folder / name).read_text())

    def score(self, output: str, *flags: object) -> None:
        """Make a reference table of the training pairs."""
        self.run(
            "score_pairs",
            SCORING,
            "--model",
            "model/model.json",
            "--tokens",
            "pairs.parquet",
            "--table",
            output,
            *flags,
        )

    def mismatch(self, output: str, *flags: object) -> None:
        """Make mismatched pairs, and a reference table of them, where they are not there yet."""
        if not (self.folder / "mismatched.parquet").exists():
            self.run("mismatch_pairs", {}, "--pairs", "pairs.parquet", "--mismatched", "mismatched.parquet")
        if not (self.folder / output).exists():
            self.score(output, *flags, "--tokens", "mismatched.parquet")

    def train_dpo(self, output: str, reference: str, *flags: object, settings: dict = DPO, fails: bool = False) -> str:
        """Train a DPO arm into the folder `output`."""
        flags = [*training_flags(output), "--tokens", "pairs.parquet", "--reference", reference, *flags]
        return self.run("train_dpo", settings, *flags, fails=fails, arm="sft_dpo", seed="1")

    def train_sft(self, output: str, *flags: object, settings: dict = SFT) -> str:
        """Train an SFT adapter into the folder `output`."""
        return self.run("train_sft", settings, *training_flags(output), "--tokens", "sft.parquet", *flags, seed="1")


def training_flags(output: str) -> list[str]:
    """The flags of a training program that puts everything into one folder."""
    flags = ["--model", "model/model.json", "--adapter", f"{output}/arm.json"]
    flags += ["--weights", f"{output}/adapter_model.safetensors", "--config", f"{output}/adapter_config.json"]
    flags += ["--curves", f"{output}/curves.parquet", "--speed", f"{output}/speed.parquet"]
    flags += ["--observed", f"{output}/observed.json"]
    return [*flags, "--checkpoints", f"{output}/checkpoints"]


def pairs() -> list[dict]:
    """24 pairs whose completions share their beginning, as SFT rows and as preferences."""
    draw = random.Random(0)
    rows = []
    for i in range(24):
        words = draw.sample(WORDS, 8)
        shared = " ".join(words[2:6])
        prompt = f"Say {words[0]} and {words[1]}."
        row = {"id": f"p{i}", "category": "a", "prompt": prompt, "completion": f"{shared} {words[6]}"}
        rows.append({**row, "chosen": f"{shared} {words[6]}", "rejected": f"{shared}, {words[7]} {words[0]}"})
    return rows


def make_study(folder: Path, family: str) -> Study:
    """A tiny random model of one family, and the tokens of `pairs`."""
    study = Study(folder)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    model = {"source": "random", "family": family, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2}
    model |= {"intermediate_size": 64, "vocab_size": 400, "seed": 0}
    study.run(
        "fetch_model",
        {"model": model},
        "--weights",
        "model/weights",
        "--card",
        "model/model.json",
        "--files",
        "data.jsonl",
    )
    tokens = TOKENS if family != "gpt2" else {**TOKENS, "template": "Q: {prompt}\nA:"}
    for kind in ("sft", "pairs"):
        flags = ["--data", "data.jsonl", "--kind", kind, "--tokens", f"{kind}.parquet", "--audit", f"{kind}.json"]
        study.run("tokenize_data", tokens, "--model", "model/model.json", *flags)
    return study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """The Llama study, with an SFT adapter and the two reference tables."""
    study = make_study(tmp_path_factory.mktemp("a study's folder"), "llama")
    study.train_sft("sft")
    study.score("base.parquet")
    study.score("sft.table.parquet", "--adapter", "sft/arm.json")
    return study
