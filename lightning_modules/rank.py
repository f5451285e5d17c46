"""One rank of a distributed run: ``python -m lightning_modules.rank FOLDER``, started by torchrun's agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from lightning_modules.run import JOB_FILE, run


@record  # the agent reads the error of the rank that failed first
def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / JOB_FILE).read_text())
    run(job["config"], folder, job["command"])


if __name__ == "__main__":
    main()
