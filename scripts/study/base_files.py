"""The files that a user brings: of data sets, and of a base model, in whose folder others may change as they like."""

from __future__ import annotations

import json
import os
from pathlib import Path

CONFIG_FILES = ["config.json", "generation_config.json"]
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
]
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors of a model; [] if it has none, or an index that cannot be read."""
    if not (folder / INDEX).is_file():
        return ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    try:
        return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return []


def data_files(source: str | dict) -> list[str]:
    """The files of a data set as study/data_config.py describes it: of a folder all that lie in it, of the hub none.

    Of a part of a split those of all data sets that are split together, its own first; of a mixture those of all.
    """
    if isinstance(source, dict) and "among" in source:
        sources = sorted(source["among"].items(), key=lambda item: item[0] != source["of"])
        return list(dict.fromkeys(path for _, one in sources for path in data_files(one)))
    if isinstance(source, dict) and "mix" in source:
        return list(dict.fromkeys(path for one in source["mix"] for path in data_files(one)))
    path = source if isinstance(source, str) else source.get("path")
    if path and os.path.isdir(path):
        return sorted(entry.path for entry in os.scandir(path) if entry.is_file())
    return [path] if path else []


def base_files(config: dict) -> list[str]:
    """Paths of the files that a base model is made of, as far as they are there; [] for those from elsewhere.

    A random model's tokenizer is trained on the SFT rows.
    """
    model = config["model"]
    if model["source"] == "random":
        return data_files(config["data"]["sft"])[:1]
    if model["source"] != "path":
        return []
    folder = Path(str(model.get("path"))).expanduser()
    names = [*CONFIG_FILES, *TOKENIZER_FILES, INDEX, *weight_files(folder)]
    return [str(folder / name) for name in names if (folder / name).is_file()]
