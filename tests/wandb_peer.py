"""The few calls of W&B's server that `wandb agent` makes, on loopback: it hands out some runs, then says exit."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "v", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


@contextmanager
def peer(sweep_config: str, runs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Serves one sweep.

    Args:
        sweep_config: The text of its file.
        runs: By id, the arguments of each run.

    Yields:
        The server's address, and what the agent called so far.
    """
    waiting, calls = list(runs.items()), []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "agentHeartbeat" in query:
            calls.append("heartbeat")
            commands = []
            if json.loads(variables["runState"]) == {}:
                commands = [{"type": "exit"}]
                if waiting:
                    run, given = waiting.pop(0)
                    values = {k: {"value": v} for k, v in given.items()}
                    commands = [{"type": "run", "run_id": run, "program": "train.py", "args": values}]
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        if "createAgent" in query:
            calls.append("register")
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "sweep(" in query:
            calls.append("sweep")
            sweep = {"id": "s", "name": "sweep", "method": "grid", "state": "RUNNING", "runs": {"edges": []}}
            return {"project": {"sweep": sweep | {"config": sweep_config}}}
        return {"viewer": VIEWER}

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
