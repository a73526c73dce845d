"""One card, ten minutes: bf16, int8 and nf4 through the study's own functions, and the memory plan against the card.

    .envs/train-current/bin/python benchmarks/gpu.py --found gpu.json                    # writes gpu.json and gpu.md
    .envs/train-current/bin/python benchmarks/gpu.py --found cpu.json --device cpu --size tiny

A model of random weights is made on the card, from a seed. Each precision then has a process of its own, which loads it
as every program does, compares its forward pass with the model's own, scores pairs, answers prompts, trains DPO from
the table of its scores (with the gate before the first step), is interrupted and goes on, and runs out of memory beside
a block that leaves too little. What fails is written down, and the next is tried: int8 and nf4 need bitsandbytes, bf16
needs torch, transformers, peft, accelerate, pandas and pyarrow alone. On a CPU no memory is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

LLAMA = {"model_type": "llama", "max_position_embeddings": 2048, "tie_word_embeddings": True}
# The shapes of Qwen2.5-1.5B and 3B; rows of a pass, tokens of an answer.
SIZES: dict[str, dict] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 1000},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936},
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151936},
}  # fmt: skip
WORK = {"tiny": (2, 48, 4), "1.5B": (4, 512, 64), "3B": (4, 512, 64)}  # rows in a pass, tokens of a row and an answer
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"}
STEPS, INTERRUPTED = 4, 2  # optimiser steps of a training, and the one after which it stops
ROOM = 1.25  # of what training needed beside the weights, while memory has to run out
PRECISIONS = ("bf16", "int8", "nf4")
SECONDS = 115  # that one process may take


def main() -> None:
    """Make the model, plan, try each precision, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--found", type=Path, required=True, help="output, JSON; the table beside it ends in .md")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=SIZES, default="1.5B", help="shape of the model")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--part", help=argparse.SUPPRESS)  # a process of this program's own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cards = "" if args.device == "cpu" or args.part == "plan" else os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = cards.partition(",")[0]  # with several, the Trainer would spread over them
    if args.part:
        from arms.job.files import exit_with_message

        exit_with_message(lambda: run_part(args))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        found: dict[str, Any] = {"device": args.device, "size": args.size, "machine": process(args, "machine")}
        if "error" in found["machine"]:
            sys.exit(f"error: {found['machine']['error']}")
        found["plan"] = process(args, "plan")
        found["measured"] = {precision: process(args, precision) for precision in args.precisions}
    found["seconds"] = round(time.monotonic() - began)
    args.found.write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    args.found.with_suffix(".md").write_text(text)
    print(text, end="")


def process(args: argparse.Namespace, part: str) -> dict[str, Any]:
    """What a part found, in a process of its own; with `error` if it did not end well, beside what it had by then."""
    out = args.folder / f"{part}.json"
    command = [sys.executable, __file__, "--found", out, "--device", args.device, "--size", args.size]
    command += ["--part", part, "--folder", args.folder, "--precisions", *args.precisions]
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=SECONDS)
        said = "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")
    except subprocess.TimeoutExpired:
        said = f"took more than {SECONDS} s"
    found = json.loads(out.read_text()) if out.exists() else {}
    return {**found, "error": said.splitlines()[-1].removeprefix("error: ")} if said else found


def run_part(args: argparse.Namespace) -> None:
    """One of the processes: "machine", "plan" or a precision."""
    parts: dict[str, Callable] = {"machine": make_model, "plan": plan}
    if args.part in parts:
        args.found.write_text(json.dumps(parts[args.part](args)))
    else:
        Trial(args).run()


def make_model(args: argparse.Namespace) -> dict[str, object]:
    """Make the random model in `folder`, described as fetch_model does; returns what card and libraries these are."""
    from importlib.metadata import version

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from arms.job.files import UserError, write_json
    from arms.model.base_card import describe_base
    from arms.model.cards import unsupported
    from arms.model.tiny import TOKENIZERS, write_tokenizer
    from arms.stacks import NAME, stack

    card = None
    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"torch {torch.__version__} sees no GPU; --device cpu --size tiny tries the program without"
            )
        card = torch.cuda.get_device_properties(0)
        refused = unsupported(card.name, (card.major, card.minor), torch.cuda.get_arch_list())
        if refused:
            raise UserError(refused)
    weights = args.folder / "weights"
    weights.mkdir()
    ids = write_tokenizer(TOKENIZERS["llama"], 300, ["a text of a few words"], weights)
    special = {"bos_token_id": ids["<|im_start|>"], "eos_token_id": ids["<|im_end|>"]}
    config = AutoConfig.for_model(**LLAMA, **SIZES[args.size], **special, pad_token_id=ids["<|endoftext|>"])
    torch.manual_seed(0)
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(config, **{stack.DTYPE: torch.bfloat16})
    model.save_pretrained(weights)
    described, _ = describe_base({"source": "random", "precision": "bf16"}, weights)
    write_json(args.folder / "model.json", described)
    return {
        "card": card and f"{card.name}, {card.total_memory / 1e9:.0f} GB, compute capability {card.major}.{card.minor}",
        "parameters": described["parameters"],
        "stack": NAME,
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }


