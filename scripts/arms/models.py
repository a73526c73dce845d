"""The base model, its precision, and LoRA adapters: loaded the same way by every arm, checked against model.json."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from arms.files import UserError, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "adapter_model.safetensors"


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads. The bytes of a trained adapter do not depend on it (tests/unit/train/test_dpo.py)."""
    import torch

    torch.set_num_threads(threads)


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of matrix products: fp32 in "fp32", bfloat16 (autocast) in "bf16", "int8" and "nf4"."""
    import torch

    return torch.float32 if precision == "fp32" else torch.bfloat16


def load_base(model: str | Path, precision: str) -> tuple[PreTrainedModel, dict]:
    """(the frozen base model, its card): the weights beside `model` (model.json), on the GPU if there is one.

    precision: "fp32", "bf16", "int8" or "nf4"; quantized ones need CUDA. Every file is hashed and compared with
    model.json first, so weights that changed under the pipeline are an error. Raises UserError.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    card, weights = read_json(model), Path(model).parent / "weights"
    for name, entry in card["files"].items():
        if not (weights / name).is_file() or sha256_file(weights / name) != entry["sha256"]:
            raise UserError(
                f"{weights / name}: missing or changed since the rule fetch_model checked it; "
                f"delete {Path(model).parent} and run the same command again"
            )
    options: dict[str, object] = {"torch_dtype": compute_dtype(precision)}
    if precision in ("int8", "nf4"):
        if not torch.cuda.is_available():
            raise UserError(
                f"model.precision is {precision!r}, which needs a CUDA GPU (bitsandbytes 0.43.3), and none is visible; "
                "run this rule on a GPU node (--profile slurm) or set model.precision to 'fp32'"
            )
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if precision == "int8"
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(
        str(weights),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="sdpa" if card["model_type"] != "gpt2" else "eager",
        device_map={"": device},
        **options,
    )
    base.requires_grad_(False)
    return base, card


def new_adapter(base: PreTrainedModel, lora: dict, seed: int) -> PeftModel:
    """A fresh LoRA adapter on `base`; its B matrices are zero, so the policy still equals the base.

    lora: rank, alpha, dropout, target_modules. The seed is set before the adapter is made: TRL and transformers set it
    only afterwards, and all seeds would then start from one initialisation.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def read_arm(arm: str | Path, card: dict) -> dict:
    """arm.json of an adapter, after checking it: UserError if the base is another one or the weights changed."""
    identity, weights = read_json(arm), Path(arm).parent / ADAPTER
    cure = f"delete {Path(arm).parent.parent} and run the same command again"
    if identity["model_sha256"] != card["sha256"]:
        raise UserError(
            f"{arm}: this adapter was trained on the base model {identity['model_sha256'][:12]}, "
            f"not on {card['sha256'][:12]}; {cure}"
        )
    if not weights.is_file() or sha256_file(weights) != identity["adapter_sha256"]:
        raise UserError(f"{weights}: missing or changed since it was trained; {cure}")
    return identity


def load_adapter(base: PreTrainedModel, arm: str | Path, trainable: bool = False) -> PeftModel:
    """The adapter beside `arm` (arm.json) on `base`; check it with `read_arm` first."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(Path(arm).parent), is_trainable=trainable)


def save_adapter(model: PeftModel, arm: str | Path, identity: dict) -> dict:
    """Write adapter_model.safetensors, adapter_config.json and, last, `arm` (arm.json) into one folder.

    identity: arm, seed, model_sha256, tokens_sha256. Returns it with the adapter_sha256 that it was written with.
    """
    folder = Path(arm).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        config = read_json(Path(temporary) / "adapter_config.json")
        config["base_model_name_or_path"] = None  # PEFT writes an absolute path
        if isinstance(config["target_modules"], list):  # PEFT writes a set, in an order that changes from run to run
            config["target_modules"] = sorted(config["target_modules"])
        write_json(folder / "adapter_config.json", config)
        (Path(temporary) / ADAPTER).replace(folder / ADAPTER)
    identity = {**identity, "adapter_sha256": sha256_file(folder / ADAPTER)}
    write_json(arm, identity)
    return identity


def adapter_files(arm: str | Path) -> dict[str, Path]:
    """The three files of an adapter, for the manifest: `arm` (arm.json), weights, and PEFT's configuration."""
    folder = Path(arm).parent
    return {"adapter": Path(arm), "weights": folder / ADAPTER, "config": folder / "adapter_config.json"}


def prepare_training(model: PeftModel, gradient_checkpointing: bool) -> None:
    """What must be alike in all arms before a Trainer gets the model.

    TRL prepares a model (input gradients, k-bit casts) only if it also gets a peft_config, which would merge an SFT
    adapter; so it is done here, for all arms: with gradient checkpointing the inputs must require gradients.
    """
    if gradient_checkpointing:
        model.enable_input_require_grads()
    model.train()


def trainable_facts(model: PeftModel) -> dict:
    """What training will really touch: counts and dtypes of trainable and frozen parameters, dropout in effect."""
    import torch

    trainable = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    dropouts = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    return {
        "trainable_parameters": sum(p.numel() for p in trainable),
        "trainable_dtypes": sorted({str(p.dtype) for p in trainable}),
        "frozen_dtypes": sorted({str(p.dtype) for p in frozen}),
        "dropout": max(dropouts, default=0.0),
    }


def trainable_digest(model: PeftModel) -> str:
    """sha256 over the names and bytes of all trainable parameters: tells whether training moved anything."""
    import hashlib

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
