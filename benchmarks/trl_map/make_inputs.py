"""What all versions of TRL are tried on, made once: a tiny random Llama, two LoRA adapters, a dozen pairs.

    .envs/train/bin/python benchmarks/trl_map/make_inputs.py FOLDER

The adapter `sft` stands for a fine-tuned policy: it moves the model. The adapter `fresh` does not (its B is zero), so
that every version starts from the same numbers, whatever its own random numbers are.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from arms.model.tiny import write_random_model

WORDS = ["river", "stone", "cloud", "apple", "quiet", "green", "table", "music", "winter", "light", "paper"]
WORDS += ["house", "garden"]
MODEL = {"family": "llama", "hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 4, "kv_heads": 2}
MODEL |= {"vocab_size": 400, "seed": 0}
PAIRS = 12


def main() -> None:
    """Write model/, sft/, fresh/ and pairs.json."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = pairs()
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    write_random_model(MODEL, [text for row in rows for text in row.values()], folder / "model")
    write_adapters(folder)


def pairs() -> list[dict[str, str]]:
    """Plain strings; each answer starts with a space, so that no token lies across its beginning."""
    draw = random.Random(0)  # noqa: S311 (test data)
    rows = []
    for _ in range(PAIRS):
        words = draw.sample(WORDS, 7)
        texts = (f"Say {words[0]} and {words[1]}.", f" {words[2]} {words[3]}", f" {words[4]} {words[5]} {words[6]}")
        rows.append(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
    return rows


def write_adapters(folder: Path) -> None:
    """Two LoRA adapters on the model, one of them with an effect."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for name, scale in (("fresh", 0.0), ("sft", 0.5)):
        base = AutoModelForCausalLM.from_pretrained(str(folder / "model"))
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        for parameter, value in model.named_parameters():
            if "lora_B" in parameter:
                torch.nn.init.normal_(value, std=scale) if scale else torch.nn.init.zeros_(value)
        model.save_pretrained(str(folder / name))


if __name__ == "__main__":
    main()
