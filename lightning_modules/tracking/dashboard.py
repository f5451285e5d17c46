"""Create and save a W&B workspace that compares runs: ``python -m zoo dashboard --entity ENTITY``.

It shows accuracy against cost, accuracy by choice, learning curves, and a table of the runs.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from zoo.errors import ConvzooError, need_packages

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

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
    """Build the workspace without saving it.

    Args:
        entity: The W&B user or team.
        project: The project whose runs it shows.
        name: The workspace's name.
        group: Show only the runs of this group; None for all runs.
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    columns = [f"config:{choice}.value" for choice in COLUMNS]
    columns += [f"summary:{metric}" for metric in (ACCURACY, *COSTS, "time/fit_s", "status")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_against_cost(), _by_choice(), _curves()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group") == group] if group else "",
            order=[expr.Ordering(expr.Summary(ACCURACY), ascending=False)],
            pinned_columns=["run:displayName", *columns],
        ),
    )


def _against_cost() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    plots = [
        wr.ScatterPlot(
            title=f"Test accuracy against {text}", x=wr.SummaryMetric(cost), y=wr.SummaryMetric(ACCURACY), log_x=True
        )
        for cost, text in COSTS.items()
    ]
    return ws.Section(name="Accuracy against cost", panels=plots, is_open=True)


def _by_choice() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    accuracy = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(ACCURACY))
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(c), log=c in LOGARITHMIC) for c in CHOICES]
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
        for key, title in [(g, f"Test accuracy by {g}: mean ± standard deviation over everything else") for g in GROUPS]
        + [("cell", "Test accuracy of each cell: mean ± standard deviation over seeds")]
    ]
    choices = wr.ParallelCoordinatesPlot(title="Choices → test accuracy", columns=[*axes, accuracy])
    return ws.Section(
        name="Which choice matters",
        panels=[choices, *bars, wr.ParameterImportancePlot(with_respect_to=ACCURACY)],
        is_open=True,
    )


def _curves() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    titles = {"val/acc": "Validation accuracy", "val/loss": "Validation loss", "train/loss": "Training loss"}
    plots = [wr.LinePlot(title=title, x="epoch", y=[metric]) for metric, title in titles.items()]
    return ws.Section(name="Learning curves", panels=plots)


def specification(workspace: Workspace) -> dict[str, Any]:
    """Return what `save` would send to the server."""
    view = workspace._to_model()
    return {
        "entity": view.entity,
        "project": view.project,
        "name": view.display_name,
        "spec": view.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def save(workspace: Workspace) -> str:
    """Save a workspace and return its URL.

    Raises:
        ConvzooError: No API key is configured, or the server rejected the workspace or did not answer (W&B's client
            waits 20 s).
    """
    import wandb

    if not wandb.login(verify=False, prompt=False):
        raise ConvzooError(
            "the dashboard is saved on a W&B server, and there is no key for one. Type wandb login (or set "
            "WANDB_API_KEY); --dry-run prints the specification without an account."
        )
    try:
        workspace.save()
    except Exception as error:  # W&B's client passes on any exception of its transport
        where = wandb.setup().settings.base_url
        raise ConvzooError(
            f"{where} did not take the workspace for {workspace.entity}/{workspace.project}: {error}\n"
            "Check the key, the entity, the project and the network; --dry-run prints the specification."
        ) from None
    return workspace.url
