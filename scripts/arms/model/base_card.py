"""The base card (model.json): what the base model is, after checking that the study can use it."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from pathlib import Path

from arms.job.files import UserError, canonical_json, sha256_bytes, sha256_file
from arms.model.architecture import check_config, read_config
from arms.model.fit import check_length, check_targets, check_tensors, check_tied, empty_model
from arms.model.sources import first_line
from arms.stacks import stack

# Special tokens that other models pad with, best first; only one that is in the vocabulary already can be taken.
PAD_CANDIDATES = [
    "<|endoftext|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|vision_pad|>",
    "<|reserved_special_token_0|>",
    "<unk>",
    "[UNK]",
    "<|unk|>",
]
# Bytes that no UTF-8 text holds. A byte-level BPE has a token for each of the 256 bytes, written as one character: for
# these bytes the character of the same number (bytes_to_unicode of openai/gpt-2, src/encoder.py).
BYTES_IN_NO_TEXT = [chr(byte) for byte in (*range(0xFF, 0xF4, -1), 0xC1, 0xC0)]
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
ENGLISH = (
    "The sun rises in the east and sets in the west. Water freezes at zero degrees and boils at one hundred degrees "
    "Celsius. Paris is the capital of France, and London is the capital of the United Kingdom. Children go to school "
    "to learn how to read and write."
)
ENGLISH_LIMIT = 4.0  # nats per token; SmolLM2-135M needs about 2, a wrongly converted model more than 8


def describe_base(model: dict, folder: Path, use: dict | None = None) -> tuple[dict, dict]:
    """Check the model in `folder` and describe it: the base card, and facts for the manifest only.

    use: what the study asks of it: max_length, target_modules. None: not asked.
    """
    config = check_config(folder)
    tokenizer, facts = check_tokenizer(folder, config)
    empty = empty_model(config)
    check_tensors(empty, {name: tuple(entry["shape"]) for name, entry in tensor_headers(folder).items()})
    check_tied(empty, folder)
    if use is not None:
        check_length(config, use["max_length"], "tokens.max_length")
        check_targets(empty, use["target_modules"])
    return base_card(model, config, tokenizer, folder, check_files(folder, model.get("files") or {})), facts


def base_card(model: dict, config, tokenizer: dict, folder: Path, files: dict[str, dict]) -> dict:
    """The base card, of what the checks found; the headers of the weights in `folder` give their number and dtype.

    model: the config's model section. config: of transformers. tokenizer: its entry. files: name -> sha256 and bytes.
    """
    parameters, dtype = count_parameters(folder)
    return {
        "schema": 1,
        "source": {key: value for key, value in model.items() if key not in ("path", "loader")},
        "files": files,
        # the same digest that arms.job.files.sha256_file gives for the folder
        "sha256": sha256_bytes(canonical_json({name: entry["sha256"] for name, entry in files.items()}).encode()),
        "architecture": config.architectures[0],
        "model_type": config.model_type,
        "parameters": parameters,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "tokenizer": tokenizer,
    }


def check_tokenizer(folder: Path, config) -> tuple[dict, dict]:
    """The base card's tokenizer entry, and how many test strings survive encoding and decoding."""
    tokenizer = load_any_tokenizer(folder)
    if tokenizer.eos_token is None:
        raise UserError(
            "the model's tokenizer has no eos_token, so answers would never end; set it in tokenizer_config.json"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size} (config.json, vocab_size): "
            "they do not belong together"
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name; transformers takes this one for chats without tools
        template = template.get("default")
    if template is None and (folder / "chat_template.jinja").is_file():
        raise UserError(
            "the model keeps its chat template in chat_template.jinja, which the pinned transformers does not read; "
            "copy the text to the key chat_template of tokenizer_config.json (model.source: path)"
        )
    own_eos = tokenizer.eos_token
    if template is not None:
        tokenizer.eos_token = turn_end(tokenizer) or own_eos
    pad = choose_pad(tokenizer)
    strings = round_trip_strings()
    kept = sum(survives(tokenizer, text) for text in strings)
    entry = {
        "class": type(tokenizer).__name__,
        "bos_token": tokenizer.bos_token,
        "bos_id": tokenizer.bos_token_id,
        "eos_token": tokenizer.eos_token,
        "eos_id": tokenizer.eos_token_id,
        "own_eos_token": own_eos,
        "pad_token": pad,
        "pad_id": tokenizer.convert_tokens_to_ids(pad),
        "chat_template": template is not None,
        "chat_template_sha256": None if template is None else sha256_bytes(template.encode()),
    }
    return entry, {"round_trip": {"strings": len(strings), "kept": kept}}


