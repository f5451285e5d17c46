"""W&B: what happens without an account, without a server, or when it is switched off."""

import json
import os

from conftest import QUICK
from wandb_file import read_run

NET = ("model=mobilenet", "model.variant=v3_small", "data.batch_size=8", *QUICK, "hydra.run.dir=run")
NO_SERVER = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


def result(tmp_path):
    return json.loads((tmp_path / "run" / "result.json").read_text())


def test_a_server_that_is_not_there_costs_seconds_not_the_run(train, tmp_path):
    done = train(*NET, "logger.timeout_s=3", env=NO_SERVER)
    assert done.returncode == 0, done.stderr
    assert "offline" in done.stdout and "wandb sync" in done.stdout
    assert result(tmp_path)["wandb"]["mode"] == "offline"
    run = read_run(tmp_path / "run" / os.path.relpath(result(tmp_path)["wandb"]["dir"], tmp_path / "run"))
    assert run["exit_code"] == 0 and run["summary"]["test/acc"] == result(tmp_path)["metrics"]["test/acc"]
    texts = [
        p.read_text(errors="replace") for p in (tmp_path / "run").rglob("*") if p.is_file() and p.suffix != ".ckpt"
    ]
    assert not any("0" * 40 in text for text in texts), "no key in any file"


def test_switched_off(train, tmp_path):
    assert train(*NET, env={"WANDB_MODE": "disabled"}).returncode == 0
    assert result(tmp_path)["wandb"] == {"id": None, "mode": "disabled", "dir": None}


def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    from lightning_modules.tracking import has_key

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "mine"))
    assert not has_key()
    (tmp_path / "mine").write_text("machine api.wandb.ai\n  login user\n  password " + "a" * 40 + "\n")
    assert has_key()
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert has_key()
