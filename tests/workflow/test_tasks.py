"""Tasks of lm-evaluation-harness through the public command: what they add, rerun and refuse."""

import csv
import json
import re
import shlex
import subprocess

SMOKE = "config/smoke.yaml"
WORDS = "    word_problems: {file: config/tasks/word_problems.yaml, metric: exact_match.strict-match, few_shot: 1}\n"
FACTS = "    facts: {file: config/tasks/facts.yaml, metric: [acc, acc_norm], limit: 4}\n"
RUNS = 7
STATISTICS = {"list_heldout": 1, "compare": 1, "plot": 1, "report": 1}


def jobs(tasks, metrics):
    """The jobs of so many tasks with so many metrics together, and what always follows."""
    asked = {"task_requests": tasks, "tokenize_task": tasks}
    return {**asked, "answer_task": RUNS * tasks, "grade_task": RUNS * metrics, **STATISTICS}


def add(clone, *lines, primary=None):
    """Write tasks at the end of the smoke configuration."""
    path = clone.folder / SMOKE
    more = "\nevaluation:\n  tasks:\n" + "".join(lines)
    path.write_text(path.read_text() + more + (f"statistics:\n  primary_metric: {primary}\n" if primary else ""))


def test_a_task_on_a_finished_study_trains_nothing_and_reaches_its_report(finished, tmp_path):
    clone = finished.copy(tmp_path / "with tasks")
    adapters = {path: path.stat().st_mtime_ns for path in clone.folder.glob("results/smoke/*/adapter/*")}
    add(clone, WORDS, FACTS, primary="facts.acc")
    assert clone.planned() == {**jobs(2, 3), "freeze_plan": 1}
    done = clone.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    assert clone.planned() == {}
    assert {path: path.stat().st_mtime_ns for path in clone.folder.glob("results/smoke/*/adapter/*")} == adapters

    study = clone.folder / "results" / "smoke"
    rows = list(csv.DictReader((study / "stats" / "contrasts.csv").open()))
    overall = [row for row in rows if row["group_kind"] == "overall"]
    assert {row["metric"] for row in overall} >= {
        "facts.acc",
        "facts.acc_norm",
        "word_problems.exact_match.strict-match",
    }
    primary = {row["contrast"]: float(row["estimate"]) for row in overall if row["family"] == "primary"}
    assert {row["metric"] for row in overall if row["family"] == "primary"} == {"facts.acc"}
    logs = {path.stem: path.read_text() for path in study.glob("logs/grade_task/facts.acc-*.log")}
    mean = {name: float(re.search(r"facts.acc ([0-9.]+) of 4 items", text)[1]) for name, text in logs.items()}
    gains = [mean[f"facts.acc-sft_dpo-seed{seed}"] - mean[f"facts.acc-sft-seed{seed}"] for seed in (1, 2)]
    assert abs(primary["C1"] - sum(gains) / 2) < 1e-3
    assert "word_problems.exact_match.strict-match" in (study / "report.html").read_text()
    facts = json.loads((study / "tasks" / "facts.requests.manifest.json").read_text())["facts"]
    assert facts["lm_eval"] == "0.4.13"

    clone.edit(SMOKE, "few_shot: 1", "few_shot: 2")
    assert clone.planned() == jobs(1, 1)
    clone.edit(SMOKE, "few_shot: 2", "few_shot: 1")
    clone.edit("config/tasks/facts.test.jsonl", "Which", "which")
    assert clone.planned() == jobs(1, 2)
    clone.edit("config/tasks/facts.test.jsonl", "which", "Which")
    clone.edit(SMOKE, "metric: [acc, acc_norm]", "metric: [acc]")
    less = {"freeze_plan": 1, "task_requests": 1, "answer_task": RUNS, "tokenize_task": 1, "grade_task": RUNS}
    assert clone.planned() == {**less, **STATISTICS}, "at most: the requests come out as before"


def test_the_readmes_benchmark_runs_as_it_stands_there(clone):
    """A fresh user's path: its configuration word for word, its command with the tiny model's configuration."""
    text = (clone.folder / "README.md").read_text()
    (written,) = re.findall(r"```yaml\n(# bench\.yaml.*?)```", text, re.DOTALL)
    (clone.folder / "bench.yaml").write_text(written)
    command = shlex.split(re.search(r"^(\.envs/driver/bin/snakemake .* bench\.yaml) ", text, re.MULTILINE)[1])
    assert command[1:] == ["--cores", "all", "--configfile", "config/config.yaml", "bench.yaml"]
    here = [SMOKE if word == "config/config.yaml" else word for word in command]
    done = subprocess.run(here, cwd=clone.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    study = clone.folder / "results" / "bench"
    rows = list(csv.DictReader((study / "stats" / "contrasts.csv").open()))
    assert {row["metric"] for row in rows if row["family"] == "primary"} == {"word_problems.exact_match.strict-match"}
    assert json.loads((study / "stats" / "decision.json").read_text())["primary_metric"].startswith("word_problems.")
    assert "word_problems.exact_match.strict-match" in (study / "report.html").read_text()


def test_training_waits_for_requests_that_can_be_asked_and_graded(clone):
    add(clone, "    gsm8: {metric: exact_match}\n")
    tokens = "results/smoke/tokens/sft.parquet"  # without which nothing trains
    planned = clone.planned(tokens)
    assert (planned["task_requests"], planned["tokenize_task"]) == (1, 1)
    done = clone.snakemake("results/smoke/tasks/gsm8.requests.parquet", "--cores", "1", "--quiet", "rules")
    assert done.returncode != 0
    assert "lm-evaluation-harness 0.4.13 has no task 'gsm8'; did you mean gsm8k" in done.stdout


def test_training_waits_for_requests_that_fit_the_model(clone):
    row = json.dumps({"question": "apples and pens " * 1000, "answer": "#### 1"}) + "\n"
    (clone.folder / "config" / "tasks" / "word_problems.train.jsonl").write_text(row * 2)
    add(clone, WORDS)
    done = clone.snakemake("results/smoke/tasks/word_problems.tokens.parquet", "--cores", "1", "--quiet", "rules")
    assert done.returncode != 0
    assert "with 1 examples before it" in done.stdout
    assert "lower few_shot" in done.stdout
