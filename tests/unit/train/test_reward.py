"""A reward model as a judge: fetched, refused, and its scores, with a tiny random model."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

torch = pytest.importorskip("torch", reason="runs in the train environment")

import fetch_reward
import pyarrow as pa
import pyarrow.parquet as pq
import score_answers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from arms.job.files import UserError, read_json
from arms.judging.reward import RewardModel
from arms.model.tiny import write_random_model

TEXTS = [f"Answer number {i} is about rivers, boats and water." for i in range(20)]
JOB = {"code": "x", "lock": None}
SCORING = {"wildcards": {"reward": "rm", "run": "base"}, "settings": {"cpu_instructions": "native"}}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a tiny random reward model, whose pad token is the end of a turn."""
    folder = tmp_path_factory.mktemp("reward")
    size = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "kv_heads": 2, "vocab_size": 400}
    write_random_model({**size, "seed": 0, "family": "llama"}, TEXTS, folder)
    (folder / "model.safetensors").unlink()
    save(folder, LlamaForSequenceClassification, num_labels=1)
    return folder


def save(folder, kind, **more):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id, **more)
    kind(config).save_pretrained(folder, safe_serialization=True)


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "a reward's folder"))


def run(program, wildcards, settings, *flags):
    job = {**JOB, "rule": program.__name__, "wildcards": wildcards, "settings": settings}
    with mock.patch.object(sys, "argv", [program.__name__, "--job", json.dumps(job), *map(str, flags)]):
        program.main()


def fetch(model, folder):
    met, settings = folder / "rm.json", {"model": {"source": "path", "path": str(model)}, "precision": "fp32"}
    flags = ["--weights", folder / "rm.weights", "--met", met, "--manifest", folder / "m.json"]
    run(fetch_reward, {"reward": "rm"}, settings, *flags)
    return read_json(met)


def test_a_reward_model_is_linked_and_described(copy, tmp_path):
    met = fetch(copy, tmp_path)
    assert (met["model"], met["prompt_sha256"], met["parameters"]) == ("a reward's folder", None, {"precision": "fp32"})
    assert (tmp_path / "rm.weights" / "model.safetensors").is_symlink()
    assert str(tmp_path) not in json.dumps(met)
    assert fetch(copy, tmp_path) == met


def no_reward_model(copy, tmp_path):
    with pytest.raises(UserError) as error:
        fetch(copy, tmp_path)
    assert str(error.value).startswith("evaluation.judges.rm.reward_model: ")
    assert not (tmp_path / "rm.weights").exists()
    return str(error.value)


def test_a_language_model_is_no_reward_model(copy, tmp_path):
    save(copy, LlamaForCausalLM, num_labels=1)
    assert "its weights lack score.weight, without which every score is random" in no_reward_model(copy, tmp_path)


def test_a_classifier_of_several_classes_is_refused(copy, tmp_path):
    save(copy, LlamaForSequenceClassification, num_labels=3)
    assert "it has 3 outputs, and a reward model has one" in no_reward_model(copy, tmp_path)


def test_code_that_comes_with_a_model_is_never_run(copy, tmp_path):
    mark = tmp_path / "it ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n")
    config = read_json(copy / "config.json")
    auto = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Config"}
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "strange", "auto_map": auto}))
    assert "without code of its own" in no_reward_model(copy, tmp_path)
    assert not mark.exists()


def test_pickles_are_never_opened(copy, tmp_path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "no safetensors" in no_reward_model(copy, tmp_path)


def answered(folder, rows):
    """The flags of score_answers for a reward model in `folder` that four prompts' answers are shown to."""
    prompts = [{"id": f"p{i}", "prompt": f"Question {i}?", "category": "one"} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(prompts), folder / "prompts.parquet")
    answer = {"n_tokens": 3, "status": "ok"}
    texts = [{**answer, "prompt_id": f"p{i}", "text": TEXTS[i], "sample_idx": j // 4} for j, i in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(texts), folder / "g.parquet")
    names = {"met": "rm.json", "prompts": "prompts.parquet", "generations": "g.parquet", "rewards": "r.parquet"}
    flags = [part for flag, name in names.items() for part in (f"--{flag}", folder / name)]
    return [*flags, "--manifest", folder / "m2.json", "--checkpoint-minutes", "0"]


def score(flags):
    """The program score_answers."""
    run(score_answers, *SCORING.values(), *flags)


def test_answers_are_scored_as_transformers_does_it(copy, tmp_path):
    fetch(copy, tmp_path)
    score(answered(tmp_path, (2, 0, 3, 1)))
    found = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["prompt_id"] for row in found] == ["p0", "p1", "p2", "p3"]
    tokenizer, model = AutoTokenizer.from_pretrained(copy), LlamaForSequenceClassification.from_pretrained(copy).eval()
    for i, row in enumerate(found):
        turns = [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": TEXTS[i]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        assert tokenizer.eos_token_id in ids[0, :-2], "the end of the first turn, which is the pad token, too"
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, -1]  # of the last token, whatever stands before it
            assert abs(float(model.score(hidden)) - row["reward"]) < 1e-6
    assert len({row["reward"] for row in found}) == 4


def test_a_killed_scoring_goes_on(copy, tmp_path, capsys):
    fetch(copy, tmp_path)
    flags = answered(tmp_path, [i % 4 for i in range(200)])
    job = json.dumps({**JOB, "rule": "score_answers", **SCORING})
    program = subprocess.Popen([sys.executable, score_answers.__file__, "--job", job, *map(str, flags)])
    while not any(int(path.name[5:]) > 3 for path in tmp_path.glob("r.progress/step-*")):
        assert program.poll() is None
        time.sleep(0.002)
    program.kill()
    program.wait()
    assert not (tmp_path / "r.parquet").exists()
    score(flags)
    assert "going on from " in capsys.readouterr().out
    score([tmp_path / "whole.parquet" if flag == tmp_path / "r.parquet" else flag for flag in flags])
    assert "going on from " not in capsys.readouterr().out
    assert (tmp_path / "r.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_text_that_is_too_long_is_told(copy, tmp_path):
    fetch(copy, tmp_path)
    model = RewardModel(tmp_path / "rm.weights", "fp32")
    model.longest = 20
    with pytest.raises(UserError, match="tokens, and the reward model takes 20"):
        model.score("q " * 30, "a")


def test_a_model_without_a_chat_template_reads_a_pair_of_texts(copy, tmp_path):
    settings = read_json(copy / "tokenizer_config.json")
    settings.pop("chat_template")
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    fetch(copy, tmp_path)
    model = RewardModel(tmp_path / "rm.weights", "fp32")
    ids = model.encoded("One.", "Two.")["input_ids"][0].tolist()
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == "One.Two."
