"""Every format and layout gives the token file of our own layout, byte for byte, through the programs themselves."""

import json
import subprocess
import sys
from pathlib import Path

import tokenize_data
from layouts import FORMATS, PAIRS, ROWS, SFT, is_flat

from arms.model.tiny import TOKENIZERS, write_tokenizer

ROOT = Path(__file__).parents[3]
# Runs rule check_data's program on one folder after another, in the environment that it has.
CHECK = """
import json, os, sys
import check_data
jobs, lock = sys.argv[1:]
for folder, name, data in json.load(open(jobs)):
    os.chdir(folder)
    job = json.dumps({"rule": "check_data", "wildcards": {"data": name}, "settings": {}, "code": "0"})
    sys.argv = ["", "--job", job, "--manifest", "m.json", "--lock", lock, "--data", data, "--rows", f"{name}.parquet"]
    sys.argv += ["--sources", json.dumps({name: data}), "--audit", "audit.json"]
    check_data.main()
"""
SETTINGS = {
    "template": "chat", "system_prompt": None, "max_length": 64, "on_overlong": "error", "eos_after_truncation": True,
    "rows": None,
}  # fmt: skip


def cells(folder: Path) -> dict[tuple[str, str, str], Path]:
    """(kind, layout, format) -> a folder with the rows so written; our own layout as JSON Lines is among them."""
    found = {}
    for kind, layouts in (("pairs", PAIRS), ("sft", SFT)):
        for layout, make in layouts.items():
            rows = [make(*list(row.values())[: 3 if kind == "pairs" else 2]) for row in ROWS]
            for name, write in FORMATS.items():
                if name != "a.csv" or is_flat(rows[0]):
                    place = found[kind, layout, name] = folder / f"{len(found)}"
                    place.mkdir()
                    write(place / name, rows)
    return found


def test_every_format_and_layout_gives_the_same_token_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").mkdir()
    texts = [text for row in ROWS for text in row.values()]
    vocabulary = write_tokenizer(TOKENIZERS["llama"], 400, texts, tmp_path / "weights")
    tokenizer = {name: TOKENIZERS["llama"][f"{name}_token"] for name in ("eos", "pad")}
    card = {f"{name}_token": token for name, token in tokenizer.items()}
    card |= {f"{name}_id": vocabulary[token] for name, token in tokenizer.items()}
    card = {"tokenizer": {**card, "chat_template_sha256": None}, "files": {}, "sha256": "0" * 64}
    (tmp_path / "model.json").write_text(json.dumps(card))
    found = cells(tmp_path)
    (tmp_path / "jobs.json").write_text(json.dumps([[str(f), kind, name] for (kind, _, name), f in found.items()]))
    subprocess.run(
        [ROOT / ".envs/grade/bin/python", "-c", CHECK, tmp_path / "jobs.json", ROOT / "envs/grade.yaml"],
        env={"PYTHONPATH": str(ROOT / "scripts")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tokens = {}
    for (kind, layout, name), folder in found.items():
        monkeypatch.chdir(folder)
        job = json.dumps({"rule": "tokenize_data", "wildcards": {}, "settings": SETTINGS, "code": "0"})
        flags = ["--model", "../model.json", "--data", f"{kind}.parquet", "--kind", kind, "--tokens", "tokens.parquet"]
        flags += [
            "--audit",
            "tokens.json",
            "--lock",
            str(ROOT / f"envs/{Path(sys.prefix).name}.yaml"),
            "--manifest",
            "t.json",
        ]
        monkeypatch.setattr(sys, "argv", ["tokenize_data.py", "--job", job, *flags])
        tokenize_data.main()
        tokens[kind, layout, name] = Path("tokens.parquet").read_bytes()
    capsys.readouterr()
    assert len(found) > 100
    for kind in ("pairs", "sft"):
        ours = tokens[kind, "text", "a.jsonl"]
        others = {cell: content for cell, content in tokens.items() if cell[0] == kind}
        assert [cell for cell, content in others.items() if content != ours] == []
    assert tokens["pairs", "text", "a.jsonl"] != tokens["sft", "text", "a.jsonl"]
