"""The command line: sweeps, wrong input, Ctrl-C, and what is printed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import QUICK, ROOT
from wandb_file import read_run

NET = ("model=mobilenet", "model.variant=v3_small", "data.batch_size=8")


def test_one_run_prints_a_table_and_says_how_to_upload(train, tmp_path):
    done = train(*NET, *QUICK, "hydra.run.dir=run", forked=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "wandb sync" in line]
    folder = line.partition("wandb sync ")[2]
    assert list((tmp_path / folder).glob("run-*.wandb"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for text in ("mobilenet", f"{result['metrics']['cost/params']:,}", "images/s", "test accuracy", "run"):
        assert text in done.stdout
    assert result["command"].startswith("python ") and result["command"].split()[2:] == [*NET, *QUICK]
    assert result["environment"]["versions"]["torch"] and result["environment"]["device"]
    assert result["environment"]["git_commit"]


def test_a_sweep_is_a_run_a_job_and_a_table_at_the_end(train, tmp_path):
    done = train("-m", *NET, *QUICK, "conv=native,spatial", "act=relu,swish", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(p.parent for p in (tmp_path / "sweep").glob("*/result.json"))
    assert len(folders) == 4
    results = [json.loads((f / "result.json").read_text()) for f in folders]
    assert {(r["cell"]["conv"], r["cell"]["act"]) for r in results} == {
        (c, a) for c in ("native", "spatial") for a in ("relu", "swish")
    }
    runs = [read_run(f) for f in folders]
    assert len({r["id"] for r in runs}) == 4 and {r["group"] for r in runs} == {"sweep"}
    assert "4 of 4 jobs completed" in done.stdout and "test acc" in done.stdout
    report = subprocess.run(
        [sys.executable, "-m", "zoo", "report", "sweep", "--markdown", "table.md", "--plot", "plot.png"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "table.md").read_text().count("\n") == 6
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


WRONG = [
    (["model=resent"], "Did you mean model=resnet"),
    (["conv=seperable"], "Did you mean conv=separable"),
    (["act=swich"], "Did you mean act=swish"),
    (["hardware=cppu"], "Allowed: auto, cpu, ddp, gpu"),
    (["data=digit"], "Did you mean data=digits"),
    (["logger=wand"], "Did you mean logger=wandb"),
    (["modle=resnet"], "Did you mean model"),
    (["trainer.max_epoch=1"], "Did you mean trainer.max_epochs"),
    (["+optim.momentun=1"], "optim=adamw has no option momentun"),
    (["model=effnet", "model.phi=-11"], "Allowed: a number from -10 to 10"),
    (["model=resnet", "model.phi=1"], "model.phi belongs to effnet"),
    (["model=effnet", "model.variant=b9"], "Allowed: b0, b1"),
    (["model=effnet", "model.variant=b1", "model.phi=1"], "leave out model.variant=b1"),
    (["model=timm"], "model.name must be given"),
    (["model=timm", "model.name=resnet19"], "Did you mean resnet"),
    (["model=timm", "model.name=vit_tiny_patch16_224", "model.stem=imagenet", "conv=separable"], "no convolution"),
    (["model.stem=tiny"], "Allowed: auto, small, imagenet"),
    (["data.batch_size=many"], "a whole number from 1"),
    (["optim.lr=0"], "a number above 0"),
    (["trainer.max_epochs=0"], "a whole number from 1"),
    (["trainer.precision=7"], "trainer:"),
    (["seed=-1"], "seed=-1"),
    (["data=imagefolder"], "data.root must be given"),
    (["data=imagefolder", "data.root=nowhere"], "Type data.root=ROOT"),
    (["data=cifar10"], "data.download=true"),
    (["optim.name=adamm"], "Did you mean optim.name=adam"),
    (["act="], "act"),
    (["model=resnet,effnet"], "-m"),
    (["model=null"], "model must be chosen"),
    (["act=[]"], "act is one choice by its name"),
    (["act=${oc.decode:'0'}"], "act is one choice by its name"),
    (["scale=compound", "scale.phi=1" + "0" * 400], "Allowed: a number from -10 to 10"),
    (["~seed"], "Type seed=VALUE"),
    (["--resolve"], "--cfg"),
    (["data.num_classes=3"], "type data.num_classes=10"),
    (["trainer.accelerator=gpu"], "hardware=cpu"),
    (["trainer.max_epochs=-1"], "needs an end"),
]


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "")
def test_wrong_input_is_one_clear_message(train, overrides, says):
    done = train(*overrides, *(() if any("logger" in o for o in overrides) else ("logger=none",)))
    assert done.returncode not in (0, 1), done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_missing_gpu_is_said(train):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = train("hardware=gpu")
    assert done.returncode == 2 and "hardware=cpu" in done.stderr


def test_ctrl_c_leaves_an_interrupted_result(start, tmp_path):
    run = start(*NET, "hydra.run.dir=run")
    run.until(lambda: "\nepoch 1/" in run.stdout)
    run.press_ctrl_c()
    assert run.wait(timeout=60) == 130, run.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert "Traceback" not in run.stderr
    assert read_run(tmp_path / "run")["exit_code"] == 130


def test_ctrl_c_stops_a_sweep_and_starts_no_further_job(start, tmp_path):
    short = ("data=synthetic", "data.images=64", "trainer.max_epochs=1000")
    sweep = start("-m", *NET, *short, "logger=none", "seed=0,1,2,3", "hydra.launcher.jobs=2", "hydra.sweep.dir=sweep")
    sweep.until(lambda: len(list((tmp_path / "sweep").glob("*/epochs.jsonl"))) == 2)
    sweep.press_ctrl_c()
    assert sweep.wait(timeout=90) == 130, sweep.stderr
    assert "Traceback" not in sweep.stderr
    results = [json.loads(p.read_text())["status"] for p in (tmp_path / "sweep").glob("*/result.json")]
    assert results == ["interrupted"] * 2


def test_answers_come_without_importing_torch(clean_env, tmp_path):
    code = "import sys, zoo.report, zoo.backbones.families, hydra_plugins.convzoo.local_launcher"
    code += ", lightning_modules.sweep.driver; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_env, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_zoo_needs_neither_lightning_nor_hydra_nor_wandb(clean_env):
    code = (
        "import sys\n"
        "for name in ('lightning', 'pytorch_lightning', 'hydra', 'wandb'): sys.modules[name] = None\n"
        "import zoo\n"
        "net = zoo.build('resnet18', 'separable', 'swish', num_classes=2)\n"
        "print(zoo.cost(net, 32).params, zoo.rewrite(net, 'spatial').conv)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_it_imports_ends_without_a_traceback(tmp_path, clean_env):
    (tmp_path / "hydra.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = clean_env | {"PYTHONPATH": str(tmp_path)}
    code = f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_sigterm_ends_with_143(start, tmp_path):
    run = start(*NET, "logger=none", "hydra.run.dir=run")
    run.until(lambda: "\nepoch 1/" in run.stdout)
    run.send(signal.SIGTERM)
    assert run.wait(timeout=60) == 143, run.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"
