"""What the doctor finds: one line a check, with the cure where it fails."""

from __future__ import annotations

from pathlib import Path

from arms.job.files import UserError, read_json, write_json


class Findings:
    """The findings of one machine, in the order in which they were made."""

    def __init__(self, machine: str, rows: list[dict] | None = None) -> None:
        self.machine, self.rows = machine, rows or []

    def add(self, passed: bool | None, check: str, text: str, otherwise: str = "") -> bool | None:
        """Note one check; passed: True, False (the study would fail), or None (worth knowing). Returns `passed`.

        text: what was found. otherwise: what to say in its place where the check failed.
        """
        text = otherwise if passed is False and otherwise else text
        self.rows.append({"check": check, "passed": passed, "text": text})
        return passed

    def failed(self) -> bool:
        """Whether any check failed."""
        return any(row["passed"] is False for row in self.rows)

    def text(self) -> str:
        """A table for people."""
        marks = {True: "ok  ", False: "FAIL", None: "note"}
        return "\n".join(
            [f"{self.machine}:", *(f"  {marks[row['passed']]}  {row['check']:<14} {row['text']}" for row in self.rows)]
        )

    def write(self, path: str | Path, **facts: object) -> None:
        """Write all of it as JSON, with some facts for the next program."""
        write_json(path, {"machine": self.machine, "rows": self.rows, **facts})


def read_findings(path: str | Path) -> Findings:
    """What `Findings.write` wrote."""
    found = read_json(path)
    return Findings(found["machine"], found["rows"])


def model_findings(model: dict, found: Findings, node: bool = False) -> None:
    """Are the base model's files here, whole, and readable without the network?

    model: the config's model section. node: on a node nothing is fetched, so files that are still to come are no fault.
    Reads the headers of the weights, not the weights.
    """
    if model["source"] == "path":
        folder = Path(model["path"]).expanduser()
        if not (folder / "config.json").is_file():
            text = f"model.path {folder} has no config.json here"
            cure = "; nodes do not share this folder" if node else "; correct model.path, or fetch the model there"
            found.add(False, "model", text + cure)
            return
        weight_findings(folder, found)
    elif model["source"] == "hub" and not node:
        hub_findings(model, found)
    elif not node:
        found.add(None, "model", "not fetched yet; the rule fetch_model makes it on this machine")


def hub_findings(model: dict, found: Findings) -> None:
    """A model of the hub: in the local cache, or to be downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    config = try_to_load_from_cache(model["id"], "config.json", revision=model["revision"])
    if isinstance(config, str):
        weight_findings(Path(config).parent, found)
        return
    text = f"{model['id']} at {model['revision'][:12]} is not in {HF_HUB_CACHE}"
    if HF_HUB_OFFLINE:
        cure = "fill it where there is a network: `huggingface-cli download ID --revision COMMIT`"
        found.add(False, "model", f"{text} and HF_HUB_OFFLINE forbids to fetch it; {cure}")
    else:
        found.add(None, "model", f"{text} yet; the rule fetch_model downloads it on this machine")


def weight_findings(folder: Path, found: Findings) -> None:
    """Weights and tokenizer of a folder, by their headers."""
    from arms.model.base_card import count_parameters

    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    named = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    missing = named - {path.name for path in weights}
    try:
        if not weights or missing:
            raise UserError(f"{', '.join(sorted(missing)) or '*.safetensors'} missing; only safetensors are read")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise UserError("no tokenizer (tokenizer.json) beside the weights")
        parameters, dtype = count_parameters(folder)
    except UserError as error:
        found.add(False, "model", f"{folder}: {error}")
        return
    size = sum(path.stat().st_size for path in weights) / 1e9
    found.add(True, "model", f"{folder}: {parameters / 1e9:.2f} B parameters, {dtype}, {size:.1f} GB, whole")
