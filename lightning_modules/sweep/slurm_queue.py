"""Submit a sweep's jobs to Slurm as job arrays, and find them again in the queue by the arrays' names."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shlex
import shutil
import subprocess
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.results.files import write_whole
from lightning_modules.sweep.jobs import describe_exit, forget_failure
from lightning_modules.sweep.slurm_options import SlurmOptions
from lightning_modules.sweep.slurm_task import END_FILE, SlurmTask
from zoo.errors import ConvzooError, need_packages

FOLDER = ".slurm"
"""Subfolder of the sweep's folder for the records of submitted arrays and submitit's files."""


@dataclass(frozen=True, order=True)
class Shape:
    """Resources of a job on the cluster; jobs of the same shape share an array.

    Attributes:
        nodes: Number of nodes.
        devices: Processes per node, one per device.
        gpus: Whether each process has its own GPU.
    """

    nodes: int = 1
    devices: int = 1
    gpus: bool = False


class Queued(NamedTuple):
    """A job in Slurm's queue: its id and its state."""

    id: str
    state: str


class SlurmQueue:
    """The jobs of one sweep in Slurm's queue.

    Args:
        sweep: The sweep's folder, on a file system that all nodes share.
        options: Options of the submission.

    Raises:
        ConvzooError: This machine has no Slurm, or submitit is not installed.
    """

    def __init__(self, sweep: Path, options: SlurmOptions) -> None:
        self.sweep, self.options = sweep.resolve(), options
        self.folder = self.sweep / FOLDER
        _check_installed()

    def submit(self, tasks: Sequence[tuple[SlurmTask, Shape]]) -> None:
        """Submit jobs as one array per shape, or as several that run in sequence if Slurm's array limit requires it.

        Args:
            tasks: The tasks and their shapes.

        Raises:
            ConvzooError: sbatch refused an array; those before it have been submitted.
        """
        largest = _largest_array()
        for shape in sorted({shape for _, shape in tasks}):
            same = [task for task, its_shape in tasks if its_shape == shape]
            before = None
            for start in range(0, len(same), largest):
                before = self._submit_array(same[start : start + largest], shape, before)

    def _submit_array(self, tasks: list[SlurmTask], shape: Shape, before: str | None) -> str:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = f"{self.sweep.name}.{uuid.uuid4().hex[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            task.folder.mkdir(exist_ok=True)
            forget_failure(task.folder, task.id)
        # Written before sbatch: if this process dies right after it, the next start finds the jobs by the array's name.
        record = {"folders": [str(task.folder.resolve()) for task in tasks]}
        write_whole(self.folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
        executor = SlurmExecutor(self.folder, max_num_timeout=self.options.requeues)
        try:
            executor.update_parameters(**self._parameters(name, shape, before))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                jobs = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            (self.folder / f"{name}.json").unlink()
            raise ConvzooError(f"sbatch refused {len(tasks)} jobs: {str(error).strip().splitlines()[-1]}") from None
        return jobs[0].job_id.partition("_")[0]

    def _parameters(self, name: str, shape: Shape, before: str | None) -> dict[str, Any]:
        options = self.options
        given = {
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "cpus_per_task": options.cpus_per_task,
            "mem": options.mem_gb and f"{int(options.mem_gb * 1024)}MB",
            "gpus_per_node": shape.devices if shape.gpus else None,
            "dependency": before and f"afterany:{before}",
        }
        # Kill all ranks when one dies, since they would wait for it. srun does not inherit --cpus-per-task.
        srun = ["--kill-on-bad-exit=1"]
        srun += [f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []
        root = Path(__file__).resolve().parents[2]
        return {k: v for k, v in given.items() if v is not None} | {
            "job_name": name,
            "time": options.timeout_min,
            "signal_delay_s": options.signal_delay_s,
            "nodes": shape.nodes,
            "ntasks_per_node": shape.devices,
            "array_parallelism": options.at_once,
            "stderr_to_stdout": True,
            "setup": [f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}", *options.setup],
            "srun_args": srun,
            "additional_parameters": {"requeue": True, **options.extra},
        }

    def queued(self) -> dict[Path, Queued] | None:
        """Return the waiting and running jobs by folder; None if the queue cannot be read at the moment."""
        shown = _slurm("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%j|%F|%K|%T")
        if shown is None:
            return None
        arrays, found = self._arrays(), {}
        for line in shown.splitlines():
            name, array, index, state = line.strip().rsplit("|", 3)
            if folders := arrays.get(name):
                id, number = (f"{array}_{index}", int(index)) if index.isdigit() else (array, 0)
                found[folders[number]] = Queued(id, state)
        return found

    def cancel(self, folders: Sequence[Path]) -> None:
        """Cancel the jobs of these folders; running jobs save first and are not requeued."""
        wanted = {folder.resolve() for folder in folders}
        ids = [job.id for folder, job in (self.queued() or {}).items() if folder in wanted]
        for start in range(0, len(ids), 100):
            _slurm("scancel", *ids[start : start + 100])

    def why(self, folder: Path) -> str:
        """Return a description of why a job ended without a result, as far as it is known."""
        with contextlib.suppress(OSError, ValueError):
            end = json.loads((folder / END_FILE).read_text())
            return f"rank {end['rank']} on {end['node']} {describe_exit(end['code'])} (Slurm job {end['job']})"
        for array, folders in reversed(self._arrays().items()):
            if folder.resolve() in folders:
                state = _state_of(array, folders.index(folder.resolve()))
                return state or "it left Slurm's queue, and Slurm does not say why"
        return "it was never submitted"

    def _arrays(self) -> dict[str, list[Path]]:
        """Return the folders of each submitted array, in the order of its indices, the oldest array first."""
        records = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return {p.stem: [Path(f) for f in json.loads(p.read_text())["folders"]] for p in records}


def _check_installed() -> None:
    if missing := [program for program in ("sbatch", "srun", "squeue") if shutil.which(program) is None]:
        raise ConvzooError(
            f"hydra/launcher=slurm: this machine has no {', '.join(missing)}. Start the sweep where Slurm's commands "
            "are, or type hydra/launcher=local."
        )
    need_packages("slurm", "submitit")
    # submitit reads the signal's name at import; a value the user has exported might differ from ours.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR2"


def _largest_array() -> int:
    shown = _slurm("scontrol", "show", "config") or ""
    sizes = [line.partition("=")[2] for line in shown.splitlines() if line.startswith("MaxArraySize")]
    # MaxArraySize is the largest index plus one; 1001 is Slurm's default.
    return max(1, (int(sizes[0]) if sizes else 1001) - 1)


def _state_of(array: str, index: int) -> str | None:
    """Return the final state of a job from Slurm's accounting, or from the controller's memory; None if unknown."""
    known = _slurm("sacct", "-X", "-n", "-P", "--name", array, "-S", "now-30days", "-o", "JobID,State") or ""
    known += _slurm("squeue", "-h", "-r", "-t", "all", "--name", array, "-o", "%F_%K|%T") or ""
    for line in known.splitlines():
        id, _, state = line.partition("|")
        id = id.removesuffix("_N/A")  # not an array
        if state and (id.endswith(f"_{index}") or "_" not in id):
            return f"Slurm job {id}: {state}"
    return None


def _slurm(*command: str) -> str | None:
    """Return the output of a Slurm command; None if it fails, as all do while the controller is down."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