def plan(args: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Bytes that the plan predicts, precision -> stage, without what a process holds before any model."""
    from arms.data.tokens import load_tokenizer
    from arms.memory.predict import Ask, predict
    from arms.model.architecture import read_config

    rows, length, new = WORK[args.size]
    config, tokenizer = read_config(args.folder / "weights"), load_tokenizer(args.folder / "model.json")
    found: dict[str, dict[str, int]] = {}
    for precision in args.precisions:
        shared = {"precision": precision, "lora": LORA, "start": "adapter", "device": args.device}
        shared |= {"max_length": length, "rows": rows, "new_tokens": new}
        found[precision] = {}
        for stage, name in (("score_pairs", "score"), ("generate", "generate"), ("dpo", "train")):
            parts = predict(config, Ask(stage=stage, gradient_checkpointing=stage == "dpo", **shared), tokenizer)
            found[precision][name] = sum(parts.values()) - (0 if stage == "dpo" else parts["adapter"])  # of the base
    return found


class Trial:
    """All that is tried in one precision. `found` is written after each of its sections."""

    def __init__(self, args: argparse.Namespace) -> None:
        from arms.data.tokens import load_tokenizer
        from arms.job.files import read_json
        from arms.job.manifest import Job

        self.args, self.found = args, dict[str, dict]()
        self.rows, self.length, self.new = WORK[args.size]
        self.card, self.tokenizer = args.folder / "model.json", load_tokenizer(args.folder / "model.json")
        self.described = read_json(self.card)
        asked = {"rule": "gpu", "settings": {}}
        self.job = Job(SimpleNamespace(job=asked, manifest="", lock=None, inputs={}, outputs={}))  # type: ignore
        new = self.length - 1  # as long as the plan takes all to be, and without a common beginning of the two sides
        self.pairs = [
            {"id": f"p{n}", "prompt_ids": [260], "chosen_ids": [200 + n] * new, "rejected_ids": [100 + n] * new}
            for n in range(64)
        ]

    def run(self) -> None:
        """Every section; one that fails says why, and those after it are tried."""
        from arms.job.files import UserError

        sections = (self.load, self.score, self.generate, self.train, self.resume, self.run_out)
        for section in sections:
            name = section.__name__
            self.found[name] = {}
            try:
                with self.measured(self.found[name]):
                    self.found[name] |= section() or {}
            except Exception as error:  # a kernel that this card has not, a library that is not there, memory
                self.found[name] |= {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
                if section == self.load:
                    raise UserError(self.found[name]["error"]) from None
            self.args.found.write_text(json.dumps(self.found))

    @contextmanager
    def measured(self, found: dict) -> Iterator[None]:
        """Put seconds, and the peak of allocated GPU memory (on a CPU None), into `found`."""
        import torch

        gpu, began = self.args.device == "cuda", time.monotonic()
        gc.collect()  # a trainer and its model refer to each other
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            if gpu:
                torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() if gpu else None
            found |= {"seconds": round(time.monotonic() - began, 3), "peak_bytes": peak}

    def load(self) -> dict:
        """The base, and how far our forward pass is from the model's own (nats per token, by form of row)."""
        from arms.model import models
        from arms.scoring.agreement import check_forward, compare
        from arms.scoring.policy import Policy

        self.dtype = models.compute_dtype(self.args.part)
        self.base = models.load_base(self.card, self.args.part).eval()
        check_forward(self.base, self.dtype)
        self.policy = Policy(self.base, self.tokenizer, self.dtype, self.described, None)
        return {"agreement": compare(self.base, self.dtype)}

    def score(self) -> dict:
        """Reference log-probabilities of what will be trained on, and pairs a second."""
        from arms.scoring.tables import score

        began, scored = time.monotonic(), list[dict]()
        for first in range(0, STEPS * self.rows, self.rows):
            scored += score(self.policy, self.pairs[first : first + self.rows], self.rows)
        self.reference = {row["pair_id"]: row for row in scored}
        return {"pairs_per_second": round(len(scored) / (time.monotonic() - began), 2)}

    def generate(self) -> dict:
        """Greedy answers to prompts as long as a row may be, and tokens a second."""
        from arms.scoring.generation import Generator

        settings = {"batch_size": self.rows, "max_new_tokens": self.new, "samples": 1, "temperature": 0.0, "top_p": 1.0}
        generator, began = Generator(self.policy, {**settings, "seed": 1}), time.monotonic()
        prompts = [{"id": row["id"], "prompt_ids": [260, *row["chosen_ids"]]} for row in self.pairs[: self.rows]]
        samples = generator.samples(prompts)
        for _ in generator.rounds(samples):
            pass
        tokens = sum(len(sample.ids) for sample in samples)
        return {"tokens_per_second": round(tokens / (time.monotonic() - began), 1), "tokens": tokens}

    def train_to(self, folder: str, stop: int | None = None) -> tuple[dict, dict]:
        """(trained tensors, facts) of DPO from the base; stop: after which step it is interrupted."""
        from transformers import TrainerCallback

        from arms.data.token_rows import TokenRows
        from arms.model import models
        from arms.training.checkpoints import Checkpoints
        from arms.training.dpo import check_step0
        from arms.training.loop import train
        from arms.training.pairs import with_reference
        from arms.training.recipe import Recipe
        from arms.training.trainer import build_trainer

        class Interrupt(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop |= state.global_step == stop

        policy = models.new_adapter(self.base, LORA, seed=0)
        models.prepare_training(policy, 0.0, gradient_checkpointing=True)
        recipe = Recipe.for_memory("dpo", self.rows, self.rows, self.length, True)
        rows = with_reference(TokenRows.of(self.pairs[: STEPS * self.rows]), self.reference, "sigmoid")
        trainer = build_trainer(recipe, policy, self.tokenizer, rows, self.dtype)
        step0 = check_step0(trainer)
        trainer.add_callback(Interrupt())
        checkpoints = Checkpoints(self.args.folder / self.args.part / folder, 0, self.job, {})
        train(trainer, self.job, checkpoints, ["loss"])
        checkpoints.alive.close()
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in models.trainable(policy).items()}
        speed = [row["tokens_per_second"] for row in trainer.curves.speed]
        policy.zero_grad(set_to_none=True)
        policy.unload()
        facts = {"step0_loss": step0["loss"], "losses": [row["loss"] for row in trainer.curves.rows]}
        return tensors, {**facts, "tokens_per_second": round(max(speed), 1)}

    def train(self) -> dict:
        """DPO steps on the worst rows."""
        self.trained, facts = self.train_to("whole")
        return facts

    def resume(self) -> dict:
        """The same, interrupted, from its checkpoint: how far from the training that was not."""
        self.train_to("stopped", stop=INTERRUPTED)
        tensors, _ = self.train_to("stopped")
        apart = max((tensors[name] - tensor).abs().max().item() for name, tensor in self.trained.items())
        return {"same_bytes": apart == 0.0, "largest_difference": apart}

    def run_out(self) -> dict:
        """The ladder of micro-batches beside a block that leaves too little memory for the first of them."""
        import torch

        from arms.memory.probe import attempt
        from arms.model import models

        block = None
        if self.args.device == "cuda":
            needed = self.found["train"]["peak_bytes"] - torch.cuda.memory_allocated()
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            block = torch.empty(max(0, free - int(ROOM * needed)), dtype=torch.uint8, device="cuda")
        policy = models.new_adapter(self.base, LORA, seed=0)
        models.prepare_training(policy, 0.0, gradient_checkpointing=True)
        settings = {"stage": "dpo", "gpus": 1, "gradient_checkpointing": True, "precision": self.args.part}
        attempts = []
        for size in (8 * self.rows, 2 * self.rows, self.rows, 1):
            rung = {"micro_batch_size": size, "max_length": self.length}
            found = attempt(policy, self.tokenizer, self.pairs, rung, {**settings, "batch_size": size})
            attempts.append({"micro_batch_size": size, **found})
            if found["fits"]:
                break
        del block
        return {"attempts": attempts}


def table(found: dict) -> str:
    """What was found, as a page."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    where = machine["card"] or "a CPU"
    lines = [
        f"{machine['parameters'] / 1e9:.2f} B parameters on {where}; {versions}; {found['seconds']} s.",
        "",
        "| precision | section | planned GB | peak GB | plan | s | |",
        "|---|---|---|---|---|---|---|",
    ]
    for precision, sections in found["measured"].items():
        for name, facts in sections.items():
            if name == "error":
                lines.append(f"| {precision} | | | | | | {facts} |")
                continue
            planned, peak = found["plan"].get(precision, {}).get(name), facts["peak_bytes"]
            cells = [f"{size / 1e9:.2f}" if size else "" for size in (planned, peak)]
            cells.append(f"{planned / peak - 1:+.1%}" if planned and peak else "")
            lines.append(f"| {precision} | {name} | {' | '.join(cells)} | {facts['seconds']:.1f} | {words(facts)} |")
    return "\n".join(lines) + "\n"


def words(facts: dict) -> str:
    """What one section found, in a few words."""
    if "error" in facts:
        return f"failed: {facts['error']}"
    said = [f"{facts[name]} {name.replace('_per_', ' per ')}" for name in facts if "_per_" in name]
    if "agreement" in facts:
        said.append(f"forward pass within {max(facts['agreement'].values()):.4f} nats per token of the model's own")
    if "step0_loss" in facts:
        said.append(f"step-0 loss {facts['step0_loss']:.6f}")
    if "same_bytes" in facts:
        equal, apart = facts["same_bytes"], facts["largest_difference"]
        said.append("resumed to the byte" if equal else f"resumed, {apart:.1e} apart")
    for tried in facts.get("attempts", []):
        said.append(f"{tried['micro_batch_size']} pairs {'fit' if tried['fits'] else 'out of memory'}")
    return ", ".join(said)


if __name__ == "__main__":
    main()
