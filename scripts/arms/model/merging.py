"""An adapter merged into its base, W + (alpha / rank) B A, and written as a model folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import write_json
from arms.model.sources import require_space
from study.base_files import INDEX

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, GENERATION = "config.json", "generation_config.json"
# How far log-probabilities (nats per token) may be from those of base and adapter apart (benchmarks/README.md).
TOLERANCE = {"fp32": 1e-4, "bf16": 0.25}
# How much of what the adapter changes may be lost on average, unless it is less than what rounding makes (nats per
# token). The demo study's SFT changes the probed rows by 0.47 (bf16: 0.39); merging loses 6e-6 of it (bf16: 0.025).
LOST, ROUNDING = 0.25, {"fp32": 1e-5, "bf16": 0.05}


def merge_into(folder: Path, model: PeftModel, weights: Path) -> None:
    """Merge the adapter of `model` into its base, and write what comes of it, as a model, into `folder`.

    The sum is computed in float32 and rounded once, to the dtype that `model` was loaded in. weights: the base's
    folder, whose tokenizer and configuration are taken along (with the torch_dtype of the merged weights).
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import GenerationConfig

    require_space({folder: sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())})
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, BaseTunerLayer):
                weight = layer.get_base_layer().weight
                weight.data = weight.data.float()  # newer versions of PEFT round the product before they add it
                layer.merge(safe_merge=True)  # fails if a weight is no longer finite
                weight.data = weight.data.to(model.dtype)
        merged = model.unload()
    merged.generation_config = GenerationConfig()  # transformers refuses to save some that it loads
    merged.save_pretrained(folder, safe_serialization=True)
    (folder / GENERATION).unlink(missing_ok=True)
    for path in weights.iterdir():
        if path.suffix != ".safetensors" and path.name != INDEX:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((weights / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, {**config, "torch_dtype": str(merged.dtype).removeprefix("torch.")})