def load_any_tokenizer(folder: Path):
    """The tokenizer beside the weights, as transformers loads it; UserError if there is none that it can load."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError("the model has no tokenizer (no tokenizer.json); put the tokenizer's files beside config.json")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the Rust library raises bare Exception
        cures = {
            "ModelWrapper": "; it was saved by a newer tokenizers library: choose an earlier revision",
            "TokenizersBackend": "; transformers 5 saved it, whose TokenizersBackend is PreTrainedTokenizerFast here: "
            "write that name as tokenizer_class into tokenizer_config.json of a copy (model.source: path)",
        }
        cure = next((cure for sign, cure in cures.items() if sign in str(error)), "")
        raise UserError(f"the model's tokenizer cannot be loaded ({first_line(error)}){cure}") from None


def turn_end(tokenizer) -> str | None:
    """The special token with which the chat template ends an answer; None if it ends it with none, or cannot be read.

    It is the study's EOS, since it is what an instruction-tuned model ends with. The tokenizer's own eos_token is
    another one in Phi-3 (<|endoftext|>, not <|end|>), Gemma (<eos>, not <end_of_turn>) and Qwen2's base models.
    """
    from jinja2 import TemplateError

    answer = "b7391"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        rest = tokenizer.apply_chat_template(turns, tokenize=False).partition(answer)[2]
    except (TemplateError, TypeError, ValueError):  # such as a template that wants a system turn
        return None
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    return next((tokenizer.convert_ids_to_tokens(number) for number in ids if number in special), None)


def choose_pad(tokenizer) -> str:
    """The token to pad with: the tokenizer's own unless it is the end token, else one that is in no text.

    Padding with the end token hides every end from the loss, and the model never learns to stop. Where no special token
    is left (GPT-2 has only its end token), it is the token of a byte that no text holds. Such a token must be set on a
    loaded tokenizer: saved with it, the tokenizer would find it in the text "\u00ff" from then on.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    for token in PAD_CANDIDATES:
        if token in special and tokenizer.convert_tokens_to_ids(token) not in taken:
            return token
    vocabulary = tokenizer.get_vocab()
    for token in BYTES_IN_NO_TEXT:
        if token in vocabulary and tokenizer.decode([vocabulary[token]]) == "\N{REPLACEMENT CHARACTER}":
            return token
    raise UserError(
        f"the tokenizer has no token to pad with apart from its end token {tokenizer.eos_token!r}. Set pad_token in "
        f"tokenizer_config.json to a special token of its vocabulary that occurs in no text (it has: "
        f"{', '.join(sorted(special)[:8])}), or add one to tokenizer and embedding and save the model anew"
    )


