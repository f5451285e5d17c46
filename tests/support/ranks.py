"""The ranks of a distributed run, forked from a pool: without a second of imports for each."""

import json
import os
import signal
import socket
import sys
import time


def start_ranks(pool, folder, config, ranks=2):
    """Starts them as torchrun would; what `run` does first is done.

    Returns:
        The processes.
    """
    folder.mkdir(exist_ok=True)
    said = json.dumps({"config": config, "command": "a command", "begun": time.monotonic()})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    job |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    words = [sys.executable, "-m", "lightning_modules.rank", str(folder), said]
    started = []
    for rank in range(ranks):
        environment = os.environ | job | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"log-rank{rank}.txt").open("ab") as log, open(os.devnull, "rb") as nothing:
            started.append(pool.popen(words, environment, nothing, log, log))
    return started


def end_ranks(started, folder, wait_s=120):
    """Their exit codes; one that ends badly, or lives too long, takes the others with it."""
    deadline = time.monotonic() + wait_s
    while any(p.poll() is None for p in started):
        if time.monotonic() > deadline or any(p.poll() for p in started):
            time.sleep(1)
            kill(started)
        time.sleep(0.02)
    return [p.poll() for p in started]


def kill(started):
    for process in started:
        process.send_signal(signal.SIGKILL)
