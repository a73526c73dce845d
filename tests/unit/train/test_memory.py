"""The memory plan: against the peak of the programs themselves, against arithmetic, and what it refuses.

    .envs/train/bin/python tests/run.py tests/unit/train/test_memory.py -s    # shows the table of predictions
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest
from conftest import LORA, RECIPE, ROOT, TORCH

sys.path.insert(0, str(ROOT / "tests"))
from standin_model import MODELS, write_card, write_small_files, write_standin

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
    "134M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 64000},
    # For bf16: without AVX-512 PyTorch 2.3 takes a hundred times as long for a bf16 product on a CPU, so few of them.
    "2M": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 12, "vocab_size": 16384},
}
# model, stage, precision, max_length, rows in a pass, passes in a step, gradient checkpointing. DPO needs a reference
# table, so that each of its cases also measures score_pairs.
CASES = [
    ("48M", "sft", "fp32", 128, 4, 1, False),
    ("48M", "sft", "fp32", 256, 2, 2, True),
    ("48M", "dpo", "fp32", 64, 4, 1, False),
    ("48M", "dpo", "fp32", 128, 2, 2, True),
    ("48M", "generate", "fp32", 128, 8, 1, False),
    ("134M", "sft", "fp32", 128, 2, 1, False),
    ("134M", "dpo", "fp32", 64, 2, 1, False),
    ("134M", "dpo", "fp32", 128, 1, 2, True),
    ("2M", "sft", "bf16", 256, 4, 1, False),
    ("2M", "dpo", "bf16", 64, 8, 1, False),
    ("2M", "dpo", "bf16", 128, 4, 1, True),
]
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


def run(folder: Path, rule: str, settings: dict, *flags: object, **wildcards: str) -> subprocess.CompletedProcess:
    """Run a program in `folder`; its manifest is m.json there."""
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings, "code": ""})
    command = [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--manifest", "m.json"]
    environment = {**os.environ, **MALLOC}
    return subprocess.run([*command, *map(str, flags)], cwd=folder, env=environment, capture_output=True, text=True)


def peak(folder: Path, *arguments: object, **wildcards: str) -> int:
    """Peak resident bytes of a program."""
    done = run(folder, *arguments, **wildcards)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "m.json").read_text())["peak_rss_mib"] * 2**20


def measured(folder: Path, size, stage, precision, length, rows, passes, checkpointing) -> dict[str, int]:
    """Peak resident bytes, by stage, of the programs on the worst rows of `length`: one step, or two where moments matter."""
    folder.mkdir()
    prompt = [290] * (length if stage == "generate" else 1)
    row = {"category": "a", "prompt_ids": prompt, "completion_ids": [291] * (length - 1)}
    row |= {"chosen_ids": [292] * (length - 1), "rejected_ids": [293] * (length - 1)}
    count = rows * passes * (2 if passes > 1 or stage == "dpo" else 1)  # DPO refuses a margin that has not moved
    pandas.DataFrame([{"id": f"r{number}", **row} for number in range(count)]).to_parquet(folder / "rows.parquet")
    files = ["--model", f"../{size}/model.json", "--tokens", "rows.parquet"]
    shared = {**TORCH, "precision": precision}
    if stage == "generate":
        generation = {"max_new_tokens": NEW_TOKENS, "batch_size": rows, "samples": 1, "temperature": 0.0, "seed": 0}
        return {stage: peak(folder, stage, {**shared, "generation": generation}, *files, "--output", "a.parquet")}
    found = {}
    if stage == "dpo":
        scoring = {**shared, "batch_size": rows}
        found["score_pairs"] = peak(folder, "score_pairs", scoring, *files, "--output", "table.parquet")
        files += ["--reference", "table.parquet"]
    recipe = {**RECIPE, "batch_size": rows * passes, "micro_batch_size": rows, "gradient_checkpointing": checkpointing}
    loss = {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0} if stage == "dpo" else {}
    settings = {**shared, "max_length": length, "lora": WIDE, stage: {**recipe, **loss}}
    outputs = {"adapter": "arm.json", "curves": "c.parquet", "speed": "s.parquet", "observed": "o.json"}
    files += [text for name, file in outputs.items() for text in (f"--{name}", file)]
    wildcards = {"arm": "dpo_only", "seed": "1"}
    found[stage] = peak(folder, f"train_{stage}", settings, *files, "--checkpoints", "checkpoints", **wildcards)
    return found


def test_the_plan_is_what_the_programs_need(tmp_path):
    """Within 15 % of the peak of real training, scoring and generation."""
    from transformers import AutoConfig, AutoTokenizer

    from arms.memory import predict

    for size in SIZES:
        make_model(tmp_path / size, size)
    settings = {"precision": "fp32", "max_length": 8, "lora": LORA, "start": "adapter", "device": "cpu"}
    settings |= {"gpu_memory_gb": None, "stages": {"score_pairs": {"batch_size": 1}}}
    done = run(tmp_path, "plan_memory", settings, "--model", "48M/model.json", "--output", "plan.json")
    assert done.returncode == 0, done.stdout + done.stderr
    fixed = json.loads((tmp_path / "plan.json").read_text())["stages"]["score_pairs"]["parts"]["fixed"]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(measured, tmp_path / f"case{number}", *case) for number, case in enumerate(CASES)]
        peaks = [future.result() for future in running]
    lines, off = [], []
    for (size, _, precision, length, rows, passes, checkpointing), found in zip(CASES, peaks, strict=True):
        config = AutoConfig.from_pretrained(tmp_path / size / "weights")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / size / "weights")
        for stage, real in found.items():
            ask = {"stage": stage, "precision": precision, "max_length": length, "start": "adapter", "device": "cpu"}
            ask |= {"lora": WIDE, "rows": rows, "accumulates": passes > 1, "gradient_checkpointing": checkpointing}
            parts = predict(config, {**ask, "new_tokens": NEW_TOKENS}, tokenizer)
            if stage in ("score_pairs", "generate"):  # these ran without an adapter
                parts["adapter"] = 0
            planned = fixed + sum(parts.values())
            error, tensors = planned / real - 1, (planned - fixed) / (real - fixed) - 1
            name = f"{size} {stage} {precision} {length} tokens, {rows} rows x {passes}"
            name += ", checkpointing" if checkpointing and stage == "dpo" else ""
            shown = f"{name:60} plan {planned / 1e9:5.2f}  peak {real / 1e9:5.2f}  {error:+6.1%}  tensors {tensors:+6.1%}"
            lines.append(shown)
            off += [shown] if abs(error) > 0.15 else []
    print("", *lines, f"fixed {fixed / 1e9:.2f}", sep="\n")
    assert not off, "\n".join(lines)
