"""A folder that has been used: by this run, by another one, by one that was killed."""

import json
import shlex

import pytest
from conftest import cell_config, cell_spec
from stopping import stop_at_batch
from tiny_cell import TINY

from lightning_modules import run_cell
from lightning_modules.callbacks.epochs import EpochLines
from lightning_modules.config.identity import cell_id, differences
from lightning_modules.results.finished_run import finished_before
from lightning_modules.sweep.jobs import Job
from zoo.errors import ConvzooError


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "job.lock"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_cell(cell_config(*TINY), folder, "a command")


def test_a_finished_run_started_again_is_finished(finished, capsys):
    folder, result = finished
    before = content(folder)
    # Where it runs is no other run.
    again = run_cell(cell_config(*TINY, "logger=csv"), folder, "another command")
    assert again == result and content(folder) == before
    told = capsys.readouterr().out.strip().rpartition(": ")[2]
    assert shlex.split(told) == ["rm", str(folder / "result.json")]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.lr=0.25", "optim.lr: 0.003 there, 0.25 here"),
        ("conv=spatial", 'conv: "native" there, "spatial" here'),
        ("seed=7", "seed: 0 there, 7 here"),
        ("model.stem=imagenet", 'stem: "small" there, "imagenet" here'),
    ],
)
def test_a_finished_result_is_not_overwritten_by_another_run(finished, override, says):
    folder, _ = finished
    before = content(folder)
    with pytest.raises(ConvzooError, match=r"hydra\.run\.dir") as refused:
        run_cell(cell_config(*TINY, override), folder, "a command")
    assert says in str(refused.value)
    assert content(folder) == before


def test_a_checkpoint_of_another_recipe_is_refused_key_by_key_and_nothing_is_written(tmp_path, monkeypatch):
    stop_at_batch(monkeypatch, 1)
    with pytest.raises(SystemExit):
        run_cell(cell_config(*TINY), tmp_path, "a command")
    before = content(tmp_path)
    assert json.loads(before["result.json"])["status"] == "interrupted"
    with pytest.raises(ConvzooError) as refused:
        run_cell(cell_config(*TINY, "optim.lr=0.25", "data.augment.hflip=true"), tmp_path, "a command")
    assert "(data.augment.hflip: false there, true here; optim.lr: 0.003 there, 0.25 here)" in str(refused.value)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "[" * 100_000,
        '{"status": "completed", "cell": {}}',
        '{"status": ["completed"], "metrics": {}, "cell": {}, "environment": {}}',
        '{"status": "completed", "metrics": {"test/acc": 1}, "cell": {}, "environment": {}, "crc32": "00000000"}',
    ],
)
def test_what_a_sweep_cannot_use_a_run_does_not_take_for_its_result(tmp_path, text, capsys):
    spec = cell_spec(*TINY)
    (tmp_path / "result.json").write_text(text)
    if text.startswith("{"):
        (tmp_path / "result.json").write_text(text := json.dumps(json.loads(text) | {"id": cell_id(spec)}))
    assert Job(0, [], spec, tmp_path).result() == {}
    assert finished_before(spec, tmp_path, "cpu") is None and "result.json.unreadable" in capsys.readouterr().out
    assert (tmp_path / "result.json.unreadable").read_text() == text


def test_a_result_that_cannot_be_read_is_kept_and_old_curves_are_not_continued(tmp_path, capsys):
    (tmp_path / "result.json").write_text('{"status": "comp')
    (tmp_path / "epochs.jsonl").write_text('{"epoch": 30, "val/acc": 0.9}\n')
    result = run_cell(cell_config(*TINY), tmp_path, "a command")
    assert result["status"] == "completed" and "result.json.unreadable" in capsys.readouterr().out
    assert (tmp_path / "result.json.unreadable").read_text() == '{"status": "comp'
    assert [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == [0]


def test_a_cut_line_does_not_spoil_the_next_one(tmp_path):
    class Trainer:
        is_global_zero, callback_metrics, current_epoch, global_step = True, {}, 4, 8

    path = tmp_path / "epochs.jsonl"
    path.write_text('{"epoch": 3}\n{"epo')
    lines = EpochLines(tmp_path)
    lines.load_state_dict({"lines": ['{"epoch": 3}\n'], "validated": {}})
    lines.on_train_start(Trainer(), None)
    lines.on_train_epoch_end(Trainer(), None)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [3, 4]


def test_differences_name_what_matters_only():
    here = cell_spec("optim.lr=0.1", "logger=none", "data=synthetic", "data.images=64")
    text = differences(cell_config("optim.lr=0.1", "logger=csv"), here)
    assert 'data.name: "digits" there, "synthetic" here' in text and "data.images: nothing there, 64 here" in text
    assert "logger" not in text and "lr" not in text
