"""Serve forks of a warm Python process: ``python -m lightning_modules.sweep.pool_server SOCKET [FUNCTION]``.

The function imports what a job needs, and starts neither a thread nor a device: neither would survive a fork.
`lightning_modules.sweep.pool.Pool` starts it; it exits when the pool closes its end of the socket.
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
    "torch._dynamo",  # the first optimizer of a process imports it
    "torch.distributed.launcher.api",
    "zoo.costs.fingerprint",
    "zoo.report",
)


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request and answer with its process id.

    Returns:
        In a forked process: its request. In the server: None, once the pool has closed the connection.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(listener, 100, 4)
        # The pool may have closed the socket after its request; no process would wait for the fork.
        if not message or select.select([listener], [], [], 0)[0]:
            return None
        # Double fork: the intermediate process exits at once, so that the pool, not this server, becomes the parent.
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
    """Give a forked process its own session, stdin, stdout and stderr."""
    os.setsid()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)


def run(request: dict[str, Any]) -> None:
    """Run a request's command in this process as a fresh interpreter would."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if (torch := sys.modules.get("torch")) and (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        # OpenMP has already read the server's environment.
        torch.set_num_threads(int(threads))
    words = request["words"]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def run_and_end(request: dict[str, Any]) -> NoReturn:
    """Run a request's command and exit with an interpreter's exit code, but without tearing down modules.

    Tearing down what was imported before the fork takes half a second per job and first copies the shared pages.
    """
    code: object = 0
    try:
        run(request)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # whatever the command raises, as in an interpreter
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # waits for non-daemon threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((code or 0) & 0xFF)


def import_training() -> None:
    """Import what every training command needs, so that its forks need not."""
    # scikit-learn imports pandas, and that pyarrow, whose allocator would start a thread.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    prepare("wandb")
    for name in IMPORTS:
        importlib.import_module(name)


def check_can_fork() -> None:
    """Exit if this process has started a thread or CUDA, which no fork could use."""
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise SystemExit(f"pool: {threads} threads run after the imports, and a fork would lose all but one.")
    if any("nvidia-uvm" in os.path.realpath(link) for link in glob.glob("/proc/self/fd/*")):
        raise SystemExit("pool: the imports started CUDA, which a fork could not use.")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The pool may close its socket while this process imports.
    with contextlib.suppress(ConnectionError):
        listener = socket.socket(fileno=int(sys.argv[1]))
        for function in sys.argv[2:]:
            pkgutil.resolve_name(function)()
        check_can_fork()
        gc.collect()
        gc.freeze()
        if request := serve(listener):
            del listener
            run_and_end(request)


if __name__ == "__main__":
    main()
