"""Rule check_node: what one node tells the doctor. Runs where a job of its kind would run.

    python scripts/check_node.py --login login.json --lock envs/train.yaml --kind gpu --gpus 1 \
        --model '{"source": "path", "path": "/data/models/my-model", "precision": "int8"}' \
        --weights results/mine/model/weights --cpu-instructions native --found gpu.json
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import sys
import time
from pathlib import Path

from arms.job.files import UserError, exit_with_message, read_json
from arms.job.manifest import check_versions, cpu_class
from arms.model.cards import unsupported
from arms.model.findings import Findings, model_findings
from arms.model.quantization import QUANTIZED
from arms.stacks import stack


def main() -> None:
    """Check the node and write what was found; the doctor judges it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--login", required=True, help="what check_login wrote")
    parser.add_argument("--lock", required=True, help="envs/train.yaml, whose pins must be what is installed")
    parser.add_argument("--kind", required=True, help="kind of node: cpu or gpu")
    parser.add_argument("--gpus", type=int, required=True, help="GPUs that the job was given")
    parser.add_argument("--model", type=json.loads, required=True, help="the config's model section, JSON")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the model once it was fetched")
    parser.add_argument("--cpu-instructions", required=True, help="the config's cpu_instructions")
    parser.add_argument("--found", required=True, help="output: what was found, JSON")
    args = parser.parse_args()

    job = os.environ.get("SLURM_JOB_ID")
    found = Findings(f"{args.kind} node {platform.node()}" + f" (SLURM job {job})" * bool(job))
    login = read_json(args.login)
    same = os.path.realpath(login["folder"]) == os.path.realpath(os.getcwd())
    found.add(
        same,
        "folder",
        f"sees {os.getcwd()} and a file written {time.time() - login['written']:.0f} s ago",
        f"works in {os.getcwd()}, not in {login['folder']}; put the folder on a file system that all nodes share",
    )
    lock_findings(Path(".snakemake/alive.lock"), found)
    environment_findings(args.lock, found)
    cpu = cpu_class()
    enough = args.cpu_instructions == "native" or cpu.endswith(("avx2", "avx512f"))
    found.add(enough, "processor", cpu, f"{cpu}; cpu_instructions {args.cpu_instructions!r} needs AVX2")
    precision = args.model.get("precision", "fp32")
    if args.gpus:
        gpu_findings(args.gpus, precision, found)
    elif precision in QUANTIZED and stack.QUANTIZES_ON_CPU:
        bitsandbytes_findings(precision, "cpu", found)
    files = list(args.weights.glob("*"))
    if files:
        gone = [path.name for path in files if not path.is_file()]
        found.add(
            not gone,
            "model",
            f"{len(files)} files of {args.weights} can be read",
            f"{args.weights}: {', '.join(gone)} cannot be read here; the folder or hub cache that they link to "
            "must be on a file system that all nodes share (HF_HOME for the hub)",
        )
    else:
        model_findings(args.model, found, node=True)
    print(found.text(), flush=True)
    found.write(args.found)


def lock_findings(alive: Path, found: Findings) -> None:
    """Does a lock that the driver holds on its machine keep this node out?"""
    try:
        with alive.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        found.add(True, "locks", "the driver's lock is seen here")
    else:
        found.add(
            None,
            "locks",
            "the driver's lock is not seen here (mounted without flock): start this study from one machine only",
        )


def environment_findings(lock: str, found: Findings) -> None:
    """The rules' environment, as locked, and whether its libraries load."""
    try:
        versions, off = check_versions(lock)
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
        import trl  # noqa: F401
    except UserError as error:
        found.add(False, "environment", str(error))
    except Exception as error:  # an import fails in as many ways as there are libraries
        found.add(False, "environment", f"{sys.prefix}: {type(error).__name__}: {error}; run `make setup` again")
    else:
        text = f"{sys.prefix}: {len(versions)} packages as locked, torch, TRL and bitsandbytes load"
        found.add(None if off else True, "environment", text + f"; {len(off)} off the lock, allowed" * bool(off))


def gpu_findings(gpus: int, precision: str, found: Findings) -> None:
    """CUDA, the cards, and for int8 and nf4 a matrix product of bitsandbytes on a card."""
    import torch

    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        found.add(
            False,
            "GPU",
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees none (CUDA_VISIBLE_DEVICES: {visible}): "
            "the node has no NVIDIA driver >= 525.60 (`srun --gpus=1 nvidia-smi` tells), or the job got no GPU",
        )
        return
    count = torch.cuda.device_count()
    cards = [torch.cuda.get_device_properties(number) for number in range(count)]
    names = ", ".join(f"{card.name} {card.total_memory / 1e9:.0f} GB" for card in cards)
    found.add(count >= gpus, "GPU", names, f"{names}; the study asks for {gpus}")
    refused = [unsupported(card.name, (card.major, card.minor), torch.cuda.get_arch_list()) for card in cards]
    found.add(not any(refused), "kernels", "this torch has some for them", "; ".join(filter(None, refused)))
    if precision != "fp32":
        cure = f"{names} cannot; set model.precision to fp32"
        found.add(torch.cuda.is_bf16_supported(), "bfloat16", "supported", cure)
    if precision in QUANTIZED:
        bitsandbytes_findings(precision, "cuda", found)


def bitsandbytes_findings(precision: str, device: str, found: Findings) -> None:
    """One quantized layer on the device, compared with the layer it was made from."""
    import torch

    try:
        from bitsandbytes import nn

        torch.manual_seed(0)
        exact = torch.nn.Linear(256, 256, bias=False)
        layer = (
            nn.Linear8bitLt(256, 256, bias=False, has_fp16_weights=False)
            if precision == "int8"
            else nn.Linear4bit(256, 256, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
        )
        layer.load_state_dict(exact.state_dict())
        layer = layer.to(device)
        batch = torch.randn(8, 256)
        with torch.no_grad():
            error = (layer(batch.to(device).bfloat16()).float().cpu() - exact(batch)).norm() / exact(batch).norm()
    except Exception as error:  # a missing library, a wrong CUDA, an old card: each has its own exception
        text = f"{precision} does not work here: {type(error).__name__}: {error}; `python -m bitsandbytes` explains"
        found.add(False, "bitsandbytes", text)
        return
    where = "card" if device == "cuda" else "processor"
    text = f"an {precision} layer on the {where} differs from the exact one by {error:.1%}"
    found.add(bool(error < 0.2), "bitsandbytes", text)


if __name__ == "__main__":
    exit_with_message(main)
