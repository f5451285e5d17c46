"""W&B's server on loopback: what a run, an agent, a saved workspace and ``wandb sync`` ask of it, and its faults."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "1234567890" * 4
"""A key in W&B's form."""

VIEWER = {"id": "v", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
HISTORY, SUMMARY, EVENTS, OUTPUT = "wandb-history.jsonl", "wandb-summary.json", "wandb-events.jsonl", "output.log"


@dataclass
class Run:
    """What the server knows of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=lambda: {HISTORY: {}, EVENTS: {}, OUTPUT: {}})
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    preempting: int = 0
    group: str | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows, in the order of their places in the history."""
        return [json.loads(line) for _, line in sorted(self.lines[HISTORY].items())]

    def count(self, name: str) -> int:
        return max(self.lines[name], default=-1) + 1

    def take(self, sent: dict[str, Any]) -> None:
        """What a run streams: lines at their places, the summary, how it ended."""
        for name, part in sent.get("files", {}).items():
            if name == SUMMARY:
                self.summary |= json.loads(part["content"][-1])
            elif name in self.lines:
                self.lines[name] |= {part["offset"] + i: line for i, line in enumerate(part["content"])}
        self.preempting += bool(sent.get("preempting"))
        if sent.get("complete"):
            self.exit_codes.append(sent["exitcode"])


class Peer:
    """A server for one test, which may misbehave from one request to the next.

    Attributes:
        url: Its address.
        calls: Each GraphQL call so far: its name, and what was sent.
        runs: By id, what runs have sent.
        bodies: Every body that was received, as text.
        fault: None; ``"hang"``: accepts and never answers; ``"cut"``: half of a body; a number below 100: seconds
            before each answer; another number: that HTTP status.
        requests: How many came in, answered or not.
        viewer: Whose key it is; None: the key is not known.
        sweep: The text of a sweep file.
        waiting: By id, the arguments of each run that an agent gets; after them it is told to exit.
    """

    def __init__(self, sweep: str = "", waiting: dict[str, Any] | None = None, viewer: Any = VIEWER) -> None:
        self.sweep, self.waiting, self.viewer = sweep, list((waiting or {}).items()), viewer
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.runs: dict[str, Run] = {}
        self.bodies: list[str] = []
        self.fault: str | float | None = None
        self.requests = 0
        self._lock, self._closing = threading.Lock(), threading.Event()
        self.port, self._server = 0, None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """With these variables W&B takes this for its server."""
        return {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": self.url, "WANDB_ERROR_REPORTING": "false"}

    def start(self) -> None:
        """Listens; after `stop` again at the same address."""
        self._closing.clear()
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Goes away: connections are refused, and those that are open end."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def wait(self, true: Any, seconds: float = 20) -> None:
        """Until a condition holds."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.02)

    def hold(self, seconds: float) -> bool:
        """Waits; True: the server went away meanwhile."""
        return self._closing.wait(seconds)

    def answer(self, query: str, sent: dict[str, Any]) -> dict[str, Any]:
        """One GraphQL call."""
        answers = {
            "upsertView": lambda _: {"view": {"id": "view", "name": "nw-abc-v"}, "inserted": True},
            "agentHeartbeat": self._heartbeat,
            "createAgent": lambda _: {"agent": {"id": "agent"}},
            "sweep": lambda _: self._sweep(),
            "upsertBucket": self._upsert,
            "createRunFiles": self._files,
            "model": self._resume,
            "serverInfo": lambda _: {"features": []},
            "viewer": lambda _: self.viewer,
        }
        found = [name for name in answers if f"{name}(" in query or f"{name} (" in query or f"{name} {{" in query]
        with self._lock:
            name = found[0] if found else query.split("(")[0].strip()
            self.calls.append((name, sent))
            # What is not known is answered like an old server does.
            data = {name: answers[name](sent)} if found else {}
        return {"project": data} if name == "sweep" else data

    def _sweep(self) -> dict[str, Any]:
        return {
            "id": "s",
            "name": "sweep",
            "method": "grid",
            "state": "RUNNING",
            "runs": {"edges": []},
            "config": self.sweep,
        }

    def _heartbeat(self, sent: dict[str, Any]) -> dict[str, Any]:
        commands = []
        if json.loads(sent["runState"]) == {}:
            commands = [{"type": "exit"}]
            if self.waiting:
                run, given = self.waiting.pop(0)
                values = {k: {"value": v} for k, v in given.items()}
                commands = [{"type": "run", "run_id": run, "program": "train.py", "args": values}]
        return {"agent": {"id": "agent"}, "commands": json.dumps(commands)}

    def _upsert(self, sent: dict[str, Any]) -> dict[str, Any]:
        new = sent["name"] not in self.runs
        run = self.runs.setdefault(sent["name"], Run())
        run.group = sent.get("groupName") or run.group
        run.config |= json.loads(sent.get("config") or "{}")
        project = {"id": "p", "name": sent.get("project"), "entity": {"id": "e", "name": sent.get("entity") or "me"}}
        bucket = {"id": f"id-{sent['name']}", "name": sent["name"], "displayName": sent.get("displayName")}
        bucket |= {"description": None, "config": json.dumps(run.config), "sweepName": None, "project": project}
        return {"bucket": bucket | {"historyLineCount": run.count(HISTORY)}, "inserted": new}

    def _files(self, sent: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in sent["files"]]
        return {"runID": sent["run"], "uploadHeaders": [], "files": files}

    def _resume(self, sent: dict[str, Any]) -> dict[str, Any]:
        run, bucket = self.runs.get(sent["name"]), None
        if run:
            tail = [line for _, line in sorted(run.lines[HISTORY].items())][-1:]
            bucket = {"id": f"id-{sent['name']}", "name": sent["name"], "summaryMetrics": json.dumps(run.summary)}
            bucket |= {"displayName": None, "tags": [], "notes": None, "config": json.dumps(run.config)}
            bucket |= {"logLineCount": run.count(OUTPUT), "historyLineCount": run.count(HISTORY)}
            bucket |= {"eventsLineCount": run.count(EVENTS), "historyTail": json.dumps(tail), "eventsTail": "[]"}
            bucket |= {"wandbConfig": json.dumps({"t": 1})}
        project = {"id": "p", "name": sent.get("project"), "entity": {"id": "e", "name": "me"}}
        return project | {"bucket": bucket}

    def known(self, authorization: str) -> bool:
        """Whether a request has the key."""
        return base64.b64decode(authorization.rpartition(" ")[2] or "").decode().rpartition(":")[2] == KEY

    def take(self, path: str, sent: dict[str, Any]) -> None:
        """What is posted to a run's stream."""
        with self._lock:
            self.runs.setdefault(path.split("/")[-2], Run()).take(sent)


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def handle_error(self, *_: object) -> None:
        pass  # a client that left


def _handler(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                sent = gzip.decompress(sent)
            peer.requests += 1
            fault = peer.fault
            if fault == "hang" or (isinstance(fault, float | int) and fault < 100):
                if peer.hold(3600 if fault == "hang" else fault):
                    self.close_connection = True
                    return
            elif isinstance(fault, int):
                self._send(b"an error of the server's", fault)
                return
            peer.bodies.append(sent.decode(errors="replace"))
            body = b""
            if self.path.startswith("/graphql"):
                asked = json.loads(sent)
                body = json.dumps({"data": peer.answer(asked["query"], asked.get("variables") or {})}).encode()
            elif self.path.endswith("/file_stream"):
                if fault != "cut":
                    peer.take(self.path, json.loads(sent))
                body = b"{}"
            self._send(body, cut=fault == "cut")

        do_PUT = do_GET = do_POST

        def _send(self, body: bytes, status: int = 200, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def server() -> Iterator[Peer]:
    """A server for one test."""
    peer = Peer()
    try:
        yield peer
    finally:
        peer.stop()


@contextmanager
def peer(
    *, sweep: str = "", runs: dict[str, dict[str, Any]] | None = None, viewer: dict[str, Any] | None = VIEWER
) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server for an agent or a workspace: its address, and the calls so far with what was sent."""
    known = Peer(sweep, runs, viewer)
    try:
        yield known.url, known.calls
    finally:
        known.stop()
