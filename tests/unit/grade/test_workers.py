"""Work spread over processes: in order, errors at their place, nothing left behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arms.job.files import UserError
from arms.job.workers import in_order


def squared(number: int) -> tuple[int, int]:
    """The square, and who computed it."""
    if number == 13:
        raise UserError("13 is refused")
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid()


def make():
    return squared


spread = functools.partial(in_order, squared, make=make)


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_few_items_need_no_process(processes):
    found = list(spread(range(12), processes=processes, alone=4))
    assert [square for square, _ in found] == [number**2 for number in range(12)]
    assert {pid for _, pid in found[:4]} == {os.getpid()}
    assert (os.getpid() in {pid for _, pid in found[4:]}) == (processes == 1)


def test_items_are_taken_as_they_are_needed():
    taken = []
    results = spread((taken.append(number) or number for number in range(10**9) if number not in (13, 17)), 2, alone=2)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 4, 9]
    results.close()
    assert len(taken) < 16


def test_an_error_is_raised_at_its_place():
    results = spread(range(5, 16), processes=2, alone=1)
    assert [next(results)[0] for _ in range(8)] == [number**2 for number in range(5, 13)]
    with pytest.raises(UserError, match="13 is refused"):
        next(results)


def test_a_process_that_was_killed_is_said():
    with pytest.raises(UserError, match="was killed, probably for want of memory"):
        list(spread(range(16, 30), processes=2, alone=1))


ENDLESS = """
import itertools, sys
sys.path[:0] = {path}
import test_workers
if __name__ == "__main__":
    for _, pid in test_workers.spread(itertools.repeat(2), processes=2, alone=1):
        print(pid, flush=True)
"""


def test_whatever_ends_the_job_ends_its_processes(tmp_path):
    program = tmp_path / "endless.py"
    program.write_text(ENDLESS.format(path=[str(Path(__file__).parent), *sys.path]))
    job = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    own = {str(job.pid)}
    others = next(pid for line in job.stdout if (pid := line.strip()) not in own)
    job.kill()
    job.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{others}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{others}").exists()
