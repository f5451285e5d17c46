"""The few calls of W&B's server that an agent and a saved workspace need, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "v", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


@contextmanager
def peer(
    *, sweep: str = "", runs: dict[str, dict[str, Any]] | None = None, viewer: dict[str, Any] | None = VIEWER
) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server for one test.

    Args:
        sweep: The text of a sweep file.
        runs: By id, the arguments of each run that an agent gets; after them it is told to exit.
        viewer: Whose key it is; None: the key is not known.

    Yields:
        The server's address, and the calls so far with what was sent.
    """
    waiting, calls = list((runs or {}).items()), []

    def heartbeat(sent: dict[str, Any]) -> dict[str, Any]:
        commands = []
        if json.loads(sent["runState"]) == {}:
            commands = [{"type": "exit"}]
            if waiting:
                run, given = waiting.pop(0)
                values = {k: {"value": v} for k, v in given.items()}
                commands = [{"type": "run", "run_id": run, "program": "train.py", "args": values}]
        return {"agent": {"id": "agent"}, "commands": json.dumps(commands)}

    known = {"id": "s", "name": "sweep", "method": "grid", "state": "RUNNING", "runs": {"edges": []}, "config": sweep}
    answers = {
        "upsertView": lambda _: {"view": {"id": "view", "name": "nw-abc-v"}, "inserted": True},
        "agentHeartbeat": heartbeat,
        "createAgent": lambda _: {"agent": {"id": "agent"}},
        "sweep": lambda _: known,
        "viewer": lambda _: viewer,
    }

    def answer(query: str, sent: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in answers if f"{name}(" in query or f"{name} {{" in query)
        calls.append((name, sent))
        data = {name: answers[name](sent)}
        return {"project": data} if name == "sweep" else data

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            # W&B posts its own telemetry too, which needs no answer.
            if self.path == "/graphql":
                asked = json.loads(sent)
                body = json.dumps({"data": answer(asked["query"], asked.get("variables") or {})}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()