def round_trip_strings() -> list[str]:
    """A few hundred strings: words, code, white space, many scripts, emoji, and random code points."""
    fixed = [
        *("Hello, world!", " leading", "trailing ", "two  spaces", "tab\there", "line\nbreak\n\n", "\r\n", "", " "),
        *(
            "don't we've I'll",
            "3.14159 1234567890",
            "a_b = {c: [1, 2]}  # ok",
            "https://x.org/?q=1&r=%20",
            "ÀÉÎõü ß Ø ł",
        ),
        *(
            "Ελληνικά",
            "русский язык",
            "עברית",
            "العربية",
            "हिन्दी",
            "ไทย",
            "中文字符",
            "日本語テキスト",
            "한국어",
            "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        ),
        *(
            "🙂👍🏽👩‍👩‍👧",
            "e\u0301 \u0041\u030a",
            "\u00a0\u2003\u200b\u2028",
            "…—“quotes”",
            "½ № ™ ²",
            "\ufeffbom",
            "\x00\x1f\x7f",
        ),
    ]
    draw = random.Random(0)  # noqa: S311 (test strings, no secret)
    ranges = [
        (32, 126),
        (160, 0x24F),
        (0x370, 0x5FF),
        (0x900, 0xDFF),
        (0x3040, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0x1F300, 0x1FAFF),
    ]
    for _ in range(300):
        low, high = draw.choice(ranges)
        fixed.append(
            "".join(chr(draw.randint(low, high)) + " " * (draw.random() < 0.2) for _ in range(draw.randint(1, 40)))
        )
    return fixed


def survives(tokenizer, text: str) -> bool:
    """Whether decoding gives back what was encoded, up to the composed form (NFC) that Qwen's tokenizers write."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)


def require_round_trip(facts: dict) -> None:
    """UserError unless every test string survived: what a tokenizer that was made here must do.

    Other models' tokenizers may add a space in front or drop what they do not know; that is only reported.
    """
    kept, strings = facts["round_trip"]["kept"], facts["round_trip"]["strings"]
    if kept < strings:
        raise UserError(
            f"the converted tokenizer changes {strings - kept} of {strings} test strings; the conversion or the file "
            "is wrong, and nothing was kept"
        )


def tensor_headers(folder: Path) -> dict[str, dict]:
    """Tensor name -> dtype, shape and data_offsets, of all safetensors in `folder`, from their headers alone."""
    found: dict[str, dict] = {}
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(min(length, size)))
                tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
                end = max(entry["data_offsets"][1] for entry in tensors.values())
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{path.name} of the model is not a safetensors file; fetch it again") from None
        if size != 8 + length + end:
            raise UserError(
                f"{path.name} of the model has {size} bytes, not {8 + length + end}: cut off; fetch it again"
            )
        found |= tensors
    return found


def count_parameters(folder: Path) -> tuple[int, str]:
    """Number of parameters and their most frequent dtype, from the safetensors headers alone."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    totals: dict[str, int] = {}
    for entry in tensor_headers(folder).values():
        kind = names.get(entry["dtype"], entry["dtype"].lower())
        totals[kind] = totals.get(kind, 0) + math.prod(entry["shape"])
    return sum(totals.values()), max(totals, key=totals.__getitem__)


def check_files(folder: Path, stated: dict[str, str]) -> dict[str, dict]:
    """File name -> sha256 and bytes; UserError if one differs from `stated` or from its name in the hub's cache."""
    files = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        blob = path.resolve()  # the hub's cache names large files by their sha256
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and blob.name != files[path.name]["sha256"]:
            raise UserError(
                f"{path.name} in the hub cache is damaged: its sha256 is not its name; delete {blob} and run again"
            )
    for name, expected in stated.items():
        found = files.get(name, {}).get("sha256")
        if found != expected:
            raise UserError(
                f"model.files: {name} {'is not among the files' if found is None else f'has sha256 {found}'}, "
                f"expected {expected}; check model.revision, or correct model.files if you trust this file"
            )
    return files


def check_english(folder: Path) -> float:
    """Mean negative log-likelihood (nats per token) of a plain English text; UserError if the model cannot read it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stack.quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, config=read_config(folder), use_safetensors=True)
    ids = torch.tensor([tokenizer.encode(ENGLISH, add_special_tokens=False)])
    with torch.inference_mode():
        nll = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    if not nll < ENGLISH_LIMIT:
        raise UserError(
            f"the converted model does not speak English: {nll:.2f} nats per token of a plain text, expected less than "
            f"{ENGLISH_LIMIT}. The conversion or the file is wrong; nothing was kept"
        )
    return round(nll, 4)
