"""Write docs/models.md: train, score and ask a tiny random model of each family, through the programs of the workflow.

    .envs/train/bin/python benchmarks/families.py            # all; ten minutes on one core, no GPU, no network
    .envs/train/bin/python benchmarks/families.py Mistral    # only the rows whose name has that in it

Each model has two layers of 32 numbers and weights drawn at random. Its files go to fetch_model; what passes is
tokenised, fine-tuned, scored, trained by DPO from there, scored again and asked. Every program that loads a model
compares its own forward pass with the model's (arms/scoring/agreement.py), so that a row which ran was right, too.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests" / "unit" / "train")]
PAGE = ROOT / "docs" / "models.md"
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
POSITIONS = {"max_position_embeddings": 256}
LLAMA = {**COMMON, **POSITIONS, "intermediate_size": 64, "num_key_value_heads": 2}
DENSE = {**COMMON, **POSITIONS, "intermediate_size": 64}
GPT = {**COMMON, "n_positions": 256}
WINDOW = 16  # tokens; the rows are longer
UNKNOWN = {"num_hidden_layers": 2}
# Name -> (model_type, what its config.json has)
FAMILIES: dict[str, tuple[str, dict]] = {
    "Llama 1-3": ("llama", LLAMA),
    "Llama 3.1, scaled rope": ("llama", {**LLAMA, "rope_scaling": {"type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}}),
    "Llama, linear rope": ("llama", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "Llama, dynamic rope": ("llama", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "Llama, dynamic rope, longer rows": ("llama", {**LLAMA, "max_position_embeddings": 64,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "Llama, YaRN": ("llama", {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 2.0}}),
    "Mistral": ("mistral", {**LLAMA, "sliding_window": None}),
    "Mistral, rows longer than its window": ("mistral", {**LLAMA, "sliding_window": WINDOW}),
    "Mixtral": ("mixtral", {**LLAMA, "num_local_experts": 4}),
    "Qwen 1.5, 2, 2.5": ("qwen2", LLAMA),
    "Qwen 2, rows longer than its window": ("qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW}),
    "Qwen 2, YaRN": ("qwen2", {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "Qwen 1.5 MoE": ("qwen2_moe", {**LLAMA, "num_experts": 4, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32}),
    "Qwen 3": ("qwen3", UNKNOWN),
    "Gemma 1": ("gemma", {**LLAMA, "head_dim": 8}),
    "Gemma 2": ("gemma2", {**LLAMA, "head_dim": 8}),
    "Gemma 3": ("gemma3_text", UNKNOWN),
    "Phi 1, 1.5, 2": ("phi", LLAMA),
    "Phi 3, Phi 4": ("phi3", LLAMA),
    "Phi 3, rows longer than its window": ("phi3", {**LLAMA, "sliding_window": WINDOW}),
    "SmolLM 1, 2": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "SmolLM 3": ("smollm3", UNKNOWN),
    "OLMo 1": ("olmo", LLAMA),
    "OLMo 2": ("olmo2", UNKNOWN),
    "StableLM 2": ("stablelm", LLAMA),
    "StarCoder 1": ("gpt_bigcode", GPT),
    "StarCoder 2": ("starcoder2", LLAMA),
    "Cohere Command R": ("cohere", {**LLAMA, "logit_scale": 0.3}),
    "Granite": ("granite", UNKNOWN),
    "DBRX": ("dbrx", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "pad_token_id": 0,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}}),
    "Falcon": ("falcon", COMMON),
    "Falcon, ALiBi": ("falcon", {**COMMON, "alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "GPT-2": ("gpt2", GPT),
    "GPT-Neo": ("gpt_neo", {**DENSE, "num_layers": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW}),
    "GPT-J": ("gptj", {**GPT, "rotary_dim": 4}),
    "CodeGen": ("codegen", {**GPT, "rotary_dim": 4}),
    "GPT-NeoX, Pythia": ("gpt_neox", DENSE),
    "OPT": ("opt", {**COMMON, **POSITIONS, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "Bloom": ("bloom", COMMON),
    "MPT": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "XGLM": ("xglm", {**POSITIONS, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}),
    "BioGPT": ("biogpt", DENSE),
    "Persimmon": ("persimmon", LLAMA),
    "Mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "RWKV": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2}),
    "RecurrentGemma": ("recurrent_gemma", {**COMMON, "num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32}),
    "Jamba": ("jamba", {**LLAMA, "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "JetMoE": ("jetmoe", {**COMMON, "num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": 4,
        "kv_channels": 8, "intermediate_size": 64}),
}  # fmt: skip
HEAD = """# Families of models

What this workflow can do with each family of models, on the pinned packages (transformers 4.43.4, July 2024). Written
by `benchmarks/families.py`, which trains, scores and asks a tiny random model of each through the workflow's own
programs. The size of a model plays no part here: what is tried is the code of its family.

*Pairs in one row*: what the two answers to a prompt have in common is computed once; the results are the same.
*Refused* is what `fetch_model` says, before anything else runs. Each job that loads a model compares its
log-probabilities with those of the model's own forward pass, and stops if they differ.

