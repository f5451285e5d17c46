"""Plan a sweep: describe its jobs, exclude those beyond the limits, merge duplicates, and write sweep.json."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.config.identity import recipe
from lightning_modules.config.schema import SweepOptions
from lightning_modules.results.files import write_whole
from lightning_modules.sweep.jobs import Job
from lightning_modules.sweep.pool import Pool
from zoo.costs.budget import parse_amount
from zoo.errors import ConvzooError
from zoo.render import short

FILE = "sweep.json"
LIMITS = {"max_params": "cost/params", "max_macs": "cost/macs"}
KEPT = ("same_as", "excluded", "cell", "cost", "estimate_s")


def make_plan(jobs: Sequence[Job], sweep: SweepOptions, node_gpus: int | None, threads: int, pool: Pool) -> None:
    """Set each job's cell, cost, resources, estimated time and whether it runs, in place.

    Args:
        jobs: All jobs of the sweep.
        sweep: The sweep group of the configuration.
        node_gpus: GPUs per cluster node; None if the jobs run on this machine.
        threads: CPU threads per job, for the time estimate.
        pool: Starts the planner's process.

    Raises:
        ConvzooError: A job has an invalid value; no job has started yet.
    """
    limits = {
        key: parse_amount(str(getattr(sweep, name))) for name, key in LIMITS.items() if getattr(sweep, name) is not None
    }
    seen: dict[str, int] = {}
    for job, answer in zip(jobs, _describe(jobs, node_gpus, sweep.plan, threads, pool), strict=True):
        same = answer.pop("same", None)
        for key, value in answer.items():
            setattr(job, key, value)
        for key, limit in limits.items():
            if job.cost and job.cost[key] > limit:
                job.excluded = f"{short(job.cost[key])} {key.removeprefix('cost/')}, more than {short(limit)}"
        if job.excluded is None and same is not None:
            first = seen.setdefault(same, job.number)
            job.same_as = first if first != job.number else None


def need_one(jobs: Sequence[Job]) -> None:
    """Raise ConvzooError if every job is excluded."""
    if jobs and all(job.excluded for job in jobs):
        raise ConvzooError("every job is left out:\n" + "\n".join(f"  {j.name}: {j.excluded}" for j in jobs[:10]))


def _describe(
    jobs: Sequence[Job], node_gpus: int | None, measure: bool, threads: int, pool: Pool
) -> list[dict[str, Any]]:
    """Run `lightning_modules.sweep.planner` in a process that imports torch, and return its answer for each job.

    Raises:
        ConvzooError: A job has an invalid value.
        RuntimeError: The planner died.
    """
    from tqdm import tqdm

    question = {"configs": [job.spec.plain() for job in jobs], "node_gpus": node_gpus, "measure": measure}
    words = [sys.executable, "-m", "lightning_modules.sweep.planner"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    reading, writing = os.pipe()
    with open(reading) as lines, tempfile.TemporaryFile() as asked:
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        try:
            process = pool.popen(words, environment, asked, writing, stderr=2)
        finally:
            os.close(writing)
        answers = []
        try:
            shown = tqdm(lines, "plan", len(jobs), leave=False, disable=not sys.stderr.isatty(), unit="job")
            for job, line in zip(jobs, shown, strict=False):
                answers.append(json.loads(line))
                if error := answers[-1].get("error"):
                    raise ConvzooError(f"{job.name}: {error}")
        except BaseException:  # Ctrl-C, too: the planner must not outlive this command
            process.kill()
            raise
        finally:
            process.wait()
    if process.returncode or len(answers) < len(jobs):
        raise RuntimeError(f"planning the sweep failed with exit code {process.returncode}")
    return answers


def write_plan(folder: Path, command: str, jobs: Sequence[Job]) -> None:
    """Write ``sweep.json`` atomically, keeping jobs of earlier starts that are not among these."""
    records = [
        {
            "number": job.number,
            "id": job.id,
            "overrides": job.overrides,
            "command": job.reproduce,
            "folder": job.folder.name,
            "recipe": recipe(job.spec),
            **{key: getattr(job, key) for key in KEPT},
        }
        for job in jobs
    ]
    ids, numbers = {r["id"] for r in records}, {r["number"] for r in records}
    earlier = [r for r in read_plan(folder) if r["id"] not in ids and (folder / r["folder"]).exists()]
    free = itertools.count(max(numbers, default=-1) + 1)
    for record in earlier:
        if record["number"] in numbers:
            record["number"] = next(n for n in free if n not in {r["number"] for r in earlier})
    write_whole(folder / FILE, json.dumps({"command": command, "jobs": records + earlier}, indent=1) + "\n")


def read_plan(folder: Path) -> list[dict[str, Any]]:
    """Return the jobs of ``sweep.json``, skipping invalid entries; empty if the file is missing or invalid."""
    try:
        jobs = json.loads((folder / FILE).read_text())["jobs"]
        return [job for job in jobs if isinstance(job["folder"], str) and type(job["number"]) is int and job["id"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
