"""The memory plan: against the peak of the programs themselves, against arithmetic, and what it refuses.

.envs/train/bin/python tests/run.py tests/unit/train/test_memory.py -s    # shows the table of predictions
"""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas
import programs
import pytest
from conftest import LORA, RECIPE, ROOT

sys.path.insert(0, str(ROOT / "tests"))
from standin_model import MODELS, layers, write_card, write_small_files, write_standin
from watched import watched

from arms.data.requests import TOKENS, write_rows
from arms.stacks import stack
from study.instructions import INSTRUCTIONS

# Without these glibc keeps what was freed, and the peak depends on its luck: RSS was up to twice what tensors need.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
}
SIZES = {
    "48M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 49152},
    "82M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 40960},
    # For bf16: without AVX-512 PyTorch 2.3 takes a hundred times as long for a bf16 product on a CPU, so few of them.
    "2M": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 12, "vocab_size": 16384},
}
# model, stage, precision, max_length, rows in a pass, passes in a step, gradient checkpointing. DPO needs a reference
# table, so that each of its cases also measures score_pairs.
CASES = [
    ("48M", "sft", "fp32", 256, 2, 2, True),
    ("48M", "generate", "fp32", 128, 8, 1, False),
    ("48M", "choose", "fp32", 128, 8, 1, False),
    ("82M", "dpo", "fp32", 64, 2, 1, False),
    ("2M", "dpo", "bf16", 128, 4, 1, True),
]
if stack.QUANTIZES_ON_CPU:
    CASES.append(("2M", "dpo", "int8", 128, 4, 1, True))
MORE_CASES = [
    ("48M", "sft", "fp32", 128, 4, 1, False),
    ("48M", "dpo", "fp32", 64, 4, 1, False),
    ("48M", "dpo", "fp32", 128, 2, 2, True),
    ("82M", "sft", "fp32", 128, 2, 1, False),
    ("82M", "dpo", "fp32", 128, 1, 2, True),
    ("2M", "sft", "bf16", 256, 4, 1, False),
    ("2M", "dpo", "bf16", 64, 8, 1, False),
]
if stack.QUANTIZES_ON_CPU:
    MORE_CASES += [("2M", "sft", "nf4", 128, 4, 1, False), ("2M", "generate", "nf4", 128, 8, 1, False)]
NEW_TOKENS = 8
WIDE = {**LORA, "rank": 32}  # an adapter whose gradients and moments show


