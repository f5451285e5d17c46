"""What a W&B file says of a run, as tests want to see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_modules.tracking.wandb_files import items, records


def read_run(folder: Path) -> dict[str, Any]:
    """The one run below a folder: its ``id``, ``config``, ``history`` (a list of rows), ``summary``, ``exit_code`` …"""
    (path,) = folder.rglob("run-*.wandb")
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": [], "exit_code": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"id": record.run.run_id, "group": record.run.run_group}
            run |= {"name": record.run.display_name, "job_type": record.run.job_type}
            run |= {"project": record.run.project, "entity": record.run.entity, "tags": list(record.run.tags)}
            run["config"] |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "config":
            run["config"] |= {i.key: json.loads(i.value_json) for i in record.config.update}
        elif kind == "history":
            row = items(record.history.item)
            run["history"].append(row)
            # What a row says stands in the summary until a later record says otherwise.
            run["summary"] |= row
        elif kind == "summary":
            run["summary"] |= items(record.summary.update)
        elif kind == "metric":
            run["metrics"].append(record.metric)
        elif kind == "preempting":
            run["preempting"] = True
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run
