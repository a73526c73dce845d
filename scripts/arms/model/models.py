"""The base model, its precision, and LoRA adapters: loaded the same way by every arm, checked against model.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arms.job import processes
from arms.job.files import UserError, atomic_path, read_json, sha256_file, write_json
from arms.model import quantization
from arms.model.architecture import read_config
from arms.model.loader import load_known
from arms.stacks import NAME, stack

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FROZEN = "frozen"  # name of the SFT adapter below a fresh one
# What PEFT adds to a configuration where a model's experts are one tensor.
OF_EXPERTS = {"target_parameters", "rank_pattern", "alpha_pattern"}


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of matrix products: fp32 in "fp32", bfloat16 (autocast) in "bf16", "int8" and "nf4"."""
    import torch

    return torch.float32 if precision == "fp32" else torch.bfloat16


def load_base(model: str | Path, precision: str) -> PreTrainedModel:
    """The frozen base model: the weights beside `model` (model.json), on the GPU if there is one.

    precision: "fp32", "bf16", "int8" or "nf4" (arms/model/quantization.py says where). Every file is hashed and
    compared with model.json first, so weights that changed under the pipeline are an error; so are other ones that a
    user's loader (arms/model/loader.py) makes of them. Raises UserError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if precision in quantization.QUANTIZED:
        quantization.require(precision)
    card, weights = read_json(model), Path(model).parent / "weights"
    for name, entry in card["files"].items():
        if not (weights / name).is_file() or sha256_file(weights / name) != entry["sha256"]:
            raise UserError(
                f"{weights / name}: missing or changed since the rule fetch_model checked it; "
                f"delete {Path(model).parent} and run the same command again"
            )
    stack.quiet()
    options: dict[str, object] = {stack.DTYPE: compute_dtype(precision)}
    if precision in quantization.QUANTIZED:
        options["quantization_config"] = quantization.settings(precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and processes.size() > 1:
        device = f"cuda:{processes.rank()}"
    if "loader" in card:
        base = load_known(weights, card["loader"], precision, device)
    else:
        base = AutoModelForCausalLM.from_pretrained(
            str(weights),
            config=read_config(weights),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            device_map={"": device},
            **options,
        )
    base.requires_grad_(False)
    if precision in quantization.QUANTIZED and device == "cpu":
        quantization.hold(base)
    return base


def new_adapter(base: PreTrainedModel, lora: dict, seed: int) -> PeftModel:
    """A fresh LoRA adapter on `base`; its B matrices are zero, so the policy still equals the base.

    lora: rank, alpha, dropout, target_modules. The seed is set before the adapter is made: TRL and transformers set it
    only afterwards, and all seeds would then start from one initialisation.
    """
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(seed)
    return get_peft_model(base, lora_config(lora))


def lora_config(lora: dict) -> LoraConfig:
    """PEFT's configuration of the adapter that all arms train."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        bias="none",
        task_type="CAUSAL_LM",
    )


def read_arm(arm: str | Path, card: dict) -> dict:
    """arm.json of an adapter, after checking it: UserError if the base is another one or the weights changed."""
    identity, weights = read_json(arm), Path(arm).parent / ADAPTER
    cure = f"delete {Path(arm).parent.parent} and run the same command again"
    if identity["model_sha256"] != card["sha256"]:
        raise UserError(
            f"{arm}: this adapter was trained on the base model {identity['model_sha256'][:12]}, "
            f"not on {card['sha256'][:12]}; {cure}"
        )
    if (trained_on := identity.get("stack", "pinned")) != NAME:
        raise UserError(
            f"{arm}: this adapter was trained with `stack: {trained_on}`, and this job runs on {NAME}, whose PEFT may "
            f"read it otherwise. A study has one stack: give this one a name of its own, or {cure}"
        )
    for path, key in ((weights, "adapter_sha256"), (weights.with_name(CONFIG), "config_sha256")):
        if not path.is_file() or sha256_file(path) != identity[key]:
            raise UserError(f"{path}: missing or changed since it was trained; {cure}")
    return identity


