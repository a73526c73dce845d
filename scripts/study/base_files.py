"""The files that a user brings: of data sets, and of a base model, in whose folder others may change as they like."""

from __future__ import annotations

import json
import os
from pathlib import Path

from study.checksums import portable
from study.errors import ConfigError

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


def loader_file(model: dict) -> list[str]:
    """The user's file that loads the base model (`model.loader`), or none."""
    return [model["loader"].rpartition(":")[0]] if "loader" in model else []


def checked_model(model: dict) -> dict:
    """The model's section, its paths as they stay where a study moves; ConfigError if its loader cannot be used."""
    paths = {"path": portable(os.path.expanduser(model["path"]))} if model.get("path") else {}
    if "loader" in model:
        path, _, function = model["loader"].rpartition(":")
        paths["loader"] = f"{portable(os.path.expanduser(path))}:{function}"
        if not os.path.isfile(os.path.expanduser(path)):
            raise ConfigError(f"model.loader: {path} is not there; name a file and its function, as in load.py:load")
        if model["precision"] in ("int8", "nf4"):
            raise ConfigError(
                f"model.loader cannot be used with model.precision {model['precision']}: before anything trains, where "
                "no GPU is, what it loads is compared with what transformers loads; leave it out, or take fp32 or bf16"
            )
    return {**model, **paths}