def make_model(folder: Path, size: str) -> None:
    """A Llama with random weights and a small tokenizer, described as fetch_model does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**LLAMA, **SIZES[size], "num_attention_heads": 8, "num_key_value_heads": 4}
    write_small_files(folder / "weights", config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "weights"))
    model.save_pretrained(folder / "weights", safe_serialization=True)
    write_card(folder / "weights", folder / "model.json", hash_weights=True)


def command(rule: str, settings: dict, flags: tuple, wildcards: dict[str, str]) -> list[str]:
    """A program with its flags; its manifest is m.json."""
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings, "code": ""})
    program = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json"]
    return [*program, *map(str, flags)]


def run(folder: Path, rule: str, settings: dict, *flags: object, **wildcards: str) -> subprocess.CompletedProcess:
    """Run a program in `folder`."""
    return programs.run(command(rule, settings, flags, wildcards)[1:], folder)


def peak(folder: Path, rule: str, settings: dict, *flags: object, **wildcards: str) -> int:
    """Peak resident bytes of a program."""
    environment = {**os.environ, **MALLOC, **INSTRUCTIONS[settings["cpu_instructions"]]}
    done, most = watched(command(rule, settings, flags, wildcards), "VmHWM", cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return most


def measured(folder: Path, size, stage, precision, length, rows, passes, checkpointing) -> dict[str, int]:
    """Peak resident bytes, by stage, of the programs on the worst rows of `length`: one step or two."""
    folder.mkdir()
    prompt = [290] * (length if stage == "generate" else 1)
    row = {"category": "a", "prompt_ids": prompt, "completion_ids": [291] * (length - 1)}
    row |= {"chosen_ids": [292] * (length - 1), "rejected_ids": [293] * (length - 1)}
    count = rows * passes * (2 if passes > 1 or stage == "dpo" else 1)  # DPO refuses a margin that has not moved
    rows_written = [{"id": f"r{number}", **row, "prompt_ids": [280 - number, *prompt[1:]]} for number in range(count)]
    pandas.DataFrame(rows_written).to_parquet(folder / "rows.parquet")  # without a beginning that is read only once
    files = ["--model", f"../{size}/model.json", "--tokens", "rows.parquet"]
    if stage == "choose":
        write_requests(folder / "rows.parquet", [("choice", length - NEW_TOKENS)] * rows)
    shared = {"cpu_instructions": "avx2", "precision": precision}  # with the buffers of AVX2 on any processor
    if stage == "generate":
        generation = {"max_new_tokens": NEW_TOKENS, "batch_size": rows, "samples": 1, "temperature": 0.0, "seed": 0}
        return {stage: peak(folder, stage, {**shared, "generation": generation}, *files, "--generations", "a.parquet")}
    if stage == "choose":
        settings = {**shared, "scoring": {"batch_size": rows}, "generation": {"batch_size": rows}}
        return {stage: peak(folder, "answer_task", settings, *files, "--answers", "a.parquet")}
    found = {}
    if stage == "dpo":
        scoring = {**shared, "batch_size": rows}
        found["score_pairs"] = peak(folder, "score_pairs", scoring, *files, "--table", "table.parquet")
        files += ["--reference", "table.parquet"]
    recipe = {**RECIPE, "batch_size": rows * passes, "micro_batch_size": rows, "gradient_checkpointing": checkpointing}
    loss = {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0} if stage == "dpo" else {}
    settings = {**shared, "max_length": length, "lora": WIDE, stage: {**recipe, **loss}}
    outputs = {"adapter": "arm.json", "weights": "adapter_model.safetensors", "config": "adapter_config.json"}
    outputs |= {"curves": "c.parquet", "speed": "s.parquet", "observed": "o.json"}
    files += [text for name, file in outputs.items() for text in (f"--{name}", file)]
    wildcards = {"arm": "dpo_only", "seed": "1"}
    found[stage] = peak(folder, f"train_{stage}", settings, *files, "--checkpoints", "checkpoints", **wildcards)
    return found


def write_requests(path: Path, asked: list[tuple[str, int]]) -> None:
    """Token ids of a task: (kind, length of the prompt), where a choice or an answer has NEW_TOKENS tokens more."""
    rows = []
    for number, (kind, length) in enumerate(asked):
        row = dict.fromkeys(TOKENS) | {"id": f"r{number}", "prompt_ids": [260 + number, *[290] * (length - 1)]}
        own = {"answer_ids": [291] * NEW_TOKENS} if kind == "choice" else {"until": [], "max_new_tokens": NEW_TOKENS}
        rows.append(row | own)
    write_rows(path, rows, TOKENS)


@pytest.mark.parametrize(
    "cases", [CASES, pytest.param(MORE_CASES, marks=pytest.mark.test_all("more shapes of the same stages"))]
)
def test_the_plan_is_what_the_programs_need(tmp_path, cases):
    """Within 15 % of the peak of real training, scoring and generation."""
    from transformers import AutoConfig, AutoTokenizer

    from arms.memory.predict import Ask, predict

    for size in SIZES:
        make_model(tmp_path / size, size)
    settings = {"precision": "fp32", "max_length": 8, "lora": LORA, "start": "adapter", "device": "cpu"}
    settings |= {"gpu_memory_gb": None, "stages": {"score_pairs": {"batch_size": 1}}}
    planning = command("plan_memory", settings, ("--model", "48M/model.json", "--plan", "plan.json"), {})
    done = subprocess.run(planning, cwd=tmp_path, capture_output=True, text=True)  # which measures its own imports
    assert done.returncode == 0, done.stdout + done.stderr
    fixed = json.loads((tmp_path / "plan.json").read_text())["stages"]["score_pairs"]["parts"]["fixed"]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(measured, tmp_path / f"case{number}", *case) for number, case in enumerate(cases)]
        peaks = [future.result() for future in running]
    lines, off = [], []
    for (size, _, precision, length, rows, passes, checkpointing), found in zip(cases, peaks, strict=True):
        config = AutoConfig.from_pretrained(tmp_path / size / "weights")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / size / "weights")
        for stage, real in found.items():
            ask = Ask(
                **{"stage": stage, "precision": precision, "lora": WIDE, "start": "adapter", "device": "cpu"},
                **{"max_length": length, "rows": rows, "accumulates": passes > 1, "new_tokens": NEW_TOKENS},
                gradient_checkpointing=checkpointing,
            )
            parts = predict(config, ask, tokenizer)
            if stage in ("score_pairs", "generate", "choose"):  # these ran without an adapter
                parts["adapter"] = 0
            planned = fixed + sum(parts.values())
            error, tensors = planned / real - 1, (planned - fixed) / (real - fixed) - 1
            name = f"{size} {stage} {precision} {length} tokens, {rows} rows x {passes}"
            name += ", checkpointing" if checkpointing and stage == "dpo" else ""
            shown = f"{name:60} plan {planned / 1e9:5.2f}  peak {real / 1e9:5.2f}  {error:+6.1%}"
            shown += f"  without fixed {tensors:+6.1%}"
            lines.append(shown)
            off += [shown] if abs(error) > 0.15 else []
    print("", *lines, f"fixed {fixed / 1e9:.2f}", sep="\n")
    assert not off, "\n".join(lines)


WIDE_HEAD = {**LLAMA, **SIZES["48M"], "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4}
DEEP = {**WIDE_HEAD, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 4, "vocab_size": 1024}
ONE_ROW = {"batch_size": 1, "micro_batch_size": 1, "gradient_checkpointing": False, "least_micro_batch_size": 1}
SFT_AND_DPO = {"sft": {**ONE_ROW, "batch_size": 8, "micro_batch_size": 4}, "dpo": {**ONE_ROW, "batch_size": 4}}
# What is asked for, on a card of how many GB, and what the program says to it.
CURES = {
    "micro-batches": (
        (WIDE_HEAD, 512, "bf16", {**SFT_AND_DPO, "score_pairs": {"batch_size": 64}}, 1.7),
        "sft needs 2.0 GB, score_pairs needs 2.2 GB; gpu_memory_gb is 1.7. The cheapest change that fits: "
        "sft.micro_batch_size: 2 (now 4); scoring.batch_size: 32 (now 64). Predicted with it: sft needs 1.6 GB, "
        "score_pairs needs 1.4 GB",
    ),
    "checkpointing": (
        (DEEP, 1024, "bf16", {"sft": ONE_ROW}, 1.7),
        "sft needs 1.8 GB; gpu_memory_gb is 1.7. The cheapest change that fits: sft.gradient_checkpointing: true. "
        "Predicted with it: sft needs 1.4 GB",
    ),
    "precision": (
        (DEEP, 64, "bf16", {"score_pairs": {"batch_size": 1}}, 1.1),
        "score_pairs needs 1.2 GB; gpu_memory_gb is 1.1. The cheapest change that fits: model.precision: int8 "
        "(now bf16). Predicted with it: score_pairs needs 0.9 GB",
    ),
    "shorter rows": (
        (WIDE_HEAD, 512, "nf4", {"score_pairs": {"batch_size": 1}}, 0.9),
        "score_pairs needs 1.1 GB; gpu_memory_gb is 0.9. The cheapest change that fits: tokens.max_length: 256 "
        "(now 512). Predicted with it: score_pairs needs 0.9 GB",
    ),
    "nothing": (
        (DEEP, 64, "bf16", {"score_pairs": {"batch_size": 1}}, 0.61),
        "score_pairs needs 1.2 GB; gpu_memory_gb is 0.61. Nothing cures it: even nf4, one row in a pass, gradient "
        "checkpointing and rows of 64 tokens need 0.8 GB (score_pairs); take a larger card or a smaller model",
    ),
}


def test_logits_take_no_more_of_a_larger_vocabulary_or_of_more_rows():
    from transformers import LlamaConfig

    from arms.memory.predict import Ask, predict
    from arms.scoring.logps import LOGITS

    small = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    shared = {"precision": "bf16", "lora": LORA, "start": "adapter", "device": "cpu", "max_length": 1024}
    shared |= {"accumulates": False, "new_tokens": 0, "gradient_checkpointing": False}
    tokenizer = SimpleNamespace(pad_token_id=0)
    for stage, at_once in (("dpo", 4), ("score_pairs", 2)):  # float32: logits, exponentials, and their gradients
        for vocabulary, rows in ((152_000, 4), (152_000, 16), (32_000, 16)):
            config = LlamaConfig(**small, vocab_size=vocabulary)
            parts = predict(config, Ask(stage=stage, rows=rows, **shared), tokenizer)
            assert 0.95 < parts["logits"] / (at_once * 4 * LOGITS) < 1.05


@pytest.mark.parametrize("cure", CURES)
def test_a_card_that_is_too_small_gets_the_cheapest_cure(tmp_path, cure):
    (model, length, precision, stages, limit), message = CURES[cure]
    write_standin(tmp_path / "weights", model)
    write_card(tmp_path / "weights", tmp_path / "model.json")
    settings = {"precision": precision, "max_length": length, "lora": LORA, "start": "adapter", "device": "cuda"}
    settings |= {"gpu_memory_gb": limit, "stages": stages}
    done = run(tmp_path, "plan_memory", settings, "--model", "model.json", "--plan", "plan.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr[done.stderr.index("error: ") :] == f"error: {message}\n"
    assert "TOO LARGE" in done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "plan.json").exists()


def test_a_tasks_rows_are_planned_too(tmp_path):
    """They are as long as they are, whatever tokens.max_length says, and share the sizes of held-out rows."""
    write_standin(tmp_path / "weights", WIDE_HEAD)
    write_card(tmp_path / "weights", tmp_path / "model.json")
    write_requests(tmp_path / "mine.tokens.parquet", [("choice", 100), ("choice", 1000), ("text", 30), ("text", 9000)])
    settings = {"precision": "bf16", "max_length": 64, "lora": LORA, "start": "adapter", "device": "cuda"}
    settings |= {"stages": {"score_pairs": {"batch_size": 64}, "generate": {"batch_size": 64, "max_new_tokens": 8}}}

    def said(limit: float) -> subprocess.CompletedProcess:
        flags = ["--model", "model.json", "--tasks", "mine.tokens.parquet", "--plan", "plan.json"]
        return run(tmp_path, "plan_memory", {**settings, "gpu_memory_gb": limit}, *flags)

    done = said(80)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads((tmp_path / "plan.json").read_text())["stages"]
    shapes = {label: (stage["rows"], stage["tokens"]) for label, stage in stages.items() if label.startswith("mine")}
    assert shapes == {"mine answers": (64, 9000 + NEW_TOKENS), "mine choices": (64, 1000 + NEW_TOKENS)}
    assert said(1.5).stderr.endswith(
        "error: mine answers needs 29.4 GB, mine choices needs 2.1 GB; gpu_memory_gb is 1.5. The cheapest change that "
        "fits: generation.batch_size: 1 (now 64); scoring.batch_size: 32 (now 64). Predicted with it: mine answers "
        "needs 1.1 GB, mine choices needs 1.4 GB\n"
    )
    nothing = "(mine answers); take fewer few-shot examples, a larger card or a smaller model\n"
    assert said(0.65).stderr.endswith(nothing)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_the_weights_of_qwen_by_arithmetic(tmp_path, model, precision):
    """Linear layers in 2, 1 or 9/16 bytes a weight (with their scales); all else in bfloat16, LoRA in fp32."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig

    from arms.memory.fake import storages
    from arms.memory.predict import Ask, fake_policy

    write_small_files(tmp_path, MODELS[model])
    config = AutoConfig.from_pretrained(tmp_path)
    ask = {"stage": "sft", "precision": precision, "lora": {**LORA, "rank": 16}, "start": "adapter", "device": "cuda"}
    with FakeTensorMode():
        policy = fake_policy(config, Ask(**ask, max_length=8, rows=1, gradient_checkpointing=True))
        lora = storages(tensor for name, tensor in policy.named_parameters() if "lora_" in name)
        found = storages([*policy.parameters(), *policy.buffers()]) - lora
    shapes = [shape for part in layers(MODELS[model]) for shape in part.items()]
    linear = [shape for name, shape in shapes if ".layers." in name and len(shape) == 2]
    weights, rows = sum(math.prod(shape) for shape in linear), sum(shape[0] for shape in linear)
    others = sum(math.prod(shape) for _, shape in shapes) - weights
    assert (round(weights / 1e9, 2), round(others / 1e9, 3)) == {"32b": (31.21, 1.558), "7b": (6.53, 1.09)}[model[8:]]
    assert lora == 4 * 16 * sum(map(sum, linear))
    stored = {"bf16": 2 * weights, "int8": weights + 4 * rows, "nf4": weights // 2 + weights // 16}[precision]
    # Qwen2 of transformers 4.43 keeps a table of cosines and sines for all positions in each layer: 4.3 GB in the 32B
    head = config.hidden_size // config.num_attention_heads
    rotary = config.num_hidden_layers * (2 * 2 * config.max_position_embeddings * head + 4 * head // 2)
    assert found == stored + 2 * others + rotary
