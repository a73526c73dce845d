"""Answers to tasks, item by item the same as `lm_eval --model hf` gives by itself; and what does not fit is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from arms.data.requests import ANSWERS, TOKENS, read_rows
from arms.data.task_tokens import TaskEncoder
from arms.data.tokens import load_tokenizer
from arms.job.files import UserError

ROOT = Path(__file__).parents[3]
TASKS = {"facts": ["acc", "acc_norm"], "word_problems": ["exact_match.strict-match", "exact_match.flexible-extract"]}
ANSWERING = {"precision": "fp32", "cpu_instructions": "native"}
ANSWERING |= {"scoring": {"batch_size": 4}, "generation": {"batch_size": 5}}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
OTHER_WAYS = pytest.mark.test_all("each starts the harness four times; a task of each type is in every run")
ADAPTERS = {"base": None, "sft-seed1": "sft/arm.json"}


def grading(study, rule, settings, *flags, **wildcards):
    """Run one of the harness's own programs in its environment."""
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings, "code": ""})
    command = [str(ROOT / ".envs" / "grade" / "bin" / "python"), str(ROOT / "scripts" / f"{rule}.py"), "--job", job]
    done = subprocess.run(
        [*command, "--manifest", "m.json", *map(str, flags)], cwd=study.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def answer(study, task, run, metrics=(), few_shot=None, chat=False, limit=6):
    """What the programs make of a task: token rows, answers, and for each of the metrics {item: value}."""
    settings = {"name": task, "task": task, "own": True, "metric": TASKS[task], "few_shot": few_shot, "limit": limit}
    settings |= {"chat_template": chat, "system_prompt": None, "higher_is_better": True}
    if not (study.folder / "config").exists():
        (study.folder / "config").symlink_to(ROOT / "config")
    files = ["--files", f"config/tasks/{task}.yaml"]
    grading(study, "task_requests", settings, *files, "--requests", "r.parquet", "--heldout", "i.parquet", task=task)
    flags = ["--model", "model/model.json"]
    study.run("tokenize_task", {}, *flags, "--requests", "r.parquet", "--tokens", "t.parquet", task=task)
    adapter = ["--adapter", ADAPTERS[run]] if ADAPTERS[run] else []
    flags += [*adapter, "--tokens", "t.parquet", "--answers", "a.parquet"]
    study.run("answer_task", ANSWERING, *flags, run=run, task=task)
    scores = {}
    for metric in metrics:
        asked = settings | {"metric": f"{task}.{metric}"}
        flags = [*files, "--requests", "r.parquet", "--answers", "a.parquet", "--scores", "s.parquet"]
        grading(study, "grade_task", asked, *flags, run=run, metric=f"{task}.{metric}")
        rows = pq.read_table(study.folder / "s.parquet").to_pylist()
        scores[metric] = {row["prompt_id"]: row["value"] for row in rows}
    return read_rows(study.folder / "t.parquet", TOKENS), read_rows(study.folder / "a.parquet", ANSWERS), scores


def alone(study, folder, task, run, few_shot=None, chat=False, limit=6):
    """The samples that `lm_eval --model hf --log_samples` writes of the same weights."""
    (folder / "study").symlink_to(study.folder)  # lm_eval reads no quotes within --model_args
    model = f"pretrained={folder}/study/model/weights,dtype=float32"
    model += f",peft={folder}/study/sft" if ADAPTERS[run] else ""
    command = [sys.executable, str(ROOT / "tests" / "harness_alone.py"), "run", "--model", "hf", "--model_args", model]
    command += ["--tasks", f"config/tasks/{task}.yaml", "--device", "cpu", "--batch_size", "3", "--limit", str(limit)]
    command += ["--log_samples", "--output_path", str(folder)]
    command += ["--num_fewshot", str(few_shot)] if few_shot is not None else []
    command += ["--apply_chat_template"] if chat else []
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = folder.glob("*/samples_*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.parametrize(
    ("task", "run", "options"),
    [
        ("facts", "base", {}),
        pytest.param("facts", "sft-seed1", {"chat": True}, marks=OTHER_WAYS),
        pytest.param("word_problems", "base", {"few_shot": 1}, marks=OTHER_WAYS),
        ("word_problems", "sft-seed1", {"few_shot": 2, "chat": True}),
    ],
)
def test_every_item_is_graded_as_the_harness_grades_it_by_itself(study, tmp_path, task, run, options):
    _, answers, scores = answer(study, task, run, TASKS[task], **options)
    samples = alone(study, tmp_path, task, run, **options)
    for metric, values in scores.items():
        name, _, kind = metric.partition(".")
        theirs = {f"{task}/{one['doc_id']}": one[name] for one in samples if one["filter"] == (kind or "none")}
        assert values == theirs
        assert len(values) == 6
    first = [one for one in samples if one["filter"] == samples[0]["filter"]]
    responses = [response[0] for one in sorted(first, key=lambda one: one["doc_id"]) for response in one["resps"]]
    if task == "word_problems":
        assert [row["text"] for row in answers] == responses
    else:
        assert [row["greedy"] for row in answers] == [str(greedy) == "True" for _, greedy in responses]
        assert [row["logp"] for row in answers] == pytest.approx([float(logp) for logp, _ in responses], abs=2e-4)


def test_an_answer_ends_before_its_stop_text_and_goes_on_after_an_interruption(study):
    tokens, answers, _ = answer(study, "word_problems", "base", few_shot=1)
    (text,) = {row["text"] for row in answers[:1]}
    stop = text[len(text) // 2 :][:3]
    assert stop.strip(), "this model writes nothing to stop at"
    rows = [{**row, "until": [stop]} for row in tokens]

    from arms.scoring.policy import load_policy
    from arms.scoring.task_answers import Writer

    policy = load_policy(study.folder / "model" / "model.json", None, "fp32")
    writer = Writer(policy, rows, 5)
    begun = writer.answers(rows, None)
    next(writer.rounds(begun))
    resumed = writer.answers(rows, [one.ids for one in begun])
    whole = writer.answers(rows, None)
    for written in (resumed, whole):
        for _ in writer.rounds(written):
            pass
    assert [writer.outcome(one) for one in resumed] == [writer.outcome(one) for one in whole]
    first = writer.outcome(whole[0])
    assert first["text"] == text[: text.index(stop)]
    assert first["status"] == "ok"


@pytest.fixture(scope="module")
def encoder(study):
    return TaskEncoder(load_tokenizer(study.folder / "model" / "model.json"), "<|endoftext|>", 40)


ROW = {"task": "t", "doc_id": 3, "idx": 0, "few_shot": 0, "conversation": False, "continuation": None}


def test_white_space_between_context_and_continuation_belongs_to_the_continuation(encoder):
    before, after = encoder.pair("Say river. ", "stone")
    assert before == encoder.ids("Say river.")
    assert before + after == encoder.ids("Say river. stone")


def test_what_does_not_fit_is_cut_from_the_left_or_refused(encoder):
    text = "river stone " * 40
    row = {**ROW, "context": text, "max_new_tokens": 8}
    assert encoder.tokens(row)["prompt_ids"] == encoder.ids(text)[-32:]
    assert encoder.cut == 1
    with pytest.raises(UserError, match=r"item 3 of t: \d+ tokens with 2 examples before it.*40 that the model takes"):
        encoder.tokens({**row, "few_shot": 2})
    with pytest.raises(UserError, match=r"its answer may have 64 tokens and the model takes 40"):
        encoder.tokens({**row, "max_new_tokens": 64})
    with pytest.raises(UserError, match=r"the answer '' has no token"):
        encoder.tokens({**row, "continuation": "", "context": "river"})
