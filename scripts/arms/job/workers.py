"""Work that is spread over processes of this machine, its results in order: the same for any number of them."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from arms.job.files import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
work_here: Callable[[Any], Any]  # in a worker: what it does


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int,
    make: Callable[[], Callable[[Item], Result]],
    alone: int,
) -> Iterator[Result]:
    """work(item) of each item, in order. From the item number `alone` on, `processes` of them work, if more than one.

    make: gives a new process, which begins from nothing, its own `work`. At most two items for each process are in
    memory. An error of `work` is raised at its place.
    """
    remaining = iter(items)
    yield from map(work, islice(remaining, alone if processes > 1 else None))
    for first in remaining:
        yield from _spread(chain([first], remaining), processes, make)


def _spread(items: Iterator[Item], processes: int, make: Callable[[], Callable[[Item], Result]]) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # Arrow and the tokenizers have threads, which do not survive a fork
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(make,))
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_work, item))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("a process of this job was killed, probably for want of memory; give it more memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], Callable[[Item], Result]]) -> None:
    global work_here
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)  # whatever ends the job ends its processes
    work_here = make()


def _work(item: Item) -> Any:
    return work_here(item)
