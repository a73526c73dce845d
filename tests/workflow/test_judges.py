"""Judges through the public command, against a small real HTTP server: what they add, cost, survive and refuse."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import SNAKEMAKE, results
from small_judge import SmallJudge

SMOKE = "config/smoke.yaml"
PAIRS = 6  # three contrasts, two seeds
STATISTICS = {"freeze_plan": 1, "compare": 1, "plot": 1, "report": 1}
SECRET = "sk-secret-of-the-test"


def add(clone, judges, primary=None):
    """Write judges at the end of the smoke configuration. judges: name -> keys as YAML."""
    path = clone.folder / SMOKE
    lines = "".join(f"    {name}: {{{keys}}}\n" for name, keys in judges.items())
    more = f"\nevaluation:\n  judges:\n{lines}" + (f"statistics:\n  primary_metric: {primary}\n" if primary else "")
    path.write_text(path.read_text() + more)


def by_contrast(clone, table, **where):
    rows = csv.DictReader((clone.folder / "results" / "smoke" / "stats" / f"{table}.csv").open())
    return {row["contrast"]: row for row in rows if where.items() <= row.items()}


def test_judges_on_a_finished_study_from_their_lines_to_the_report(finished, tmp_path):
    clone = finished.copy(tmp_path / "judged")
    biased = {"text": 'I like the first. <script>alert("x")</script> [[A]]'}
    with SmallJudge("small-1") as small, SmallJudge("always-a", lambda n, text: biased) as first:
        add(
            clone,
            {
                "small": f"endpoint: '{small.url}', model: small, key: A_JUDGES_KEY",
                "first": f"endpoint: '{first.url}', model: first, contrasts: [C2]",
            },
            primary="judge.small",
        )
        needs_key = clone.snakemake("--dry-run", "--quiet", "rules")
        assert needs_key.returncode != 0
        assert needs_key.stdout.count("evaluation.judges.small: the environment variable A_JUDGES_KEY") == 1
        planned = clone.planned(A_JUDGES_KEY=SECRET)
        assert planned == {"meet_judge": 2, "judge": PAIRS + 2, **STATISTICS}
        why = clone.snakemake("why", A_JUDGES_KEY=SECRET)
        assert "judge judge=first run=sft_dpo-seed1 other=dpo_only-seed1: not made yet" in why.stdout
        done = clone.snakemake("--cores", "2", "--quiet", "rules", A_JUDGES_KEY=SECRET)
        assert done.returncode == 0, done.stdout[-6000:]
        asked = len(small.asked), len(first.asked)
        assert min(asked) > 20
        assert clone.planned() == {}, "a finished study needs no key"
        assert max(Counter(small.asked).values()) == 1

    study = clone.folder / "results" / "smoke"
    for path in [
        *study.rglob("*"),
        *clone.folder.glob("results/.judgements/**/*"),
        *clone.folder.glob(".snakemake/**/*"),
    ]:
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in done.stdout
    contrasts = by_contrast(clone, "contrasts", metric="judge.small", group_kind="overall")
    assert contrasts.keys() == {"C1", "C2", "C3"}
    assert {row["family"] for row in contrasts.values()} == {"primary"}
    said = by_contrast(clone, "preferences", metric="judge.small")
    for name, row in said.items():
        wins, ties, losses = (int(row[key]) for key in ("wins", "ties", "losses"))
        assert wins + ties + losses == 2 * 2 * 120
        assert abs(float(contrasts[name]["estimate"]) - (wins - losses) / (wins + ties + losses)) < 1e-9
        assert (float(row["position_bias"]), float(row["order_agreement"])) == (0, 1)
    planted = by_contrast(clone, "preferences", metric="judge.first")
    assert planted.keys() == {"C2"}
    page = (study / "report.html").read_text()
    assert "first is biased by position: the answer shown first wins 100.0 points net" in page
    assert "small is biased" not in page
    assert "first and small" in page
    assert "served as small-1" in page
    assert "<script>alert" not in page
    verified = clone.snakemake("verify")
    assert "results/smoke: OK; " in verified.stdout, verified.stdout
    published = clone.snakemake("publish", "--cores", "1")
    assert published.returncode == 0, published.stdout
    card = (clone.folder / "results" / "smoke-publish" / "sft_dpo-seed1" / "README.md").read_text()
    assert "- On judge.first, " in card, card  # no primary metric: told since judges give an arm by itself no mean

    # all of it is kept: with the results gone and no server, the same again
    before = results(clone.folder)
    for path in [*study.glob("judge/*/*.parquet"), *study.glob("scores/metric=judge.*/*")]:
        path.unlink()
    done = clone.snakemake("--cores", "2", "--quiet", "rules", A_JUDGES_KEY=SECRET)
    assert done.returncode == 0, done.stdout[-6000:]
    assert results(clone.folder) == before
    assert asked == (len(small.asked), len(first.asked))

    # another way to reach a judge makes nothing again; another prompt asks that judge anew, and trains nothing
    clone.edit(SMOKE, "model: small,", "model: small, parallel: 9, endpoint: 'http://127.0.0.1:9/v1',")
    clone.edit(SMOKE, f"endpoint: '{small.url}', ", "")
    assert clone.planned() == {}
    clone.edit(SMOKE, "model: first,", "model: first, max_tokens: 5,")
    less = {"meet_judge": 1, "judge": 2, "compare": 1, "plot": 1, "report": 1}
    assert clone.planned() == less


def test_a_judged_study_that_is_killed_twice_asks_nothing_twice(finished, tmp_path):
    whole, killed = finished.copy(tmp_path / "whole"), finished.copy(tmp_path / "killed").cold()
    with SmallJudge() as quiet, SmallJudge(behave=lambda n, text: {"delay": 0.5}) as server:
        add(whole, {"small": f"endpoint: '{quiet.url}', model: small"})
        done = whole.snakemake("--cores", "2", "--quiet", "rules")
        assert done.returncode == 0, done.stdout[-6000:]
        add(killed, {"small": f"endpoint: '{server.url}', model: small"})
        command = [str(SNAKEMAKE), "--cores", "2", "--quiet", "rules", "--configfile", SMOKE]
        under_way = 4 + 4  # at most: of each of two kills, the requests in parallel
        for most in (6, 20):
            study = subprocess.Popen(command, cwd=killed.folder, stdout=subprocess.DEVNULL, start_new_session=True)
            while len(server.asked) < most and study.poll() is None:
                time.sleep(0.02)
            assert study.poll() is None, "it was done before it could be killed"
            os.killpg(study.pid, signal.SIGKILL)
            study.wait()
            time.sleep(0.2)
        done = killed.snakemake("--cores", "2", "--quiet", "rules")
        assert done.returncode == 0, done.stdout[-6000:]
        twice = sum(count - 1 for count in Counter(server.asked).values())
        assert twice <= under_way
        assert set(server.asked) == set(quiet.asked)
    assert results(killed.folder) == results(whole.folder)


REWARD_MODEL = """
import sys
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
size = len(AutoTokenizer.from_pretrained(sys.argv[1]))
config = LlamaConfig(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                     num_labels=1)
LlamaForSequenceClassification(config).save_pretrained(sys.argv[2], safe_serialization=True)
"""


@pytest.mark.test_all("scores ten sets of answers; tests/unit/train/test_reward.py has one")
def test_a_reward_model_judges_a_finished_study(finished, tmp_path):
    clone = finished.copy(tmp_path / "rewarded")
    study, model = clone.folder / "results" / "smoke", tmp_path / "a reward's folder"
    python = str(clone.folder / ".envs" / "train" / "bin" / "python")
    subprocess.run([python, "-c", REWARD_MODEL, str(study / "model" / "weights"), str(model)], check=True)
    for file in (study / "model" / "weights").glob("*token*"):
        shutil.copy(file, model)
    add(clone, {"rm": f'reward_model: {{path: "{model}"}}, contrasts: [C2, C3]'})
    assert clone.planned() == {"fetch_reward": 1, "score_answers": 5, "prefer": 4, **STATISTICS}
    done = clone.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    assert clone.planned() == {}
    said = by_contrast(clone, "preferences", metric="judge.rm")
    assert {float(row["order_agreement"]) for row in said.values()} == {1}
    assert by_contrast(clone, "contrasts", metric="judge.rm", group_kind="overall").keys() == {"C2", "C3"}
    page = (study / "report.html").read_text()
    assert "which scores each answer by itself, so position plays no part" in page
    assert str(tmp_path) not in page
    assert "results/smoke: OK; " in clone.snakemake("verify").stdout


def test_a_judge_that_is_not_there_stops_the_study_before_it_trains(clone):
    add(clone, {"small": "endpoint: 'http://127.0.0.1:9/v1', model: small, retries: 0"})
    assert clone.planned("results/smoke/tokens/sft.parquet")["meet_judge"] == 1
    done = clone.snakemake("results/smoke/judge/small.json", "--cores", "1", "--quiet", "rules")
    assert done.returncode != 0
    assert "http://127.0.0.1:9/v1 cannot be reached" in done.stdout
