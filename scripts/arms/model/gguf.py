"""Convert a GGUF file of the llama architecture to a Hugging Face directory (safetensors, tokenizer, chat template).

transformers 4.43 cannot do this: its GGUF loader knows no Q4_1, and the tokenizer it builds has a wrong end token and
no chat template, without a warning. Only what the file states is used; whatever is not understood is refused.
Layouts: llama.cpp/gguf-py/gguf/constants.py (names) and convert_hf_to_gguf.py, LlamaModel.permute (rotary order).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, write_json

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # gguf TokenType.CONTROL
PAD_TOKEN = "<|endoftext|>"  # noqa: S105 (a token of text, no secret)


class Header:
    """The key-value part of a GGUF file; a missing key is a UserError that names it."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self.reader, self.path = reader, path
        self.values: dict[str, object] = {}  # decoding the vocabulary takes a second: once is enough

    def __contains__(self, key: str) -> bool:
        return key in self.reader.fields

    def __getitem__(self, key: str):
        if key not in self.reader.fields:
            raise UserError(f"{self.path.name}: the GGUF key {key!r} is missing; this file cannot be converted")
        if key not in self.values:
            self.values[key] = self.reader.fields[key].contents()
        return self.values[key]

    def require(self, key: str, expected: object) -> None:
        """Raise UserError unless `key` has the one value that the conversion is right for."""
        if self[key] != expected:
            raise UserError(
                f"{self.path.name}: {key} is {self[key]!r}; only {expected!r} can be converted. "
                "Give the model as a Hugging Face directory (model.source: path) or by hub id instead"
            )


def open_gguf(path: str | Path) -> Header:
    """Open a GGUF file; UserError if it is not one or if its architecture or tokenizer is not supported."""
    from gguf import GGUFReader

    path = Path(path)
    try:
        header = Header(GGUFReader(path), path)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path.name}: not a readable GGUF file ({error})") from None
    header.require("general.architecture", "llama")
    header.require("tokenizer.ggml.model", "gpt2")
    header.require("tokenizer.ggml.pre", "smollm")
    if "llama.rope.scaling.type" in header:
        header.require("llama.rope.scaling.type", "none")
    return header


def count_parameters(header: Header) -> int:
    """Number of weights in the file: times 4 it is the size in bytes of the converted float32 model."""
    return sum(int(tensor.n_elements) for tensor in header.reader.tensors)


def convert(header: Header, folder: str | Path) -> None:
    """Write config, float32 weights and tokenizer of an opened GGUF file to `folder`; equal bytes on every run."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tied = write_weights(header, folder)
    write_config(header, folder, tied)
    write_tokenizer(header, folder)


def undo_rotary_permutation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection [heads * d, hidden] back in Hugging Face's order.

    llama.cpp stores the two halves of each head interleaved, since it rotates neighbours; transformers rotates halves.
    """
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(2, 1).reshape(weight.shape)


def write_weights(header: Header, folder: Path) -> bool:
    """Dequantize every tensor to float32 and save; True if the output layer is tied to the embedding."""
    import numpy as np
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": header["llama.attention.head_count"], "attn_k": header["llama.attention.head_count_kv"]}
    outside = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    state = {}
    for tensor in header.reader.tensors:
        match tensor.name.split("."):
            case ["blk", layer, part, "weight"] if part in TENSORS:
                name = f"model.layers.{layer}.{TENSORS[part]}.weight"
            case _ if tensor.name in outside:
                part, name = "", outside[tensor.name]
            case _:
                raise UserError(f"{header.path.name}: tensor {tensor.name!r} is not part of a plain llama model")
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        expected = tuple(int(n) for n in reversed(tensor.shape))
        if weight.shape != expected:
            raise UserError(f"{header.path.name}: tensor {tensor.name!r} has shape {weight.shape}, stated {expected}")
        if part in heads:
            weight = undo_rotary_permutation(weight, heads[part])
        state[name] = np.ascontiguousarray(weight)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return "lm_head.weight" not in state


def write_config(header: Header, folder: Path, tied: bool) -> None:
    """config.json and generation_config.json."""
    import numpy as np

    special = {
        "bos_token_id": header["tokenizer.ggml.bos_token_id"],
        "eos_token_id": header["tokenizer.ggml.eos_token_id"],
        "pad_token_id": pad_id(header),
    }
    write_json(
        folder / "config.json",
        {
            **special,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "hidden_size": header["llama.embedding_length"],
            "intermediate_size": header["llama.feed_forward_length"],
            "max_position_embeddings": header["llama.context_length"],
            "num_attention_heads": header["llama.attention.head_count"],
            "num_key_value_heads": header["llama.attention.head_count_kv"],
            "num_hidden_layers": header["llama.block_count"],
            # the file holds a float32: write its shortest form (1e-05), not the nearest double of it
            "rms_norm_eps": float(str(np.float32(header["llama.attention.layer_norm_rms_epsilon"]))),
            "rope_theta": float(header["llama.rope.freq_base"]),
            "rope_scaling": None,
            "tie_word_embeddings": tied,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": len(header["tokenizer.ggml.tokens"]),
        },
    )
    write_json(folder / "generation_config.json", {**special, "_from_model_config": True})


def write_tokenizer(header: Header, folder: Path) -> None:
    """tokenizer.json (byte-level BPE, digits one by one: "smollm") and tokenizer_config.json with the chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokens = header["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in header["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = header["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[header["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[header["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[pad_id(header)],
        "unk_token": tokens[header["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": header["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        # else the tokenizer returns token_type_ids, which the model's forward refuses
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if "tokenizer.chat_template" in header:
        settings["chat_template"] = header["tokenizer.chat_template"]
    write_json(folder / "tokenizer_config.json", settings)


def pad_id(header: Header) -> int:
    """Id of <|endoftext|>, the padding.

    The file itself says pad = eos. With that, collators that mask padding mask every end token too, and the model never
    learns to stop.
    """
    tokens = header["tokenizer.ggml.tokens"]
    if PAD_TOKEN not in tokens or tokens.index(PAD_TOKEN) == header["tokenizer.ggml.eos_token_id"]:
        raise UserError(
            f"{header.path.name}: its vocabulary has no {PAD_TOKEN} token apart from the end token to pad with"
        )
    return tokens.index(PAD_TOKEN)
