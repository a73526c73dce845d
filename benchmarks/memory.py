"""Print the table of config/README.md, "Will it fit?": what DPO of Qwen2.5-7B and 32B is predicted to need on a GPU.

    .envs/train/bin/python benchmarks/memory.py    # ten minutes on one core, no GPU, 2 GB

One pair in a pass, gradient checkpointing, LoRA of rank 16 on all linear layers. Nothing here was run on a GPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests")]
CARDS = (24, 40, 48, 80, 141)  # GB
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"}
LENGTHS = (512, 1024, 2048)


def main() -> None:
    """Predict each cell: GB with slack, and the smallest card that has as much."""
    from standin_model import MODELS, write_small_files
    from transformers import AutoConfig, AutoTokenizer

    from arms.memory.predict import CUDA_FIXED, Ask, needed, predict

    print("| model | base | " + " | ".join(f"{length} tokens" for length in LENGTHS) + " |")
    print("|---" * (2 + len(LENGTHS)) + "|")
    for model in ("qwen2.5-7b", "qwen2.5-32b"):
        with tempfile.TemporaryDirectory() as folder:
            write_small_files(Path(folder), MODELS[model])
            config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        for precision in ("nf4", "int8", "bf16"):
            cells = []
            for length in LENGTHS:
                what = {"stage": "dpo", "precision": precision, "lora": LORA, "start": "adapter", "device": "cuda"}
                what |= {"accumulates": True, "gradient_checkpointing": True}
                ask = Ask(**what, max_length=length, rows=1)
                size = needed({**predict(config, ask, tokenizer), "fixed": CUDA_FIXED}) / 10**9
                card = next((f"{card}" for card in CARDS if size <= card), "none")
                cells.append(f"{size:.1f} ({card})")
            print(f"| {model} | {precision} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
