"""Several loggers in one run, any of Lightning's among them: what each gets, and what one that fails costs."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, cell_config, cell_spec
from own_loggers import Broken, Recorder
from stopping import stop_at_batch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_cell import TINY
from unmeasured import unmeasured  # noqa: F401
from wandb_file import read_run

from hydra_plugins.convzoo._cli import check_arguments, check_overrides
from lightning_modules import run_cell
from lightning_modules.config.check import check
from lightning_modules.tracking.loggers import make_loggers
from zoo import ConvzooError

pytestmark = pytest.mark.usefixtures("unmeasured")

CONFIG = (
    *(key for key in TINY if key != "logger=none"),
    "logger.mode=offline",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=4",
    "trainer.log_every_n_steps=1",
    "checkpoint.every_s=0",
)
OTHERS = tuple(key for key in CONFIG if key != "logger.mode=offline")


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def own(name, kind, **arguments):
    """Overrides that say what a file of the user's would."""
    given = {"_target_": kind, **arguments}
    return [f"+logger.{name}.{key}={value}" for key, value in given.items()]


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


KILLED = """
import signal, sys
from pathlib import Path
import pytest
from conftest import cell_config
from stopping import stop_at_batch
from lightning_modules import run_cell
stop_at_batch(pytest.MonkeyPatch(), 7, signal.SIGKILL)
run_cell(cell_config(*sys.argv[2:]), Path(sys.argv[1]), "")
"""


def test_tensorboard_and_w_and_b_go_on_after_kill_9(tmp_path):
    config = [*CONFIG, "logger=[wandb,tensorboard]"]
    paths = [str(ROOT / "tests"), str(ROOT / "tests/support"), str(ROOT)]
    code = f"import sys; sys.path[:0] = {paths}\n{KILLED}"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), *config], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = scalars(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in before["val/acc"]] == [3] and "test/acc" not in before
    result = run_cell(cell_config(*config), tmp_path / "run", "")
    after = scalars(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in after["val/acc"]] == [3, 7, 11] and after["val/acc"][0] == before["val/acc"][0]
    assert after["test/acc"][-1] == (12, pytest.approx(result["metrics"]["test/acc"]))
    assert after["cost/params"][0][1] == result["metrics"]["cost/params"]
    assert "model: mobilenet" in (tmp_path / "run" / "tensorboard" / "hparams.yaml").read_text()
    wandb = result["wandb"]
    rows = [row for d in wandb["dirs"] for row in read_run(Path(d))["history"]]
    # A kill costs W&B its last second.
    assert wandb["lost_rows"] == 0 and len([row for row in rows if "val/acc" in row]) in (2, 3)


def test_a_logger_gets_choices_rows_the_result_and_the_end(tmp_path):
    result = run_cell(
        cell_config(*OTHERS, "logger=none", *own("mine", "own_loggers.Recorder", folder="'{folder}'")), tmp_path, ""
    )
    first, *rows, params, final, end = Recorder.calls
    assert first[1]["model"] == "mobilenet" and "cost/macs" not in first[1]
    assert params[1] == first[1] | {k: v for k, v in result["metrics"].items() if k.startswith("cost/")}
    assert {row[0] for row in rows} == {"row"} and [r[2] for r in rows if "val/acc" in r[1]] == [3, 7, 11]
    assert final == ("row", {k: v for k, v in result["metrics"].items() if k != "val/acc"}, 12)
    assert end == ("end", "success") and result["wandb"]["id"] is None


def test_a_stopped_run_did_not_succeed(tmp_path, monkeypatch):
    stop_at_batch(monkeypatch, 2)
    with pytest.raises(SystemExit):
        run_cell(cell_config(*OTHERS, "logger=none", *own("mine", "own_loggers.Recorder", folder=".")), tmp_path, "")
    assert Recorder.calls[-1] == ("end", "failed")


def test_a_logger_that_fails_costs_one_line(tmp_path, capsys):
    broken = own("mine", "own_loggers.Broken", folder=".")
    result = run_cell(cell_config(*OTHERS, "logger=csv", *broken), tmp_path, "")
    assert result["status"] == "completed" and "val/acc" in (tmp_path / "metrics.csv").read_text()
    lines = [line for line in capsys.readouterr().out.splitlines() if "logger.mine" in line]
    assert lines == ["logger.mine: log_hyperparams failed (OSError: no such server); the run continues."]
    assert len(Broken.calls) == 4, "three rows after the hyper-parameters: each call may wait for a server"


def test_it_is_still_an_instance_of_its_class(tmp_path):
    spec = cell_spec("logger=none", *own("m", "own_loggers.Recorder", folder="x"))
    (logger,) = make_loggers(spec, tmp_path, {"seed": 0}, "")
    assert isinstance(logger, Recorder) and logger.folder == "x"


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    """What the server has, as a function."""
    monkeypatch.syspath_prepend(str(ROOT / "tests/support/fake_mlflow"))
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._get_resolve_tags", lambda: dict)
    yield lambda: json.loads((tmp_path / "mlruns.json").read_text())
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        del sys.modules[name]


def test_mlflow_goes_on_in_the_same_run(mlflow, tmp_path, monkeypatch):
    config = [*OTHERS, "logger=mlflow", f"logger.mlflow.save_dir={tmp_path / 'mlruns'}"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at_batch(patch, 6)
        run_cell(cell_config(*config), tmp_path / "run", "")
    result = run_cell(cell_config(*config), tmp_path / "run", "")
    (run,) = mlflow().values()
    assert run["experiment"] == "convzoo" and run["tags"]["mlflow.runName"].startswith("mobilenet-v3_small")
    assert run["params"]["conv"] == "native" and run["params"]["cost/params"] == str(result["metrics"]["cost/params"])
    assert [step for step, _ in run["metrics"]["val/acc"]] == [3, 7, 11] and run["ends"] == ["FAILED", "FINISHED"]
    (tmp_path / "run" / "result.json").unlink()
    run_cell(cell_config(*config), tmp_path / "run", "")
    assert len(mlflow()) == 2


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for extra in ("tensorboard", "mlflow"):
        with pytest.raises(ConvzooError, match=rf"convzoo\[{extra}\]"):
            check(cell_spec(f"logger={extra}"))


@pytest.mark.parametrize(
    "argument",
    ["+logger.x._target_=os.system", "logger.tensorboard=${oc.decode:x}", "+logger={x: {y: z}}", "+logger.x={y: 1}"],
)
def test_the_command_line_names_no_code(argument):
    with pytest.raises(ConvzooError):
        check_arguments([argument])


def test_keys_of_loggers_on_the_command_line():
    fine = ["logger=[wandb,tensorboard]", "logger.tensorboard.version=a", "+logger.mine.flush=1", "logger.project=p"]
    check_arguments(fine)
    check_overrides(fine)
    with pytest.raises(ConvzooError, match="Did you mean logger=tensorboard"):
        check_arguments(["logger=[wandb,tensorbord]"])
    with pytest.raises(ConvzooError, match=r"Did you mean logger\.project"):
        check_overrides(["+logger.projct=p"])


def test_a_key_as_before(tmp_path):
    assert [logger.name for logger in make_loggers(cell_spec("logger.name=csv"), tmp_path, {}, "")] == ["csv"]
    assert make_loggers(cell_spec("logger.name=none"), tmp_path, {}, "") == []
