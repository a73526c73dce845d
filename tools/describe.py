"""Write the table of keys in config/README.md from config/schema.yaml: python tools/describe.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

CONFIG = Path(__file__).resolve().parent.parent / "config"
START, END = "<!-- keys: generated from schema.yaml by `make docs` -->", "<!-- end of keys -->"


def rows(schema: dict, definitions: dict, prefix: str = "", told: set[str] | None = None) -> list[str]:
    """One line of a Markdown table for each key, depth first; keys that several share are told once."""
    lines, told = [], set() if told is None else told
    for name, entry in schema.get("properties", {}).items():
        target = definitions[entry["$ref"].rsplit("/", 1)[1]] if "$ref" in entry else entry
        kind = " or ".join(map(str, entry["enum"])) if "enum" in entry else target.get("type", "")
        kind = " or ".join(kind) if isinstance(kind, list) else kind
        default = "" if "default" not in entry or entry["default"] == {} else f"`{yaml_text(entry['default'])}`"
        default = "required" if name in schema.get("required", []) else default
        text = " ".join(entry["description"].split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind} | {default} | {text} |")
        if entry.get("$ref") not in told:
            lines += rows(target, definitions, f"{prefix}{name}.", told)
        named = entry.get("additionalProperties")
        if isinstance(named, dict) and "$ref" in named:
            lines += rows(definitions[named["$ref"].rsplit("/", 1)[1]], definitions, f"{prefix}{name}.<name>.", told)
        told |= {entry["$ref"]} if "$ref" in entry else set()
    return lines


def yaml_text(value: object) -> str:
    """A value as one would write it in the configuration."""
    return yaml.safe_dump(value, default_flow_style=True).replace("\n...", "").strip()


def main() -> None:
    """Replace the part between the marks, or compare it."""
    schema = yaml.safe_load((CONFIG / "schema.yaml").read_text(encoding="utf-8"))
    path = CONFIG / "README.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(START)
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows(schema, schema["$defs"])]
    new = before + START + "\n\n" + "\n".join(table) + "\n\n" + END + rest.split(END)[1]
    if "--check" in sys.argv and new != text:
        sys.exit("config/README.md is out of step with config/schema.yaml: run `make docs` and commit the result")
    if "--check" not in sys.argv:
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
