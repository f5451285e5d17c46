"""Fork job processes from a warm server that has already imported torch, Lightning, timm and W&B.

`Pool.popen` replaces `subprocess.Popen` for a Python command and saves seconds of imports. The process it returns is an
independent child of this process: its crash affects nothing else, and it survives the end of the pool's server and of
this process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from lightning_modules.hardware.process import server_environment
from zoo.log import log

_SUBREAPER = 36
"""Linux's ``PR_SET_CHILD_SUBREAPER``: processes that the server forks become children of this process."""


class Forked:
    """A process forked by the pool, with the part of `subprocess.Popen`'s interface that a launcher needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._look(os.WNOHANG)

    def wait(self) -> int | None:
        return self._look(0)

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen | Forked
File = IO[bytes] | int
"""An open file, or its descriptor."""


class Pool:
    """Starts Python commands, each in its own process and session.

    Args:
        wanted: Whether to fork commands. If forking is impossible (not on Linux), or once the server has died, each
            command starts its own interpreter instead.
        warm_up: A function that does what every command would do first, ``module:name``; it must not start a thread.
    """

    def __init__(self, wanted: bool = True, warm_up: str | None = None) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._started: list[Process] = []
        if wanted and _adopts_orphans():
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                # Some daemons pass SIG_IGN on to their children; the kernel would then discard exit codes.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                words = [sys.executable, "-m", "lightning_modules.sweep.pool_server", str(theirs.fileno())]
                self._server = subprocess.Popen(
                    words + ([warm_up] if warm_up else []),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=server_environment(os.environ),
                    pass_fds=[theirs.fileno()],
                    # Keep a Ctrl-C in the terminal away from the server.
                    start_new_session=True,
                )
            atexit.register(self.close)

    @property
    def forks(self) -> bool:
        """Whether commands are forked; a dead server is noticed only at the next start."""
        return self._server is not None

    def popen(self, words: Sequence[str], env: Mapping[str, str], stdin: File, stdout: File, stderr: File) -> Process:
        """Start ``[sys.executable, SCRIPT, …]`` or ``[sys.executable, "-m", MODULE, …]``.

        Args:
            words: The command.
            env: Its complete environment.
            stdin, stdout, stderr: Open files or their descriptors.
        """
        process = self._fork_or_start(list(words), dict(env), [stdin, stdout, stderr])
        self._started.append(process)
        return process

    def _fork_or_start(self, words: list[str], env: dict[str, str], files: list[File]) -> Process:
        if self._server is not None:
            descriptors = [file if isinstance(file, int) else file.fileno() for file in files]
            try:
                return self._fork({"words": words[1:], "env": env, "cwd": os.getcwd()}, descriptors)
            except OSError as error:
                why = error if self._server.poll() is None else f"exit code {self._server.returncode}"
                log.warning(f"pool: the server has ended ({why}); each job now starts its own Python interpreter.")
                self.close()
        stdin, stdout, stderr = files
        return subprocess.Popen(words, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)

    def _fork(self, question: dict[str, object], files: list[int]) -> Forked:
        # Send the request in a file: a socket message is limited to some 200 KiB, and an environment may be larger.
        with os.fdopen(os.memfd_create("request"), "w") as request:
            json.dump(question, request)
            request.flush()
            socket.send_fds(self._socket, [b"fork"], [*files, request.fileno()])
        answer = self._socket.recv(100)
        if not answer:
            self._server.wait(timeout=10)
            raise ConnectionError("it closed the connection")
        return Forked(int(answer))

    def reap(self) -> None:
        """Reap ended processes that jobs left behind: as subreaper, this process is their parent now."""
        self._started = [process for process in self._started if process.returncode is None]
        known = {process.pid for process in [*self._started, *filter(None, [self._server])]}
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, look)) and found.si_pid not in known:
                os.waitpid(found.si_pid, 0)

    def close(self) -> None:
        """Kill the server; the processes it has forked keep running."""
        if self._server is not None:
            self._socket.close()
            # It has no state to save.
            self._server.kill()
            self._server.wait()
            self._server = None


def _adopts_orphans() -> bool:
    """Make this process the parent of its orphaned descendants; return False if the platform cannot."""
    try:
        return sys.platform == "linux" and ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False
