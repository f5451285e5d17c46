"""Metrics by which runs are compared, and how to format them."""

from __future__ import annotations

from dataclasses import dataclass

from zoo import render


@dataclass(frozen=True)
class Metric:
    """A metric of ``result.json``.

    Attributes:
        name: Its name in ``--sort``.
        key: Its key in ``metrics``.
        label: Its column header.
        text: A short description.
        higher: Whether higher is better.
        measured: Whether it depends on the device, so that only rows measured under equal conditions are comparable.
    """

    name: str
    key: str
    label: str
    text: str
    higher: bool = False
    measured: bool = False

    @property
    def difference(self) -> bool:
        """Whether cells are compared by difference (accuracies); all other metrics are compared by ratio."""
        return self.key.endswith("/acc")


METRICS = (
    Metric("acc", "test/acc", "test acc", "top-1 accuracy on the test set", higher=True),
    Metric("params", "cost/params", "params", "parameters"),
    Metric("macs", "cost/macs", "MACs", "multiply-adds of one forward pass for one image"),
    Metric("activations", "cost/activations", "activations", "outputs of convolutions and linear layers, one image"),
    Metric("train", "speed/train_images_per_s", "train img/s", "training images/s, all devices", True, True),
    Metric("infer", "speed/infer_images_per_s", "infer img/s", "inference images/s, one device", True, True),
    Metric("latency", "speed/latency_ms", "latency ms", "milliseconds for one image", measured=True),
    Metric("fit", "time/fit_s", "fit s", "seconds of training", measured=True),
)
ACCURACY = METRICS[0]
COLUMNS = {metric.label: metric.key for metric in METRICS}
CONDITIONS = ("device", "devices", "dtype", "memory_format", "threads", "batch_size", "infer_batch_size")
"""Keys of ``environment`` that measured metrics depend on."""


def human(value: float | None, key: str) -> str:
    """Formats a metric for reading: 0.9815, 5.29 M, 12.4 G."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–"
    if key.endswith("/acc"):
        return f"{value:.4f}"
    if not key.startswith("cost/"):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"
    return render.short(value)
