"""Write docs/models.md: train, score and ask a tiny random model of each family, through the programs of the workflow.

    .envs/train/bin/python benchmarks/families.py            # all, on the pinned stack: minutes on one core
    .envs/train-current/bin/python benchmarks/families.py    # the same on the current one, whose cells alone it writes
    .envs/train/bin/python benchmarks/families.py Mistral    # only the rows whose name has that in it

Each model has a few layers of 32 numbers and weights drawn at random. Its files go to fetch_model; what passes is
tokenised, fine-tuned, scored, trained by DPO from there, scored again and asked. Every program that loads a model
compares its own forward pass with the model's (arms/scoring/agreement.py), so that a row which ran was right, too.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests"), str(ROOT / "tests" / "unit" / "train")]

from arms.stacks import NAME, STACKS, stack

PAGE = ROOT / "docs" / "models.md"
COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
POSITIONS = {"max_position_embeddings": 256}
LLAMA = {**COMMON, **POSITIONS, "intermediate_size": 64, "num_key_value_heads": 2}
DENSE = {**COMMON, **POSITIONS, "intermediate_size": 64}
GPT = {**COMMON, "n_positions": 256}
WINDOW = 16  # tokens; the rows are longer
SCALE = 4  # of the weights: every token matters to those after it, or a wrong mask would not show
WINDOWED = {**LLAMA, "head_dim": 8, "sliding_window": WINDOW}
MOE = {**LLAMA, "head_dim": 8, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32}  # fmt: skip
DEEPSEEK = {**MOE, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1}  # fmt: skip
LOCAL = {"layer_types": ["sliding_attention", "full_attention"]}
LONGROPE = {"original_max_position_embeddings": 128, "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4}}  # fmt: skip
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
    "Qwen 2, rows longer than its window": ("qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW,
        "max_window_layers": 1}),
    "Qwen 2, YaRN": ("qwen2", {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "Qwen 1.5 MoE": ("qwen2_moe", {**LLAMA, "num_experts": 4, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32}),
    "Qwen 3": ("qwen3", {**LLAMA, "head_dim": 8}),
    "Qwen 3, YaRN": ("qwen3", {**LLAMA, "head_dim": 8, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "Qwen 3 MoE": ("qwen3_moe", MOE),
    "Qwen 3 Next": ("qwen3_next", {**MOE, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"]}),
    "Qwen 3.5": ("qwen3_5_text", {**LLAMA, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}),
    "Gemma 1": ("gemma", {**LLAMA, "head_dim": 8}),
    "Gemma 2": ("gemma2", {**LLAMA, "head_dim": 8}),
    "Gemma 2, strong caps, rows longer than its window": ("gemma2", {**WINDOWED, "final_logit_softcapping": 0.5,
        "attn_logit_softcapping": 0.5}),
    "Gemma 3": ("gemma3_text", {**WINDOWED, **LOCAL}),
    "Gemma 4": ("gemma4_text", {**WINDOWED, **LOCAL, "global_head_dim": 8, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 400}),
    "VaultGemma": ("vaultgemma", WINDOWED),
    "Phi 1, 1.5, 2": ("phi", LLAMA),
    "Phi 3, Phi 4": ("phi3", LLAMA),
    "Phi 3, rows longer than its window": ("phi3", {**LLAMA, "sliding_window": WINDOW}),
    "Phi 3, Phi 4 mini, longrope": ("phi3", {**LLAMA, **LONGROPE}),
    "Phi 3.5 MoE": ("phimoe", MOE),
    "SmolLM 1, 2": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "SmolLM 3": ("smollm3", {**LLAMA, "no_rope_layers": [1, 0]}),
    "OLMo 1": ("olmo", LLAMA),
    "OLMo 2": ("olmo2", LLAMA),
    "OLMo 3": ("olmo3", {**LLAMA, "sliding_window": WINDOW, **LOCAL}),
    "OLMoE": ("olmoe", MOE),
    "FlexOLMo": ("flex_olmo", MOE),
    "StableLM 2": ("stablelm", LLAMA),
    "StarCoder 1": ("gpt_bigcode", GPT),
    "StarCoder 2": ("starcoder2", LLAMA),
    "Cohere Command R": ("cohere", {**LLAMA, "logit_scale": 0.3}),
    "Cohere Command R7B, A": ("cohere2", {**LLAMA, "sliding_window": WINDOW, **LOCAL, "logit_scale": 0.3}),
    "Granite 3, 4": ("granite", {**LLAMA, "logits_scaling": 4.0}),
    "Granite MoE": ("granitemoe", {**MOE, "logits_scaling": 4.0}),
    "Ministral": ("ministral", {**WINDOWED, "layer_types": ["sliding_attention", "full_attention"]}),
    "Ministral 3": ("ministral3", {**LLAMA, "head_dim": 8}),
    "GPT-OSS": ("gpt_oss", {**MOE, "sliding_window": WINDOW, **LOCAL}),
    "GLM 4, 9B": ("glm", {**LLAMA, "head_dim": 8}),
    "GLM 4, 0414": ("glm4", {**LLAMA, "head_dim": 8}),
    "GLM 4.5": ("glm4_moe", {**MOE, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "ERNIE 4.5": ("ernie4_5", {**LLAMA, "head_dim": 8}),
    "ERNIE 4.5 MoE": ("ernie4_5_moe", {**LLAMA, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32,
        "moe_layer_start_index": 1}),
    "EXAONE 4": ("exaone4", {**WINDOWED, **LOCAL}),
    "Hunyuan": ("hunyuan_v1_dense", {**LLAMA, "head_dim": 8}),
    "Hunyuan MoE": ("hunyuan_v1_moe", {**MOE, "moe_topk": 2, "num_shared_expert": 1}),
    "DeepSeek V2": ("deepseek_v2", DEEPSEEK),
    "DeepSeek V3, R1": ("deepseek_v3", DEEPSEEK),
    "Seed-OSS": ("seed_oss", {**LLAMA, "head_dim": 8}),
    "Apertus": ("apertus", LLAMA),
    "Arcee": ("arcee", LLAMA),
    "Helium": ("helium", {**LLAMA, "head_dim": 8}),
    "Nemotron": ("nemotron", {**LLAMA, "head_dim": 8}),
    "CWM": ("cwm", {**WINDOWED, **LOCAL}),
    "Doge": ("doge", LLAMA),
    "LFM 2": ("lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "DBRX": ("dbrx", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "pad_token_id": 0,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}}),
    "Falcon": ("falcon", COMMON),
    "Falcon, linear rope": ("falcon", {**COMMON, "rope_scaling": {"type": "linear", "factor": 2.0}}),
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
    "Falcon H1": ("falcon_h1", {**LLAMA, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_n_groups": 1}),
    "Falcon Mamba": ("falcon_mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "Mamba 2": ("mamba2", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8,
        "n_groups": 1, "pad_token_id": 0}),
    "RWKV": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2}),
    "RecurrentGemma": ("recurrent_gemma", {**COMMON, "num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32}),
    "Jamba": ("jamba", {**LLAMA, "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "JetMoE": ("jetmoe", {**COMMON, "num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": 4,
        "kv_channels": 8, "intermediate_size": 64}),
}  # fmt: skip
HEAD = """# Families of models

