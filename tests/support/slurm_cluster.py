"""A throw-away Slurm on this machine: two nodes on loopback, up and down in seconds. Needs root and Debian's packages:

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge            # the cluster
    apt-get install --no-install-recommends slurmdbd mariadb-server-core mariadb-client-core  # its accounting (sacct)

    python tests/support/slurm_cluster.py up /tmp/slurm [--no-accounting]
    export SLURM_CONF=/tmp/slurm/slurm.conf      # what sbatch, squeue and convzoo need to find it
    python tests/support/slurm_cluster.py status /tmp/slurm
    python tests/support/slurm_cluster.py down /tmp/slurm

Partition ``normal`` (the default) gives way to ``urgent``: its jobs get SIGTERM and ``GRACE_S`` seconds, then they are
requeued. Everything lives in the given folder; nothing outside it is read or changed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("n1", "n2")
CPUS = 4
"""CPUs that each node says it has, whatever the machine has."""
GRACE_S = 60
"""Seconds between SIGTERM and the end of a preempted job."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "sacct")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

SLURM_CONF = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
# A credential that expires late would hold a requeued job back for two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{accounting}
{nodes}
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_daemon}
AccountingStoragePass={folder}/munge.socket
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database_daemon}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=slurm_acct
"""


class ClusterError(RuntimeError):
    """The cluster did not come up; the text says what is missing."""


def missing(accounting: bool = True) -> str | None:
    """Why no cluster can be had here; None where one can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    programs = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    gone = [name for name in programs if shutil.which(name, path=PATH) is None]
    return f"not installed: {', '.join(gone)} (tests/support/slurm_cluster.py names the packages)" if gone else None


class Cluster:
    """A Slurm of two nodes in a folder.

    Args:
        folder: Made by `up`, its cluster's files included.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need beside the usual environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self, accounting: bool = True) -> None:
        """Starts everything and waits until both nodes take jobs.

        Raises:
            ClusterError: Something is missing or did not start; nothing is left running.
        """
        if reason := missing(accounting):
            raise ClusterError(reason)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} is not empty")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        try:
            self._start_munge()
            ports = self._configure(accounting)
            if accounting:
                self._start_accounting(ports)
            self._start_slurm()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Ends every job and every daemon, and removes the folder."""
        if (self.folder / "slurm.conf").exists():
            with contextlib.suppress(ClusterError, subprocess.SubprocessError):
                self.run("scancel", "--full", "--signal=KILL", "--me")
        # Each needs those after it to end well.
        for daemons in (("slurmd", "slurmstepd"), ("slurmctld", "slurmscriptd"), ("slurmdbd",), ("mariadbd", "munged")):
            self._end(daemons)
        shutil.rmtree(self.folder, ignore_errors=True)

    def status(self) -> str:
        """Nodes and jobs, as ``sinfo`` and ``squeue`` print them."""
        return self.run("sinfo", "-N", "-l") + self.run("squeue")

    def run(self, *command: str, timeout: float = 30) -> str:
        """Runs one of Slurm's commands on this cluster and returns what it prints.

        Raises:
            ClusterError: It failed.
        """
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{suffix}" for option, suffix in files.items()]
        # --force: the folder may lie below one that others can write to, such as /tmp.
        self._daemon("munged", "--force", f"--key-file={key}", *options)
        self._wait("munged", (self.folder / "munge.socket").exists, 10)

    def _configure(self, accounting: bool) -> dict[str, int]:
        names = ("controller", "database", "database_daemon", *NODES)
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        values = {"folder": self.folder, "host": socket.gethostname().split(".")[0], "grace": GRACE_S} | ports
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={values['host']} NodeAddr=127.0.0.1 Port={ports[node]} CPUs={CPUS} "
            "RealMemory=4000 State=UNKNOWN"
            for node in NODES
        )
        storage = ACCOUNTING.format(**values) if accounting else "AccountingStorageType=accounting_storage/none"
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**values, nodes=nodes, accounting=storage))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        database = self.folder / "slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(SLURMDBD_CONF.format(**values))
        for folder in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / folder).mkdir()
        return ports

    def _start_accounting(self, ports: dict[str, int]) -> None:
        data = self.folder / "database"
        data.mkdir()
        # No grant tables: anybody may connect, and that is this machine only. So there is nothing to install either.
        self._spawn(
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={self.folder}/mariadb.socket",
            f"--pid-file={self.folder}/mariadb.pid",
            f"--port={ports['database']}",
            "--bind-address=127.0.0.1",
            "--skip-grant-tables",
            "--innodb-flush-log-at-trx-commit=0",
        )
        self._wait("mariadbd", lambda: _listens(ports["database"]), 30)
        self._daemon("slurmdbd")
        self._wait("slurmdbd", lambda: _listens(ports["database_daemon"]), 30)

    def _start_slurm(self) -> None:
        self._daemon("slurmctld", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self._daemon("slurmd", "-N", node, "-f", str(self.folder / "slurm.conf"))

        def idle() -> bool:
            with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
                return self.run("sinfo", "-h", "-N", "-p", "normal", "-o", "%T", timeout=5).split() == ["idle"] * 2
            return False

        self._wait("the nodes", idle, 30)

    def _daemon(self, program: str, *arguments: str) -> None:
        """Starts a program that goes into the background by itself."""
        done = subprocess.run(
            [shutil.which(program, path=PATH), *arguments],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ClusterError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            subprocess.Popen(
                [shutil.which(program, path=PATH), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(line for log in sorted(self.folder.glob("*.log")) for line in _tail(log))
                raise ClusterError(f"waited {seconds:.0f} s for {what}\n{logs}")
            time.sleep(0.1)

    def _end(self, names: tuple[str, ...]) -> None:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._pids(names):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
            with contextlib.suppress(ClusterError):
                self._wait("daemons to end", lambda: not self._pids(names), 5)

    def _pids(self, names: tuple[str, ...]) -> list[int]:
        """This cluster's processes of these names."""
        needle, found = str(self.folder).encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                name = (process / "comm").read_text().strip()
                given = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
                if name in names and state != "Z" and needle + b"/" in given:
                    found.append(int(process.name))
        return found


@contextlib.contextmanager
def running(folder: str | os.PathLike[str], accounting: bool = True) -> Iterator[Cluster]:
    """A cluster for the time of a ``with`` block."""
    cluster = Cluster(folder)
    cluster.up(accounting)
    try:
        yield cluster
    finally:
        cluster.down()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path, lines: int = 5) -> list[str]:
    return [f"{log.name}: {line}" for line in log.read_text(errors="replace").splitlines()[-lines:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("up", "down", "status"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-accounting", action="store_true", help="up: without slurmdbd, so sacct does not work")
    given = parser.parse_args()
    cluster = Cluster(given.folder)
    try:
        if given.verb == "up":
            cluster.up(accounting=not given.no_accounting)
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
        elif given.verb == "down":
            cluster.down()
        else:
            print(cluster.status())
    except ClusterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
