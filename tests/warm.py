"""A python for the jobs of workflow tests: a program of scripts/ runs in a process that has its libraries already.

    python tests/warm.py serve SOCKET VARIABLES LIBRARY [LIBRARY ...]      # in the environment of the programs
    python -IS tests/warm.py ask SOCKET PYTHON PROGRAM [ARGUMENT ...]

`ask` is what Snakemake starts in the place of PYTHON: it hands its arguments, environment, folder, input and output to
`serve`, passes on SIGTERM and SIGINT, and ends as the program ends; if `ask` is killed, so is the program. What is no
program of scripts/, or has another value of one of the VARIABLES (NAME,NAME) than `serve` began with, since libraries
read them when they are loaded, PYTHON runs by itself.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback


def ask(path: str, python: str, *command: str) -> int:
    """Have the program run; return its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        os.execv(python, [python, *command])
    if not command or "/scripts/" not in f"/{command[0]}":
        os.execv(python, [python, *command])
    request = json.dumps([command, os.getcwd(), dict(os.environ), os.getpgid(0)]).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(request)
    answers = connection.makefile()
    process = json.loads(answers.readline())
    if process is None:
        os.execv(python, [python, *command])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(process, number))
    return json.loads(answers.readline() or "1")


def serve(path: str, variables: str, *libraries: str) -> None:
    """Import the libraries, then fork a process for each that asks, for as long as the parent lives."""
    begun_with = {name: os.environ.get(name) for name in variables.split(",")}
    for library in libraries:
        __import__(library)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path + ".new")
    listening.listen(64)
    os.rename(path + ".new", path)
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    parent, running = os.getppid(), {}  # process -> connection to whoever asked for it
    while os.getppid() == parent:
        for key, _ in waiting.select(timeout=5):
            if key.fileobj is listening:
                take(listening, waiting, running, begun_with)
            elif isinstance(key.fileobj, int):  # of a process, which has ended
                end(key, waiting, running)
            elif key.data in running:  # whoever asked was killed
                waiting.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def take(listening: socket.socket, waiting: selectors.BaseSelector, running: dict, begun_with: dict) -> None:
    """Fork the program that somebody asks for, or say that it is not for this process."""
    connection, _ = listening.accept()
    length, files, *_ = socket.recv_fds(connection, 8, 3)
    request = received(connection, int.from_bytes(length, "big"))
    if not request:  # whoever asked was killed
        connection.close()
    elif any(json.loads(request)[2].get(name) != value for name, value in begun_with.items()):
        say(connection, None)
        connection.close()
    else:
        command, folder, environment, group = json.loads(request)
        process = os.fork()
        if process == 0:
            waiting.close()
            listening.close()
            connection.close()
            be(command, folder, environment, files, group)
        say(connection, process)
        running[process] = connection
        waiting.register(connection, selectors.EVENT_READ, process)
        waiting.register(os.pidfd_open(process), selectors.EVENT_READ, process)
    for file in files:
        os.close(file)


def received(connection: socket.socket, length: int) -> bytes:
    """So many bytes, or none if whoever sends them has ended."""
    found = b""
    while len(found) < length:
        more = connection.recv(1 << 20)
        if not more:
            return b""
        found += more
    return found


def say(connection: socket.socket, number: int | None) -> None:
    """A line to whoever asked, if he is still there."""
    with contextlib.suppress(OSError):
        connection.sendall(f"{json.dumps(number)}\n".encode())


def end(key: selectors.SelectorKey, waiting: selectors.BaseSelector, running: dict) -> None:
    """Tell who asked how the process of `key` ended."""
    connection = running.pop(key.data)
    code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
    waiting.unregister(key.fileobj)
    os.close(key.fileobj)
    with contextlib.suppress(KeyError):  # if whoever asked was killed
        waiting.unregister(connection)
    say(connection, code if code >= 0 else 128 - code)
    connection.close()


def be(command: list[str], folder: str, environment: dict[str, str], files: list[int], group: int) -> None:
    """Be the program, and end as Python ends."""
    from forked import become

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    with contextlib.suppress(OSError):  # of another session
        os.setpgid(0, group)
    code = 1
    try:
        become(command, folder, environment)
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if isinstance(done.code, str):
            print(done.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit({"ask": ask, "serve": serve}[sys.argv[1]](*sys.argv[2:]))
