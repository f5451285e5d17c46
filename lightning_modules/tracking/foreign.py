"""Use any Lightning logger beside others: it gets the run's real end, and its errors end neither run nor loggers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch.loggers import Logger

from lightning_modules.config.objects import takes
from lightning_modules.tracking.base import Outcome, RunLogger
from zoo.errors import one_line
from zoo.log import log

MOST = 3
"""How often in a row a method may fail before the logger is called no more: each call may wait for a server."""

CURVES = ("val/acc",)
"""Final metrics that the logged rows have as a curve, with another value at its end."""


class _Guarded(Logger):
    """Mixin over a Lightning logger's class."""

    entry: dict[str, Any]
    __failures: Counter[str]
    __warned = False

    def begin(self, key: str, choices: dict[str, Any]) -> None:
        """Log the hyper-parameters; ``key`` is the logger's name in the configuration."""
        self.entry, self.__key, self.__choices, self.__failures = {}, key, choices, Counter()
        self.__step: int | None = None
        self.log_hyperparams(choices)

    @property
    def experiment(self) -> Any:
        """The library's own object. Lightning asks for it at the start, before any call that could be guarded."""
        if self.__given_up():
            raise AttributeError(f"{type(self).__name__} is given up")
        try:
            return super().experiment
        except Exception as error:  # as in `__call`, through which most come here
            raise AttributeError(f"{type(self).__name__} failed") from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.__step = self.__step if step is None else step
        self.__call("log_metrics", metrics, step)

    def log_hyperparams(self, *params: Any, **more: Any) -> None:
        self.__call("log_hyperparams", *params, **more)

    def log_graph(self, *model: Any, **more: Any) -> None:
        self.__call("log_graph", *model, **more)

    def save(self) -> None:
        self.__call("save")

    def after_save_checkpoint(self, *callback: Any) -> None:
        self.__call("after_save_checkpoint", *callback)

    def finalize(self, status: str) -> None:
        """Do nothing: Lightning calls it after every fit and test; the run ends with `finish`."""

    def finish(self, outcome: Outcome) -> None:
        """Log the hyper-parameters with the cost, log the final metrics, and finalize."""
        costs = {key: value for key, value in outcome.metrics.items() if key.startswith("cost/")}
        final = {key: value for key, value in outcome.metrics.items() if key not in CURVES}
        known, _ = takes(super().log_hyperparams)  # type: ignore[safe-super]
        together = {"metrics": final, "step": self.__step} if {"metrics", "step"} <= known and final else {}
        self.log_hyperparams({**self.__choices, **costs}, **together)
        if final and not together:
            self.log_metrics(final, self.__step)
        self.save()
        self.__call("finalize", "success" if outcome.status == "completed" else "failed")

    def __call(self, method: str, *arguments: Any, **more: Any) -> None:
        if self.__given_up():
            return
        try:
            getattr(super(), method)(*arguments, **more)
            self.__failures[method] = 0
        except Exception as error:  # a foreign library, for which no run is given up
            if not self.__warned:
                self.__warned, why = True, one_line(error.__cause__ or error)
                log.warning(f"logger.{self.__key}: {method} failed ({why}); the run continues.")
            self.__failures[method] += 1

    def __given_up(self) -> bool:
        return max(self.__failures.values(), default=0) >= MOST


def guarded(logger: Logger, key: str, choices: dict[str, Any]) -> RunLogger:
    """Return a Lightning logger, still an instance of its class, that is safe to use in a run.

    Args:
        logger: The logger.
        key: Its name in the configuration.
        choices: The hyper-parameters.
    """
    logger.__class__ = type(type(logger).__name__, (_Guarded, type(logger)), {})
    cast(_Guarded, logger).begin(key, choices)
    return cast(RunLogger, logger)
