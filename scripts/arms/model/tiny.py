"""A tiny random language model with a real tokenizer, for tests and config/smoke.yaml: it knows nothing, in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from arms.job.files import UserError, write_json
from arms.job.formats import read_rows
from arms.stacks import stack

POSITIONS = 2048
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The three ways in which real tokenizers differ, each a trap somewhere: SmolLM2 (bos, eos, pad all distinct),
# Qwen2 (no bos at all), GPT-2 (one special token, which is bos and eos; nothing to pad with; no chat template).
TOKENIZERS: dict[str, dict] = {
    "llama": {
        "special": CHAT_TOKENS,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    },
    "qwen2": {
        "special": CHAT_TOKENS,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    },
    "gpt2": {
        "special": ["<|endoftext|>"],
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    },
}
SIZES = ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "vocab_size")


def write_random_model(settings: dict, texts: Iterable[str], folder: str | Path) -> None:
    """Train a byte-level BPE on `texts`, initialise a model from the seed, and save both to `folder`.

    settings: hidden_size, intermediate_size, layers, heads, kv_heads, vocab_size (an upper bound: a short text gives
    fewer tokens), seed, family ("llama", "qwen2" or "gpt2"). Equal settings and texts give equal bytes.
    """
    family = settings.get("family")
    if family not in TOKENIZERS:
        raise UserError(f"model.family is {family!r}; choose one of {', '.join(TOKENIZERS)}")
    for key in (*SIZES, "seed"):
        if not isinstance(settings.get(key), int) or (key in SIZES and settings[key] < 1):
            raise UserError(f"model.{key} is {settings.get(key)!r}; a random model needs a whole number there")
    if settings["hidden_size"] % (2 * settings["heads"]) or settings["heads"] % settings["kv_heads"]:
        raise UserError(
            "model.hidden_size must be an even multiple of model.heads, and model.heads a multiple of model.kv_heads"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(TOKENIZERS[family], settings["vocab_size"], texts, folder)
    write_weights(settings, vocabulary, folder)


def strings(path: str | Path) -> Iterator[str]:
    """Every string value in a data file, in order."""

    def inside(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from inside(item)

    for row in read_rows(path):
        yield from inside({name: value for name, value in row.items() if name != "_place"})


def write_tokenizer(tokenizer_kind: dict, size: int, texts: Iterable[str], folder: Path) -> dict[str, int]:
    """Train and save the tokenizer; returns token -> id."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    special = tokenizer_kind["special"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(alphabet) + len(special):
        raise UserError(f"model.vocab_size is {size}; the bytes alone need {len(alphabet) + len(special)}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "eos_token", "pad_token", "chat_template")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: tokenizer_kind[name] for name in names if name in tokenizer_kind},
            "model_max_length": POSITIONS,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        },
    )
    return tokenizer.get_vocab()


def write_weights(settings: dict, vocabulary: dict[str, int], folder: Path) -> None:
    """Initialise a float32 model from the seed and save config and safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = TOKENIZERS[settings["family"]]
    special = {
        f"{name}_token_id": vocabulary[kind[f"{name}_token"]] if f"{name}_token" in kind else None
        for name in ("bos", "eos", "pad")
    }
    if settings["family"] == "gpt2":
        shape = {"n_inner": settings["intermediate_size"], "n_positions": POSITIONS}
    else:
        shape = {
            "intermediate_size": settings["intermediate_size"],
            "num_key_value_heads": settings["kv_heads"],
            "max_position_embeddings": POSITIONS,
            "tie_word_embeddings": True,
        }
    config = AutoConfig.for_model(
        settings["family"],
        vocab_size=len(vocabulary),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        **shape,
        **special,
    )
    stack.quiet()
    torch.manual_seed(settings["seed"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, safe_serialization=True)
