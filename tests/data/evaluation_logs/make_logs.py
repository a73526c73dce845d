"""Make the evaluation logs of this folder with the real tools, offline, for tests of compare.py's adapters.

    pip install lm-eval==0.4.13 inspect_ai==0.3.285
    cd tests/data/evaluation_logs && python make_logs.py

lm-evaluation-harness runs two local tasks (tasks/) with a toy model, inspect_ai one with its mock model. The "models"
answer right when their skill, plus noise keyed by model and question, exceeds the difficulty of the question. What lies
here is what the tools wrote, except for the description of the machine in results_*.json, which is left out.
"""

import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RUNS = {"base": 0.55, "tuned-1": 0.74, "tuned-2": 0.70, "tuned-3": 0.78}  # run: skill


def chance(*key) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:12], 16) / 16**12


def right(run: str, question: str) -> bool:
    """Whether a run answers a question right."""
    return RUNS[run] + 0.5 * (chance(run, question) - 0.5) > chance("difficulty", question)


def answer(run: str, question: str) -> str:
    """The answer of a run to a question about two numbers."""
    a, b = map(int, re.findall(r"\d+", question)[-2:])
    if "larger" in question:
        return str(max(a, b) if right(run, question) else min(a, b))
    return str(a + b + (0 if right(run, question) else 10))


def write_data() -> None:
    """Questions of the two tasks."""
    rng = random.Random(7)
    for name, count, low, high in (("larger", 30, 10, 99), ("sums", 20, 100, 999)):
        rows = [dict(zip("ab", map(str, rng.sample(range(low, high), 2)), strict=True)) for _ in range(count)]
        (HERE / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_lm_eval(out: Path) -> None:
    """One call of the command line for each run."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    @register_model("toy")
    class Toy(LM):
        def __init__(self, run, **_):
            super().__init__()
            self.run = run

        @classmethod
        def create_from_arg_obj(cls, arg_dict, additional_config=None):
            return cls(**arg_dict)

        def loglikelihood(self, requests, **_):
            pairs = [request.args for request in requests]
            return [(-1.0 if text.strip() == answer(self.run, context) else -3.0, True) for context, text in pairs]

        def generate_until(self, requests, **_):
            return [answer(self.run, request.args[0]) for request in requests]

        def loglikelihood_rolling(self, requests, **_):
            raise NotImplementedError

    for run in RUNS:
        sys.argv = ["lm_eval", "run", "--model", "toy", "--model_args", f"run={run}", "--tasks", "larger,sums"]
        sys.argv += ["--include_path", "tasks", "--output_path", str(out / run), "--log_samples"]
        cli_evaluate()


def run_inspect(out: Path) -> None:
    """A log of two runs on the first 24 questions in the new binary format, and a short one as JSON."""
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Target, match, mean, scorer, stderr
    from inspect_ai.solver import TaskState

    @scorer(metrics=[mean(), stderr()])
    def length():
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value=len(state.output.completion) / 4)

        return score

    def mock(run):
        def output(messages, *_):
            made = ModelOutput.from_content("mockllm/model", answer(run, messages[-1].text))
            made.usage = ModelUsage()  # else inspect fetches a tokenizer to count
            return made

        return output

    rows = [json.loads(line) for line in (HERE / "tasks/larger.jsonl").read_text().splitlines()]
    questions = [f"Which number is larger, {row['a']} or {row['b']}?" for row in rows]
    samples = [
        Sample(id=f"q{i:02d}", input=question, target=str(max(int(row["a"]), int(row["b"]))))
        for i, (row, question) in enumerate(zip(rows, questions, strict=True))
    ]
    task = Task(dataset=MemoryDataset(samples, name="larger"), scorer=[match(), length()], name="larger", version=1)
    for run, kind in (("base", "eval"), ("tuned-1", "eval"), ("base", "json")):
        model = get_model("mockllm/model", custom_outputs=mock(run))
        folder = out / f"{run}-{kind}"
        evaluate(
            task,
            model=model,
            log_dir=str(folder),
            log_format=kind,
            display="none",
            max_samples=1,
            limit=24 if kind == "eval" else 3,
        )


def main() -> None:
    """Write the data, run the tools in a scratch folder, keep their files under short names."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "INSPECT_DISABLE_TRACE": "1"}
    write_data()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        shutil.copytree(HERE / "tasks", out / "tasks")
        os.chdir(out)  # relative paths, and no git repository, in what the tools write
        os.environ["HF_HOME"] = str(out / "cache")
        run_lm_eval(out / "lm_eval")
        run_inspect(out / "inspect")
        for folder in ("lm_eval", "inspect"):
            shutil.rmtree(HERE / folder, ignore_errors=True)
        for run in RUNS:
            target = HERE / "lm_eval" / run
            target.mkdir(parents=True)
            for path in sorted((out / "lm_eval" / run).rglob("*.json*")):
                shutil.copy(path, target)
            for path in target.glob("results_*.json"):
                results = json.loads(path.read_text())
                results["pretty_env_info"] = "left out"
                path.write_text(json.dumps(results, indent=2))
        (HERE / "inspect").mkdir()
        for path in sorted((out / "inspect").rglob("*.eval")) + sorted((out / "inspect").rglob("*.json")):
            shutil.copy(path, HERE / "inspect" / f"{path.parent.name.rpartition('-')[0]}{path.suffix}")


if __name__ == "__main__":
    main()
