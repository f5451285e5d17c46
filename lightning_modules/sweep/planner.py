"""Describe each cell of a sweep without training it: ``python -m lightning_modules.sweep.planner``.

Runs in its own process, so that the launcher stays small and needs no torch. Reads
``{"configs": […], "node_gpus": null, "measure": false}`` from stdin and writes one line of JSON per configuration.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lightning_modules.config.check import check
from lightning_modules.config.identity import leaves
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.devices import resolve_hardware
from lightning_modules.resolve import Resolved, resolve
from lightning_modules.sweep.estimate import Stopwatch
from lightning_modules.unfit import check_network
from zoo.cache import digest
from zoo.costs.fingerprint import fingerprint
from zoo.costs.reuse import Reuse
from zoo.errors import ConvzooError, UnfitError

CHOICES = ("model", "scale", "conv", "act")
"""The groups that may differ between two jobs whose networks are the same."""


class Planner:
    """Describes configurations and caches the networks and data sets they share.

    Args:
        node_gpus: GPUs per cluster node; None if the jobs run on this machine, which must then have the hardware and
            data they ask for.
        measure: Whether to time a few steps of each network.
    """

    def __init__(self, node_gpus: int | None = None, measure: bool = False) -> None:
        self.node_gpus, self.here = node_gpus, node_gpus is None
        self.stopwatch = Stopwatch() if measure else None
        self._networks: dict[str, dict[str, Any]] = {}
        self._reuse = Reuse()
        self._images: dict[str, tuple[int, int]] = {}

    def describe(self, spec: CellSpec) -> dict[str, Any]:
        """Return the attributes of `lightning_modules.sweep.jobs.Job` that the plan sets, and ``same``.

        ``same`` is equal for jobs with the same network and recipe. ``excluded`` is set if the choices are valid one by
        one but not together, or if the network cannot process images of this size.

        Raises:
            ConvzooError: The configuration has an invalid value.
        """
        check(spec)
        hardware = resolve_hardware(spec.hardware, spec.trainer, self.node_gpus)
        shape = {
            "processes": hardware.world_size,
            "nodes": hardware.num_nodes,
            "gpus": hardware.devices if hardware.device.type == "cuda" else 0,
        }
        try:
            resolved = resolve(spec, hardware.name)
            sizes = self._data_sizes(spec, resolved)
            network = self._find_network(resolved, spec.data.batch_size)
        except UnfitError as error:
            cell = {k: getattr(spec, k).name for k in CHOICES if k != "scale"} | {"seed": spec.seed}
            return {**shape, "cell": cell, "excluded": str(error)}
        return {
            **shape,
            "cell": resolved.choices,
            "cost": network["cost"],
            "same": self._same(spec, resolved, network["fingerprint"]),
            "estimate_s": self.stopwatch and sizes and self.stopwatch.estimate(spec, resolved, hardware, *sizes),
        }

    def _data_sizes(self, spec: CellSpec, resolved: Resolved) -> tuple[int, int] | None:
        """Return the number of training and validation images; None if the data is on the cluster only.

        Reads each data set once, so that missing or invalid data is reported before the first job starts.
        """
        key = digest({k: v for k, v in spec.data.plain().items() if k not in ("image_size", "batch_size", "augment")})
        if self.here and key not in self._images:
            self._images[key] = resolved.data.size("train"), resolved.data.size("val")
        return self._images.get(key)

    def _find_network(self, resolved: Resolved, batch_size: int) -> dict[str, Any]:
        key = digest([resolved.network, resolved.image_size, min(2, batch_size)])
        if key not in self._networks:
            with self._reuse.network(**{**resolved.network, "pretrained": False}) as net:
                check_network(net, resolved, batch_size)
                found = fingerprint(net)
                cost = self._reuse.cost(net, resolved.image_size, resolved.in_chans)
            self._networks[key] = {"fingerprint": found, "cost": cost.metrics}
        return self._networks[key]

    @staticmethod
    def _same(spec: CellSpec, resolved: Resolved, network: str) -> str:
        rest = {k: v for k, v in leaves(spec.plain()) if k.partition(".")[0] not in (*CHOICES, "logger", "sweep")}
        # Loaded weights depend on the names of the choices, not only on the network's structure.
        given = spec.init.name != "random" or resolved.network["pretrained"]
        return digest([network, resolved.image_size, rest, resolved.network if given else None])


def main() -> int:
    """Answer each configuration from stdin with a line on stdout; an invalid value gets ``{"error": …}``."""
    job = json.load(sys.stdin)
    # Keep what libraries print out of the answers.
    out, sys.stdout = sys.stdout, sys.stderr
    describer = Planner(job["node_gpus"], job["measure"])
    for settings in job["configs"]:
        try:
            answer = describer.describe(CellSpec.of(settings))
        except ConvzooError as error:
            answer = {"error": str(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
