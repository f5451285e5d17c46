"""Lightning loggers as a user may write them."""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch.loggers import Logger


class Recorder(Logger):
    """Keeps what it was called with, in `calls` of the class."""

    calls: ClassVar[list[tuple]] = []

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.calls.clear()
        self.folder = folder

    name, version = "recorder", 0

    def log_metrics(self, metrics, step=None):
        self.calls.append(("row", dict(metrics), step))

    def log_hyperparams(self, params):
        self.calls.append(("params", dict(params)))

    def finalize(self, status):
        self.calls.append(("end", status))


class Broken(Recorder):
    """Fails in every call that needs a server."""

    def _fail(self, *_, **__):
        self.calls.append(("failed",))
        raise OSError("no such server\nwith details")

    log_metrics = log_hyperparams = finalize = _fail

    @property
    def experiment(self):
        """Lightning asks for it outside of any call of ours."""
        raise OSError("no such server")
