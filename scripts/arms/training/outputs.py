"""The files of a training program: what it reads and makes, and how it writes what it has made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError, write_json
from arms.job.program import JobParser
from arms.job.progress import add_checkpoint_arguments
from arms.model import models

if TYPE_CHECKING:
    from transformers import Trainer


def add_training_arguments(parser: JobParser) -> None:
    """The flags that both training programs share."""
    parser.input("model", help="model.json of the base model")
    parser.output("adapter", help="arm.json: which adapter lies beside it (output)")
    parser.output("weights", help=f"{models.ADAPTER} beside arm.json (output)")
    parser.output("config", help=f"{models.CONFIG} beside arm.json (output)")
    parser.output("curves", help="one row an optimiser step (output)")
    parser.output("speed", help="tokens and seconds of each step (output)")
    parser.output("observed", help="what training really used (output)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of all processes together")
    parser.add_argument("--checkpoints", required=True, metavar="DIR", help="where checkpoints lie")
    add_checkpoint_arguments(parser)
    parser.add_argument("--processes", type=int, default=1, help="processes that share a step's work, one for each GPU")


def check_outputs(args: argparse.Namespace) -> None:
    """UserError unless weights and configuration go where PEFT will look for them: beside arm.json."""
    for flag, asked in models.adapter_files(args.adapter).items():
        if Path(getattr(args, flag)) != asked:
            raise UserError(f"--{flag} is {getattr(args, flag)}, but PEFT reads it from {asked}, beside --adapter")


def write_outputs(args: argparse.Namespace, trainer: Trainer, identity: dict, **observed: object) -> None:
    """Write the adapter, the curves and observed.json.

    trainer: or the loop of arms/training/minimal.py. identity: arm, seed, parent_sha256, model_sha256, tokens_sha256.
    observed: what training really used.
    """
    identity = models.save_adapter(trainer.model, args.adapter, identity)
    trainer.curves.write(args.curves, args.speed, trainer.state.log_history)
    write_json(args.observed, {**identity, **observed})
