"""One training run spread over several processes, one for each GPU of one machine.

A step's micro-batches are dealt to the processes in turn, so every step sees the same rows as in one process, and its
update is the same up to rounding. Each process holds the whole policy and sums the gradients of its micro-batches;
before clipping, the adapter's gradients are averaged.

Not DistributedDataParallel: it averages gradients only if its own `forward` was called, and our loss calls the model
inside it (`arms.scoring.logps`). Not torchrun: at SIGTERM it ends with a traceback and exit code 1, and it cannot end
all processes with one message. Random draws (LoRA dropout) differ between processes, so with dropout a run differs from
one in another number of processes by more than rounding.

Run with the gloo backend on CPUs; NCCL, which GPUs use, has not been run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

from arms.job.files import TELL, UserError

LISTENER = "SFT_VS_DPO_LISTENER"  # file descriptor of the socket on which process 0 serves the others
PATIENCE = datetime.timedelta(days=1)  # while process 0 waits for another job's lock, say; a death is seen by `launch`


def spread(args: argparse.Namespace) -> None:
    """Return at once in each of args.processes processes that run this program; the one that starts them ends here.

    One process is this one. Call it first in `main`, and `join` once torch may be imported.
    """
    if args.processes == 1:  # transformers would spread over every GPU that it sees, with a larger batch
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if args.processes > 1 and LISTENER not in os.environ:
        raise SystemExit(launch(args.processes, max(1, args.threads // args.processes)))


def launch(count: int, threads: int) -> int:
    """Run this very command in `count` processes with `threads` CPU threads each; return its exit code.

    Process 0 speaks. The first error, told through a pipe, or the first process to be killed ends all of them at once.
    SIGTERM is passed on.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    told, tell = os.pipe()
    shared = {
        LISTENER: str(listener.fileno()),
        TELL: str(tell),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(listener.getsockname()[1]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(threads),
    }
    running: list[subprocess.Popen] = []

    def stop(*_: object) -> None:
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    errors: list[IO[bytes] | None] = [None, *(tempfile.TemporaryFile() for _ in range(1, count))]  # noqa: SIM115
    for rank, error in enumerate(errors):
        running.append(
            subprocess.Popen(
                [sys.executable, *sys.argv],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                pass_fds=(listener.fileno(), tell),
                stdout=subprocess.DEVNULL if rank else None,
                stderr=error,
            )
        )
    message = ""
    codes: list[int | None] = [None]
    while not message and None in codes and not any(codes):
        if select.select([told], [], [], 0.1)[0]:
            message = os.read(told, 2**16).decode(errors="replace").split("\0")[0]
            time.sleep(0.5)  # for one that was killed, of whose closed connection another one complained
        codes = [process.poll() for process in running]
    for process in running:
        process.kill()
        process.wait()
    rank, code = min(((rank, code) for rank, code in enumerate(codes) if code), key=lambda end: end[1], default=(0, 0))
    if code < 0:  # a signal, as bash reports it
        code = 128 - code
    elif message:
        print(message, file=sys.stderr)
        return 1
    if code and code != 128 + signal.SIGTERM:
        if error := errors[rank]:
            error.seek(0)
            print(error.read()[-4000:].decode(errors="replace"), file=sys.stderr)
        print(f"error: process {rank} of {count} ended with exit code {code}, and so do the others", file=sys.stderr)
    return code


def join() -> None:
    """Become one of the processes that `launch` started: a process group, and a GPU if there are any."""
    if LISTENER not in os.environ:
        return
    import torch

    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        if torch.cuda.device_count() < size():
            raise UserError(f"{size()} GPUs are needed and {torch.cuda.device_count()} are visible; lower gpus")
        torch.cuda.set_device(rank())
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size(),
        rank() == 0,
        timeout=PATIENCE,
        master_listen_fd=int(os.environ[LISTENER]) if rank() == 0 else None,
    )
    torch.distributed.init_process_group(backend, store=store, rank=rank(), world_size=size(), timeout=PATIENCE)


def rank() -> int:
    """The number of this process among those of its run; 0 if it is the only one."""
    return int(os.environ["RANK"]) if LISTENER in os.environ else 0


def size() -> int:
    """How many processes the run is spread over."""
    return int(os.environ["WORLD_SIZE"]) if LISTENER in os.environ else 1


def gather(value: object) -> list:
    """The `value` of every process, by rank. All processes have to call it; what they send each other is pickled."""
    if size() == 1:
        return [value]
    import torch

    values = [None] * size()
    torch.distributed.all_gather_object(values, value)
    return values


def require_alike(value: object, what: str) -> None:
    """UserError unless all processes have the same `value`."""
    if len(set(gather(value))) > 1:
        raise UserError(
            f"{what} differs between the {size()} processes of this run, so they would not train one policy. Are the "
            "GPUs of one model? Run the same command again, or set gpus: 1"
        )
