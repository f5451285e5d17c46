"""What a pool's processes are forked from: ``python -m lightning_modules.sweep.pool_server SOCKET [FUNCTION]``.

It imports what a job needs and calls nothing that starts a thread or a device: neither would survive a fork.
Started by `lightning_modules.sweep.pool.Pool`; ends when that one's end of the socket is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import glob
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from lightning_modules.hardware.process import prepare

IMPORTS = (
    "lightning_modules.run",
    "lightning_modules.sweep.estimate",
    "sklearn.datasets",
    "torch._dynamo",  # a first optimizer would
    "torch.distributed.launcher.api",
    "zoo.costs.fingerprint",
    "zoo.report",
)


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request, and answers with its number.

    Returns:
        In each process that was forked: its request. In the server, when nobody asks any more: None.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(listener, 100, 4)
        # Who asked may have gone since: nobody would wait for this process.
        if not message or select.select([listener], [], [], 0)[0]:
            return None
        # Forked twice: the second one's parent ends at once, and the pool, not this process, becomes its parent.
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            parent = os.getpid()
            if pid := os.fork():
                os.write(writing, str(pid).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            listener.close()
            while os.getppid() == parent:
                time.sleep(0.001)
            with open(descriptors.pop(), closefd=True) as file:
                file.seek(0)
                request = json.load(file)
            _become(descriptors)
            return request
        os.close(writing)
        for descriptor in descriptors:
            os.close(descriptor)
        os.waitpid(child, 0)
        with open(reading, "rb") as pipe:
            listener.send(pipe.read())


def _become(descriptors: list[int]) -> None:
    """Makes of a fork what a fresh process would be: its own session, input, output and errors."""
    os.setsid()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)


def run(request: dict[str, Any]) -> None:
    """Runs a request's command as its interpreter would, in this process."""
    import torch

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    # OpenMP read the server's environment.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        torch.set_num_threads(int(threads))
    words = request["words"]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def run_and_end(request: dict[str, Any]) -> NoReturn:
    """Runs a request's command and ends as its interpreter would, but at once: to take all apart that was imported
    before the fork would take a job half a second, and copy it first."""
    code: object = 0
    try:
        run(request)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((code or 0) & 0xFF)


def warm_up(function: str | None) -> None:
    """Imports, and calls a function that does what every command would do first."""
    prepare("wandb")
    for name in IMPORTS:
        importlib.import_module(name)
    if function:
        pkgutil.resolve_name(function)()
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise SystemExit(f"pool: {threads} threads run after the imports, and a fork would lose all but one.")
    if any("nvidia-uvm" in os.path.realpath(link) for link in glob.glob("/proc/self/fd/*")):
        raise SystemExit("pool: CUDA was started by the imports, and no fork could use it.")
    gc.collect()
    gc.freeze()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Nobody is told when the one who asks has gone while this process imports.
    with contextlib.suppress(ConnectionError):
        listener = socket.socket(fileno=int(sys.argv[1]))
        warm_up(*sys.argv[2:] or [None])
        if request := serve(listener):
            del listener
            run_and_end(request)


if __name__ == "__main__":
    main()
