"""Rows of a data set on the Hugging Face hub, at a commit, read from the hub's own cache.

Which files are a split is said by the data set's card, or by the files' names, both as the hub documents them
(https://huggingface.co/docs/hub/datasets-data-files-configuration). No code of a repository runs, and what is in the
cache already needs no network. The `datasets` library is not asked: 2.19.2 sees no file in this cache, where each is a
link, and would copy all rows once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from arms.job.files import UserError
from arms.job.formats import read_rows

DATA = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst")
ALIASES = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}  # split: words in the names of its files
NUMBERED = re.compile(r"(?:.*/)?([^/]+)-\d{5}-of-\d{5}[^/]*$")


def hub_rows(source: dict) -> Iterator[dict]:
    """The rows of a data set on the hub, with "_row" and "_place" as `arms.job.formats.read_rows` gives them.

    source: hub (organisation/name), revision (commit), split, config (None: the only one, or the default). Raises
    UserError.
    """
    from huggingface_hub import snapshot_download

    words = f"{source['hub']} at {source['revision'][:12]}"
    try:
        folder = Path(snapshot_download(source["hub"], repo_type="dataset", revision=source["revision"]))
    except (OSError, ValueError) as error:  # what huggingface_hub raises for all that is not there, or not reached
        raise UserError(
            f"{words}: not in this machine's cache, and the hub does not give it ({type(error).__name__}). Check id "
            "and revision; on a cluster, run first where the network is: huggingface-cli download --repo-type dataset "
            f"{source['hub']} --revision {source['revision']}"
        ) from None
    for name in split_files(folder, source["split"], source.get("config"), words):
        for row in read_rows(folder / name):
            yield {**row, "_place": f"{words}, {name}, {row['_place'].rpartition(', ')[2]}"}


def split_files(folder: Path, split: str, config: str | None, words: str) -> list[str]:
    """Names of the files of one split, sorted. words: what messages call the data set. Raises UserError."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(DATA))
    names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    configs = card_configs(folder)
    if config is None and len(configs) > 1:
        config = next((name for name, entry in configs.items() if entry.get("default") or name == "default"), None)
        if config is None:
            raise UserError(f"{words} has several configurations; add config: one of {', '.join(configs)}")
    chosen = config if config is not None else next(iter(configs), None)
    if config is not None and config not in configs and not (config == "default" and not configs):
        raise UserError(
            f"{words} has no configuration {config!r}; it has {', '.join(configs) or 'only one, without name'}"
        )
    patterns = _patterns((configs.get(chosen or "") or {}).get("data_files"))
    splits = {
        name: [file for file in names if any(fnmatch(file, pattern) for pattern in wanted)]
        for name, wanted in patterns.items()
    }
    found = splits if any(splits.values()) else _splits_by_name(names)
    if not found.get(split):
        raise UserError(f"{words} has no split {split!r}; it has {', '.join(found) or 'no data file'}")
    return found[split]


def card_configs(folder: Path) -> dict[str, dict]:
    """The configurations that the data set's card (README.md) names: name -> its entry."""
    import yaml

    card = folder / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n", 2) if card.is_file() else []
    head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return {entry["config_name"]: entry for entry in (head or {}).get("configs") or []}


def _patterns(data_files: str | list | None) -> dict[str, list[str]]:
    """Split -> patterns of its files, of the card's `data_files`: a pattern, several, or {split, path} of each."""
    entries = data_files if isinstance(data_files, list) else [data_files] if data_files else []
    found: dict[str, list[str]] = {}
    for entry in entries:
        split, path = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        found.setdefault(split, []).extend(path if isinstance(path, list) else [path])
    return found


def _splits_by_name(names: list[str]) -> dict[str, list[str]]:
    """The splits of files that no card sorts: SPLIT-00000-of-00001.*, else a split's word in the name, else train."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := NUMBERED.match(name):
            found.setdefault(match[1], []).append(name)
    if found:
        return found
    for split, aliases in ALIASES.items():
        if files := [name for name in names if re.search(rf"(?<![a-zA-Z])(?:{aliases})(?![a-zA-Z])", name)]:
            found[split] = files
    return found or ({"train": names} if names else {})
