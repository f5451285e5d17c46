"""Run a training script up to its first optimizer step: ``python benchmarks/first_step.py FILE SCRIPT ARGS…``.

At that moment, write ``{"at": seconds since 1970, "cpu_s": CPU seconds of this process}`` to FILE and exit.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from pathlib import Path


def watch(file: Path) -> None:
    """Hook the first optimizer step; wait until the script imports torch instead of importing it here."""

    def end(*_: object) -> None:
        file.write_text(json.dumps({"at": time.time(), "cpu_s": time.process_time()}))
        os._exit(0)

    while not hasattr(optim := sys.modules.get("torch.optim.optimizer"), "register_optimizer_step_post_hook"):
        time.sleep(0.01)
    optim.register_optimizer_step_post_hook(end)


if __name__ == "__main__":
    file, script, *arguments = sys.argv[1:]
    threading.Thread(target=watch, args=[Path(file)], daemon=True).start()
    sys.path[0] = str(Path(script).resolve().parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    raise SystemExit("there was no optimizer step")