| family | model_type | pairs in one row | |
|---|---|---|---|
"""
TORCH = {"precision": "fp32", "cpu_instructions": "native"}
RECIPE = {"epochs": 1, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, "scheduler": "constant",
    "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "gradient_checkpointing": False}  # fmt: skip
DPO = {**RECIPE, "beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}
MAX_LENGTH = 100
TOKENS = {"template": "chat", "system_prompt": None, "max_length": MAX_LENGTH, "on_overlong": "error", "rows": None}
TOKENS |= {"eos_after_truncation": True}
TRAINING = {**TORCH, "max_length": MAX_LENGTH, "start": "adapter"}
TRAINING |= {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}}
ANSWERS = {"max_new_tokens": 8, "batch_size": 4, "samples": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0}


class Stopped(Exception):
    """A program stopped with this message."""


def main() -> None:
    """Try the families, print their rows, and put them into the page."""
    wanted, rows = sys.argv[1:], rows_of_page()
    for name in FAMILIES:
        if not wanted or any(word in name for word in wanted):
            rows[name] = row_of(name)
            print(rows[name], flush=True)
    PAGE.write_text(HEAD + "".join(f"{rows[name]}\n" for name in FAMILIES if name in rows), encoding="utf-8")


def rows_of_page() -> dict[str, str]:
    """Name of a family -> its row in docs/models.md."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}


def row_of(name: str) -> str:
    """The table's row of a family, after trying it."""
    kind, changes = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            forks, said = ("yes" if run_study(Path(folder), kind, changes) else "no"), "runs"
        except Stopped as stopped:
            forks, said = "", f"refused: {stopped}"
    return f"| {name} | `{kind}` | {forks} | {said} |"


def run_study(folder: Path, kind: str, changes: dict) -> bool:
    """Everything that one seed of SFT→DPO needs, in `folder`; whether pairs shared rows. Raises Stopped."""
    write_data(folder / "data.jsonl")
    write_model(folder / "files", kind, changes, folder / "data.jsonl")
    use = {"max_length": MAX_LENGTH, "target_modules": "all-linear"}
    model = {"source": "path", "path": str(folder / "files")}
    run(folder, "fetch_model", {"model": model, "use": use}, weights="model/weights", card="model/model.json")
    given = {"model": "model/model.json"}
    for data in ("sft", "pairs", "prompts"):
        files = {"data": "data.jsonl", "kind": data, "tokens": f"{data}.parquet", "audit": f"{data}.json"}
        run(folder, "tokenize_data", TOKENS, **given, **files)
    run(folder, "train_sft", {**TRAINING, "sft": RECIPE}, **given, **training_files("sft"), tokens="sft.parquet")
    start = {**given, "tokens": "pairs.parquet"}
    run(folder, "score_pairs", {**TORCH, "batch_size": 4}, **start, adapter="sft/arm.json", table="reference.parquet")
    trained = {**training_files("dpo"), "start": "sft/arm.json", "reference": "reference.parquet"}
    run(folder, "train_dpo", {**TRAINING, "dpo": DPO}, **start, **trained)
    policy = {"adapter": "dpo/arm.json"}
    run(folder, "score_pairs", {**TORCH, "batch_size": 4}, **start, **policy, table="scores.parquet")
    answers = {**TORCH, "generation": ANSWERS}
    run(folder, "generate", answers, **given, **policy, tokens="prompts.parquet", generations="answers.parquet")
    from arms.stacks.pinned import FORKING

    return kind in FORKING


def training_files(name: str) -> dict[str, str]:
    """The flags of a training program that puts everything into one folder."""
    files = {"adapter": "arm.json", "weights": "adapter_model.safetensors", "config": "adapter_config.json"}
    files |= {"curves": "curves.parquet", "speed": "speed.parquet", "observed": "observed.json"}
    return {flag: f"{name}/{file}" for flag, file in {**files, "checkpoints": "checkpoints"}.items()}


def run(folder: Path, rule: str, settings: dict, **flags: str) -> None:
    """One program, as the workflow would call it. Raises Stopped with its message."""
    import programs

    wildcards = {"arm": "sft_dpo", "seed": "1", "run": "sft_dpo-seed1"}
    job = json.dumps({"rule": rule, "wildcards": wildcards, "settings": settings, "code": ""})
    command = [str(ROOT / "scripts" / f"{rule}.py"), "--job", job, "--lock", str(ROOT / "envs" / "train.yaml")]
    command += ["--manifest", "m.json", *(part for flag, value in flags.items() for part in (f"--{flag}", value))]
    done = programs.run(command, folder)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if errors:
        place = "" if rule == "fetch_model" else f"{rule}: "
        raise Stopped(place + errors[-1].removeprefix("error: ").partition("; docs/models.md")[0])
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def write_data(path: Path) -> None:
    """Rows that serve as SFT rows, pairs and prompts; with the template they have 50 to 90 tokens."""
    draw = random.Random(0)  # noqa: S311 (test data)
    words = ["river", "stone", "cloud", "apple", "quiet", "green", "table", "music", "winter", "light", "paper"]
    lines = []
    for number in range(16):
        some = draw.sample(words, 9)
        texts = {"prompt": f"Say {some[0]} and {some[1]}.", "completion": " ".join(some[2:7])}
        texts |= {"chosen": " ".join(some[2:7]), "rejected": " ".join([*some[2:5], *some[7:]])}
        graded = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        lines.append(json.dumps({"id": f"r{number}", "category": "a", **texts, **graded}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_model(folder: Path, kind: str, changes: dict, text: Path) -> None:
    """A tiny random model of one family, and a tokenizer; of an unknown family only config.json is its own."""
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    from arms.model.tiny import TOKENIZERS, strings, write_tokenizer

    folder.mkdir()
    vocabulary = len(write_tokenizer(TOKENIZERS["llama"], 400, strings(text), folder))
    known = kind in CONFIG_MAPPING
    config = AutoConfig.for_model(kind if known else "llama", vocab_size=vocabulary, **changes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, safe_serialization=True)
    if not known:
        (folder / "config.json").write_text(json.dumps({"model_type": kind, **changes}), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
