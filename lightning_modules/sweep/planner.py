"""Says what each cell of a sweep is, without training one: ``python -m lightning_modules.sweep.planner``.

A process of its own, so that whoever plans a sweep stays small and needs no torch. Reads
``{"configs": […], "node_gpus": null, "measure": false}`` from stdin and writes one JSON object a line, one for each.
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
"""The groups whose values need not be equal for two networks to be the same."""


class Planner:
    """Describes configurations; what several of them share is done once.

    Args:
        node_gpus: GPUs of a machine of the cluster; None where the jobs run on this machine, which then must have their
            hardware and data.
        measure: Whether to time a few steps of each network.
    """

    def __init__(self, node_gpus: int | None = None, measure: bool = False) -> None:
        self.node_gpus, self.here = node_gpus, node_gpus is None
        self.stopwatch = Stopwatch() if measure else None
        self._networks: dict[str, dict[str, Any]] = {}
        self._reuse = Reuse()
        self._images: dict[str, tuple[int, int]] = {}

    def describe(self, spec: CellSpec) -> dict[str, Any]:
        """What a cell is: see `lightning_modules.sweep.jobs.Job`, with ``same`` equal for the same network and recipe.

        ``excluded`` where the combination makes no sense though each choice exists, and where the network does not take
        the images.

        Raises:
            ConvzooError: A wrong value.
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
        """Images for training and validation; None where the data is elsewhere.

        Reads each data set, once: what is missing or wrong is told before the first job starts.
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
        # Weights that come from elsewhere depend on the names, not on the structure alone.
        given = spec.init.name != "random" or resolved.network["pretrained"]
        return digest([network, resolved.image_size, rest, resolved.network if given else None])


def main() -> int:
    """Answers on stdout, a line a configuration; a wrong value ends it, as ``{"error": …}``."""
    job = json.load(sys.stdin)
    # What libraries print must not stand between the answers.
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
