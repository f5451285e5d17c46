"""trainer.profiler: what it measured is in the run's folder, and a line says where."""

import pytest
from conftest import QUICK, cell_config, cell_spec
from unmeasured import unmeasured  # noqa: F401

from lightning_modules import run_cell
from lightning_modules.config.check import check
from lightning_modules.hardware.signals import Stopped
from zoo import ConvzooError

SMALL = ("model=mobilenet", "model.variant=v3_small", "data.image_size=8", "hardware.plan=fp32", "logger=none", *QUICK)

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_each_stage_has_a_report_and_a_line_says_where(name, tmp_path, capsys):
    run_cell(cell_config(*SMALL, "trainer.limit_train_batches=6", f"trainer.profiler={name}"), tmp_path, "")
    told = capsys.readouterr().out
    for stage in ("fit", "test"):
        report = tmp_path / f"{stage}-profile.txt"
        assert f"{stage.upper()} Profiler Report" in report.read_text() and report.name in told
    assert str(tmp_path) in told
    traces = list(tmp_path.glob("*.pt.trace.json"))
    assert bool(traces) == (name == "pytorch") and all(trace.name in told for trace in traces)


def test_a_run_that_is_stopped_has_its_report(tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise Stopped(15)

    monkeypatch.setattr("lightning_modules.classifier.Classifier.on_train_batch_end", stop)
    with pytest.raises(SystemExit):
        run_cell(cell_config(*SMALL, "trainer.profiler=simple"), tmp_path, "")
    assert "run_training_batch" in (tmp_path / "fit-profile.txt").read_text()
    assert "fit-profile.txt" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_costs_no_run(tmp_path, capsys):
    (tmp_path / "fit-profile.txt").mkdir()
    result = run_cell(cell_config(*SMALL, "trainer.profiler=simple"), tmp_path, "")
    assert result["status"] == "completed" and "was not written" in capsys.readouterr().out


def test_without_a_profiler_nothing_is_said(tmp_path, capsys):
    run_cell(cell_config(*SMALL), tmp_path, "")
    assert "profile" not in capsys.readouterr().out and not list(tmp_path.glob("*profile*"))


@pytest.mark.parametrize("given", [["trainer.profiler=xla"], ["trainer.profiler=simple", "task=time"]])
def test_what_cannot_be_profiled_is_refused(given):
    with pytest.raises(ConvzooError, match=r"trainer\.profiler"):
        check(cell_spec(*given))