def load_adapter(base: PreTrainedModel, arm: str | Path, trainable: bool = False) -> PeftModel:
    """The adapter beside `arm` (arm.json) on `base`; check it with `read_arm` first."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(Path(arm).parent), is_trainable=trainable)


def stack_adapter(base: PreTrainedModel, arm: str | Path, lora: dict, seed: int) -> PeftModel:
    """A fresh trainable adapter on top of the frozen one beside `arm`: the policy still equals that arm's.

    Nothing is merged, so it is exact on a quantized base too, where a merge would round the sum.
    """
    from peft import PeftModel

    return add_to_stack(PeftModel.from_pretrained(base, str(Path(arm).parent), adapter_name=FROZEN), lora, seed)


def add_to_stack(model: PeftModel, lora: dict, seed: int) -> PeftModel:
    """A fresh trainable adapter on top of the adapter FROZEN of `model`."""
    from transformers import set_seed

    frozen = model.peft_config[FROZEN]
    modules = sorted(frozen.target_modules)  # all-linear would now match the frozen adapter as well
    fresh_config = lora_config({**lora, "target_modules": modules})
    for name in OF_EXPERTS & vars(frozen).keys():
        setattr(fresh_config, name, getattr(frozen, name))
    set_seed(seed)
    model.add_adapter("default", fresh_config)
    model.base_model.set_adapter([FROZEN, "default"])
    for name, parameter in model.named_parameters():
        fresh = "lora_" in name and f".{FROZEN}." not in name
        parameter.requires_grad_(fresh)  # set_adapter turned both on
        if fresh:  # add_adapter leaves it in the dtype of the base; get_peft_model makes it fp32, as in the other arm
            parameter.data = parameter.data.float()
    return model


def start_of_dpo(base: PreTrainedModel, arm: str | Path | None, settings: dict, seed: int) -> PeftModel:
    """The policy that DPO starts from: the adapter beside `arm`, checked by `read_arm`, or without one the base.

    settings: lora, and start: "adapter" goes on training that adapter, "fresh" stacks a new one on it.
    """
    if arm is None:
        return new_adapter(base, settings["lora"], seed)
    if settings["start"] == "fresh":
        return stack_adapter(base, arm, settings["lora"], seed)
    return load_adapter(base, arm, trainable=True)


def joined_state(model: PeftModel) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, adapter_config) of the policy's adapter; a stack becomes one adapter of the sum of both ranks.

    B2 A2 + B1 A1 = [B1 B2] [A1; A2] exactly, and alpha / rank stays what it was, so the one adapter is the same policy.
    Where experts are one tensor (transformers 5), A is (experts, rank, in) and B (out, rank, experts).
    """
    import torch
    from peft import get_peft_model_state_dict

    config = model.peft_config["default"].to_dict()
    alone = {"save_embedding_layers": False}  # the base's embedding is not part of an adapter, even on top of it
    tensors = get_peft_model_state_dict(model, adapter_name="default", **alone)
    if FROZEN in model.peft_config:
        frozen = get_peft_model_state_dict(model, adapter_name=FROZEN, **alone)
        for name, tensor in tensors.items():
            experts = getattr(model.get_submodule(name.partition(".lora_")[0]), "num_experts", 1)
            first = "lora_A" in name or "lora_embedding_A" in name
            shape = (experts, -1, tensor.shape[1]) if first else (tensor.shape[0], -1, experts)
            both = torch.cat([part.reshape(shape) for part in (frozen[name], tensor)], dim=1)
            tensors[name] = both.reshape((-1, tensor.shape[1]) if first else (tensor.shape[0], -1))
        config["r"], config["lora_alpha"] = 2 * config["r"], 2 * config["lora_alpha"]
        for pattern in ("rank_pattern", "alpha_pattern"):
            config[pattern] = {name: 2 * value for name, value in config[pattern].items()}
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, config


def save_adapter(model: PeftModel, arm: str | Path, identity: dict) -> dict:
    """Write adapter_model.safetensors, adapter_config.json and, last, `arm` (arm.json) into one folder.

    identity: arm, seed, parent_sha256, model_sha256, tokens_sha256. Returns it with the sha256 of both files.
    """
    from safetensors.torch import save_file

    folder = Path(arm).parent
    tensors, config = joined_state(model)
    config["base_model_name_or_path"] = None  # an absolute path
    config["inference_mode"] = True
    for name in ("target_modules", "target_parameters"):
        if isinstance(config.get(name), set | list):  # a set, in an order that changes from run to run
            config[name] = sorted(config[name])
    write_json(folder / CONFIG, config)
    with atomic_path(folder / ADAPTER) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    identity = {
        **identity,
        **stack.IDENTITY,
        "adapter_sha256": sha256_file(folder / ADAPTER),
        "config_sha256": sha256_file(folder / CONFIG),
    }
    write_json(arm, identity)
    return identity


def adapter_files(arm: str | Path) -> dict[str, Path]:
    """Where the adapter of `arm` (arm.json) lies: its weights, and PEFT's configuration."""
    return {"weights": Path(arm).with_name(ADAPTER), "config": Path(arm).with_name(CONFIG)}


def prepare_training(model: PeftModel, dropout: float, gradient_checkpointing: bool) -> None:
    """What must be alike in all arms before a Trainer gets the model.

    TRL prepares a model only if it also gets a peft_config, which would merge an SFT adapter, and it turns dropout off
    in DPO but not in SFT; so both are done here. Dropout: `dropout` in the adapter that is trained, none anywhere else.
    Gradient checkpointing: the inputs must require gradients. The norms and the head of a quantized base stay bfloat16.
    """
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout if name.endswith("lora_dropout.default") else 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    if gradient_checkpointing:
        model.enable_input_require_grads()
    model.train()


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trainable_facts(model: PeftModel) -> dict:
    """What training will really touch: counts and dtypes of what is trained, dtypes of the base, dropout in effect.

    The frozen adapter below a fresh one belongs to where an arm starts; in it alone arms differ.
    """
    import torch

    modules = list(model.modules())
    trained = list(trainable(model).values())
    frozen = [p for name, p in model.named_parameters() if not p.requires_grad and f".{FROZEN}." not in name]
    dropouts = [m.p for m in modules if isinstance(m, torch.nn.Dropout)]
    dropouts += [m.attention_dropout for m in modules if isinstance(getattr(m, "attention_dropout", None), float)]
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "trainable_dtypes": sorted({str(p.dtype) for p in trained}),
        "frozen_dtypes": sorted({str(p.dtype) for p in frozen}),
        "dropout": max(dropouts, default=0.0),
        "gradient_checkpointing": any(getattr(m, "gradient_checkpointing", False) for m in modules),
    }


def trainable_digest(model: PeftModel) -> str:
    """sha256 over the names and bytes of all trainable parameters: tells whether training moved anything."""
    import hashlib

    digest = hashlib.sha256()
    for name, parameter in sorted(trainable(model).items()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
