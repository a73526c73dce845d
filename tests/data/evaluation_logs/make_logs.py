"""Make the evaluation logs of this folder with the real tools, offline, for tests of compare.py's adapters.

    pip install lm-eval==0.4.13 inspect_ai==0.3.285
    cd tests/data/evaluation_logs && python make_logs.py            # lm_eval/, inspect/
    cd tests/data/evaluation_logs && python make_logs.py reading    # reading/: what newer readers must know

reading/ has a group of two tasks whose items share passages, under two filters, from lm-eval 0.4.9 (with transformers
4.55.4, datasets 3.6.0) and 0.4.13, and from inspect_ai in two epochs with an invalidated and an unscored sample. Run it
once for each version, in an environment of its own; it keeps what others made.

lm-evaluation-harness runs two local tasks (tasks/) with a toy model, inspect_ai one with its mock model. The "models"
answer right when their skill, plus noise keyed by model and question, exceeds the difficulty of the question. What lies
here is what the tools wrote, except for the description of the machine in results_*.json, which is left out.
"""

import hashlib
import importlib.metadata
import importlib.util
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
    if "Passage" in question:
        number = a + b + (0 if right(run, question) else 10)
        return f"The answer is {number}." if chance(run, "form", question) < 0.7 else f"{number}"
    return str(a + b + (0 if right(run, question) else 10))


def write_data() -> None:
    """Questions of the two tasks."""
    rng = random.Random(7)
    for name, count, low, high in (("larger", 30, 10, 99), ("sums", 20, 100, 999)):
        rows = [dict(zip("ab", map(str, rng.sample(range(low, high), 2)), strict=True)) for _ in range(count)]
        (HERE / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, passages in (("reading_short", ("amber", "birch", "cedar")), ("reading_long", ("amber", "delta"))):
        rows = [
            {"passage": passage, "a": str(rng.randint(10, 99)), "b": str(rng.randint(10, 99))}
            for passage in passages
            for _ in range(4)
        ]
        (HERE / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_lm_eval(out: Path, runs, tasks: str) -> None:
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

    for run in runs:
        sys.argv = ["lm_eval", "--model", "toy", "--model_args", f"run={run}", "--tasks", tasks]
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


def run_inspect_reading(out: Path) -> None:
    """Two runs on the short passages in two epochs; of the second run a sample is invalidated and one is unscored."""
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.log import ProvenanceData, invalidate_samples, write_eval_log
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Target, mean, scorer
    from inspect_ai.solver import TaskState

    rows = [json.loads(line) for line in (HERE / "tasks/reading_short.jsonl").read_text().splitlines()]
    samples = [
        Sample(
            id=i,
            input=f"Passage {row['passage']}: what is {row['a']} + {row['b']}?",
            target=str(int(row["a"]) + int(row["b"])),
            metadata={"passage": row["passage"]},
        )
        for i, row in enumerate(rows)
    ]
    for run in ("base", "tuned-1"):

        def output(messages, *_, run=run):
            made = ModelOutput.from_content("mockllm/model", answer(run, messages[-1].text))
            made.usage = ModelUsage()  # else inspect fetches a tokenizer to count
            return made

        @scorer(metrics=[mean()])
        def number(run=run):
            async def score(state: TaskState, target: Target) -> Score:
                if run != "base" and state.sample_id == 5 and state.epoch == 2:
                    return Score.unscored(reason="no number in the answer")
                return Score(value="C" if target.text in state.output.completion else "I")

            return score

        task = Task(
            dataset=MemoryDataset(samples, name="reading"), scorer=number(), name="reading", version=1, epochs=2
        )
        model = get_model("mockllm/model", custom_outputs=output)
        (log,) = evaluate(task, model=model, log_dir=str(out / run), display="none", max_samples=1)
        if run != "base":
            wrong = next(sample.uuid for sample in log.samples if sample.id == 3 and sample.epoch == 1)
            log = invalidate_samples(log, [wrong], ProvenanceData(author="a tester", reason="the question was cut off"))
        write_eval_log(log, str(out / f"{run}.eval"))


def keep_lm_eval(made: Path, kept: Path, runs) -> None:
    """Copy what the harness wrote, without the description of the machine."""
    shutil.rmtree(kept, ignore_errors=True)
    for run in runs:
        target = kept / run
        target.mkdir(parents=True)
        for path in sorted((made / run).rglob("*.json*")):
            shutil.copy(path, target)
        for path in target.glob("results_*.json"):
            results = json.loads(path.read_text())
            results["pretty_env_info"] = "left out"
            path.write_text(json.dumps(results, indent=2))


def make_reading(out: Path) -> None:
    """reading/, with the tools that are installed."""
    runs = ("base", "tuned-1")
    if importlib.util.find_spec("lm_eval"):
        run_lm_eval(out / "lm_eval", runs, "reading")
        keep_lm_eval(out / "lm_eval", HERE / f"reading/lm_eval-{importlib.metadata.version('lm_eval')}", runs)
    if importlib.util.find_spec("inspect_ai"):
        run_inspect_reading(out / "inspect")
        (HERE / "reading/inspect").mkdir(parents=True, exist_ok=True)
        for path in sorted((out / "inspect").glob("*.eval")):
            shutil.copy(path, HERE / "reading/inspect")


def make_all(out: Path) -> None:
    """lm_eval/ and inspect/."""
    run_lm_eval(out / "lm_eval", RUNS, "larger,sums")
    keep_lm_eval(out / "lm_eval", HERE / "lm_eval", RUNS)
    run_inspect(out / "inspect")
    shutil.rmtree(HERE / "inspect", ignore_errors=True)
    (HERE / "inspect").mkdir()
    for path in sorted((out / "inspect").rglob("*.eval")) + sorted((out / "inspect").rglob("*.json")):
        shutil.copy(path, HERE / "inspect" / f"{path.parent.name.rpartition('-')[0]}{path.suffix}")


def main() -> None:
    """Write the data, run the tools in a scratch folder, keep their files under short names."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "INSPECT_DISABLE_TRACE": "1"}
    write_data()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        shutil.copytree(HERE / "tasks", out / "tasks")
        os.environ["HF_HOME"] = str(out / "cache")
        os.chdir(out)  # relative paths, and no git repository, in what the tools write
        make_reading(out) if sys.argv[1:] == ["reading"] else make_all(out)


if __name__ == "__main__":
    main()
