"""Create and save a W&B workspace that compares runs: ``python -m zoo dashboard --entity ENTITY``.

It shows accuracy against cost, accuracy by choice, learning curves, and a table of the runs.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from zoo.errors import ConvzooError, need_packages

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import PanelTypes
    from wandb_workspaces.workspaces import Workspace

HELP = "save a W&B workspace that compares the runs of a project"
ACCURACY = "test/acc"
COSTS = {
    "cost/params": "parameters",
    "cost/macs": "MACs",
    "cost/activations": "activations",
    "speed/train_images_per_s": "training images/s",
    "speed/infer_images_per_s": "inference images/s",
    "speed/latency_ms": "latency of one image, ms",
}
"""Metrics that accuracy is plotted against, each on a logarithmic axis."""

CHOICES = ("model", "variant", "conv", "act", "optim", "lr", "weight_decay")
"""Axes of the parallel coordinates plot, in this order."""
LOGARITHMIC = ("lr", "weight_decay")
GROUPS = ("model", "conv", "act")
"""Choices that get a bar plot of mean accuracy each."""

COLUMNS = ("model", "variant", "conv", "act", "hardware", "data", "seed")
"""Choices in the run table; accuracy and costs follow."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entity", required=True, help="the W&B user or team that owns the project")
    parser.add_argument("--project", default="convzoo", help="default: convzoo")
    parser.add_argument("--name", default="convzoo", help="the workspace's name; each call saves a new one")
    parser.add_argument(
        "--group", metavar="SWEEP", help="only the runs of this sweep (the name of its folder, or its id)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the specification as JSON; no account, no network"
    )


def run(given: argparse.Namespace) -> None:
    """Save the workspace and print its URL or, with ``--dry-run``, print its specification.

    Raises:
        ConvzooError: wandb-workspaces is not installed, no API key is configured, or the server rejected the workspace.
    """
    need_packages("dashboard", "wandb_workspaces")
    workspace = build(given.entity, given.project, given.name, given.group)
    print(json.dumps(specification(workspace), indent=2) if given.dry_run else save(workspace))


def build(entity: str, project: str, name: str, group: str | None = None) -> Workspace:
    """Build the workspace without saving it; with ``group``, it shows only the runs of this group."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    columns = [f"config:{choice}.value" for choice in COLUMNS]
    columns += [f"summary:{metric}" for metric in (ACCURACY, *COSTS, "time/fit_s", "status")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Accuracy against cost", panels=_against_cost(), is_open=True),
            ws.Section(name="Which choice matters", panels=_by_choice(), is_open=True),
            ws.Section(name="Learning curves", panels=_curves()),
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == group] if group else "",
            order=[expr.Ordering(expr.Summary(ACCURACY), ascending=False)],
            pinned_columns=["run:displayName", *columns],
        ),
    )


def _against_cost() -> list[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    accuracy = wr.SummaryMetric(ACCURACY)
    return [
        wr.ScatterPlot(title=f"Test accuracy against {text}", x=wr.SummaryMetric(cost), y=accuracy, log_x=True)
        for cost, text in COSTS.items()
    ]


def _by_choice() -> list[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(c), log=c in LOGARITHMIC) for c in CHOICES]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(ACCURACY)))
    groups = {key: f"Test accuracy by {key}: mean ± standard deviation over everything else" for key in GROUPS}
    groups["cell"] = "Test accuracy of each cell: mean ± standard deviation over seeds"
    bars = [
        wr.BarPlot(
            title=title,
            metrics=[ACCURACY],
            groupby=wr.Config(key),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=1000,
            max_bars_to_show=100,
        )
        for key, title in groups.items()
    ]
    choices = wr.ParallelCoordinatesPlot(title="Choices → test accuracy", columns=axes)
    return [choices, *bars, wr.ParameterImportancePlot(with_respect_to=ACCURACY)]


def _curves() -> list[PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    titles = {"val/acc": "Validation accuracy", "val/loss": "Validation loss", "train/loss": "Training loss"}
    return [wr.LinePlot(title=title, x="epoch", y=[metric]) for metric, title in titles.items()]


def specification(workspace: Workspace) -> dict[str, Any]:
    """Return what `save` would send to the server."""
    view = workspace._to_model()  # the only way to see it without a server
    spec = view.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}


def save(workspace: Workspace) -> str:
    """Save a workspace and return its URL.

    Raises:
        ConvzooError: No API key is configured, or the server rejected the workspace or did not answer (W&B's client
            waits 20 s).
    """
    import wandb

    # Unless it is silent, W&B asks for a missing key.
    where = wandb.setup(settings=wandb.Settings(silent=True)).settings.base_url
    try:
        workspace.save()
    except Exception as error:  # W&B's client passes on any exception of its transport
        raise ConvzooError(
            f"the workspace for {workspace.entity}/{workspace.project} was not saved on {where}: {error}\n"
            "Check the key (wandb login, or WANDB_API_KEY), the entity, the project and the network; --dry-run prints "
            "the specification without an account."
        ) from None
    return workspace.url