What this workflow can do with each family of models, on its two stacks (`stack` in the configuration): *pinned*
(transformers 4.43.4, July 2024) and *current* (transformers 5.24.0, November 2026). Written by
`benchmarks/families.py`, which trains, scores and asks a tiny random model of each through the workflow's own programs.
The size of a model plays no part here: what is tried is the code of its family.

*Shared rows*: what the two answers to a prompt have in common is computed once; *runs*: each answer has a row of its
own. The results are the same. *Refused* is, in short, what `fetch_model` says before anything else runs. Each job that
loads a model compares its log-probabilities with those of the model's own forward pass, and stops if they differ.

| family | model_type | pinned | current |
|---|---|---|---|
"""
# What a message comes to in the table.
SHORT = (
    (r"makes rows of \d+ tokens, but this model .* takes at most (\d+): (.*) \(config.json\).*", r"over \1 tokens: \2"),
    (r"has rope_scaling of type '(\w+)', and the \w+ transformers (.*?) in a .*", r"\1 rope: it \2"),
    (r".*set `stack: (\w+)`.*", r"needs `stack: \1`"),
    (r".*does not take model_type '\w+' \((.*)\)", r"\1"),
    (r".*which (?:the pinned )?transformers ([\d.]+).* does not know", r"unknown to transformers \1"),
    (r"config.json of the model |tokens.max_length ", ""),
)
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
    """Try the families on this environment's stack, print their cells, and put them into the page."""
    wanted, rows = sys.argv[1:], rows_of_page()
    for name in FAMILIES:
        if not wanted or any(word in name for word in wanted):
            rows.setdefault(name, {})[NAME] = cell_of(name)
            print(f"{name}: {rows[name][NAME]}", flush=True)
    lines = [
        f"| {name} | `{kind}` | " + " | ".join(rows.get(name, {}).get(column, "") for column in STACKS) + " |\n"
        for name, (kind, _) in FAMILIES.items()
    ]
    PAGE.write_text(HEAD + "".join(lines), encoding="utf-8")


def rows_of_page() -> dict[str, dict[str, str]]:
    """Name of a family -> stack -> its cell in docs/models.md."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    return {name: dict(zip(STACKS, found, strict=True)) for name, _, *found in cells[1:]}


def cell_of(name: str) -> str:
    """The table's cell of a family on this environment's stack, after trying it."""
    kind, changes = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_study(Path(folder), kind, changes)
        except Stopped as stopped:
            return f"refused: {short(str(stopped))}"
    return "shared rows" if kind in stack.FORKING else "runs"


def short(message: str) -> str:
    """A message as far as the table has room for it."""
    for pattern, words in SHORT:
        message = re.sub(pattern, words, message)
    return message


def run_study(folder: Path, kind: str, changes: dict) -> None:
    """Everything that one seed of SFT→DPO needs, in `folder`. Raises Stopped."""
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
    command = [
        str(ROOT / "scripts" / f"{rule}.py"),
        "--job",
        job,
        "--lock",
        str(ROOT / "envs" / f"{Path(sys.prefix).name}.yaml"),
    ]
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
    """A tiny random model of one family, and a tokenizer; of one that is refused here only config.json is its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from arms.model.tiny import TOKENIZERS, strings, write_tokenizer

    folder.mkdir()
    vocabulary = len(write_tokenizer(TOKENIZERS["llama"], 400, strings(text), folder))
    taken = kind in stack.SUPPORTED
    model = tiny_model("llama", LLAMA, vocabulary) if not taken else tiny_model(kind, changes, vocabulary)
    model.save_pretrained(folder, safe_serialization=True)
    if not taken:
        named = {"architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, "")]}
        (folder / "config.json").write_text(json.dumps({"model_type": kind, **named, **changes}), encoding="utf-8")


def tiny_model(kind: str, changes: dict, vocabulary: int) -> PreTrainedModel:
    """A model of one family, with weights drawn at random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own = copy.deepcopy(changes)  # transformers 5 writes into `rope_scaling`
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **own))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(SCALE)
    return model.eval()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
