"""A stand-in for a large model: its real config.json and safetensors headers, a small real tokenizer, and no data.

The weights are sparse files of zeros that take no disk, so everything that looks at sizes, names and dtypes meets the
real ones. With --card a model.json is written beside the folder, without the checksums of the weights (65 GB of zeros
are hashed at the speed of real ones: let fetch_model do that where it matters).

    .envs/train/bin/python tests/standin_model.py qwen2.5-32b results/x/model/weights --card
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
MODELS = {
    "qwen2.5-32b": {
        **QWEN,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
    },
    "qwen2.5-7b": {
        **QWEN,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
    },
}
TEXTS = ["The sun rises in the east and sets in the west.", "Say river and stone, then cloud, apple and winter."]


def write_standin(folder: Path, config: dict) -> None:
    """Fill `folder` with config.json, tokenizer and sparse shards: a Llama or Qwen2 model of `config`'s sizes."""
    write_small_files(folder, config)
    shards = [dict(part) for part in layers(config)]
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shapes in zip(names, shards, strict=True):
        write_sparse(folder / name, shapes)
    placed = {tensor: name for name, shapes in zip(names, shards, strict=True) for tensor in shapes}
    total = sum(2 * math.prod(shape) for shapes in shards for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_small_files(folder: Path, config: dict) -> None:
    """config.json, and a tokenizer of 300 tokens with the special tokens of Qwen2."""
    from arms.model.tiny import TOKENIZERS, write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(TOKENIZERS["qwen2"], 300, TEXTS, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def layers(config: dict) -> list[dict[str, list[int]]]:
    """Names and shapes of all tensors, as transformers writes them: the embedding, each layer, norm and head."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    linear = {"self_attn.q_proj": [width, width], "self_attn.k_proj": [keys, width], "self_attn.v_proj": [keys, width]}
    linear |= {"self_attn.o_proj": [width, width]}
    linear |= {"mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width], "mlp.down_proj": [width, inner]}
    layer = {f"{name}.weight": shape for name, shape in linear.items()}
    if config["model_type"] == "qwen2":
        layer |= {f"self_attn.{name}_proj.bias": [linear[f"self_attn.{name}_proj"][0]] for name in "qkv"}
    layer |= {"input_layernorm.weight": [width], "post_attention_layernorm.weight": [width]}
    count = config["num_hidden_layers"]
    found = [{"model.embed_tokens.weight": [config["vocab_size"], width]}]
    found += [{f"model.layers.{number}.{name}": shape for name, shape in layer.items()} for number in range(count)]
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": [config["vocab_size"], width]}
    return [*found, {"model.norm.weight": [width], **head}]


def write_sparse(path: Path, shapes: dict[str, list[int]]) -> None:
    """A whole safetensors file of bfloat16 zeros; only its header takes disk."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def write_card(folder: Path, card: Path, hash_weights: bool = False) -> None:
    """model.json for the model in `folder`, by the checks of fetch_model; weights are hashed only if asked for."""
    from arms.job.files import sha256_file, write_json
    from arms.model.base_card import base_card, check_config, check_tokenizer

    hashed = sorted(path for path in folder.iterdir() if hash_weights or path.suffix != ".safetensors")
    files = {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in hashed}
    config = check_config(folder)
    tokenizer, _ = check_tokenizer(folder, config)
    write_json(card, base_card({"source": "path", "precision": "bf16"}, config, tokenizer, folder, files))


def main() -> None:
    """Write one of MODELS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--card", action="store_true", help="also write model.json beside the folder")
    args = parser.parse_args()
    write_standin(args.folder, MODELS[args.model])
    if args.card:
        write_card(args.folder, args.folder.parent / "model.json")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    main()
