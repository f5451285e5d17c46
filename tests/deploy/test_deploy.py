"""Export and int8: what leaves Python computes what the eager network computes."""

import itertools
import json
import platform
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import QUICK, ROOT, cell_config
from torch import nn

import zoo
from zoo.__main__ import main
from zoo.compression import int8 as quantizer
from zoo.convs import KINDS, ConvSpec
from zoo.deploy import export as exporter
from zoo.errors import need_packages

BACKBONES = ("resnet18", "efficientnet_b0", "mobilenetv2_100", "mobilenetv1_100")
ALL = list(itertools.product(BACKBONES, ("native", *KINDS), ("relu", "swish")))
# Every backbone, kind and activation at least once; the whole grid is marked slow.
FEW = [
    ("resnet18", "separable", "relu"),
    ("efficientnet_b0", "standard", "swish"),
    ("mobilenetv2_100", "spatial", "relu"),
    ("mobilenetv1_100", "native", "swish"),
    ("resnet18", "spatial", "prelu"),
    ("mobilenetv2_100", "native", "swish_beta"),
]
# The hardest of each backbone: squeeze-and-excitation, and activations with a parameter.
INT8 = [FEW[1], FEW[4], FEW[5]]
CELLS = [*INT8, *(pytest.param(*c, marks=pytest.mark.slow) for c in ALL if c not in INT8)]

onnx = pytest.mark.skipif(
    any(find_spec(p) is None for p in ("onnx", "onnxscript", "onnxruntime")),
    reason='needs pip install "convzoo[export]"',
)
int8 = pytest.mark.skipif(
    find_spec("torchao") is None or platform.machine() != "x86_64",
    reason='needs pip install "convzoo[int8]" and an x86 CPU',
)


def images(n=16, channels=3, size=(32, 32), seed=0):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def lively(backbone, conv="native", act="native"):
    """A network that nothing is switched off in: timm starts the last BatchNorm of a residual branch at zero, and
    then every conv kind gives the same logits."""
    torch.manual_seed(0)
    # The full depth in the slow grid only: tracing takes time per layer.
    depth = 0.1 if (backbone, conv, act) in FEW else 1
    net = zoo.build(backbone, conv, act, num_classes=10, stem="small", depth=depth)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None
    with torch.no_grad():
        net.train()(images(32))
    return net.eval()


def correlation(a, b):
    """Of the logits, each class's mean taken off."""
    return torch.corrcoef(torch.stack([(x - x.mean(0)).flatten() for x in (a, b)]))[0, 1].item()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from lightning_modules import run_cell

    folder = tmp_path_factory.mktemp("run")
    config = cell_config(
        "model=mobilenet", "model.variant=v3_small", "scale=depth", "scale.factor=0.1", "logger=none", *QUICK
    )
    return run_cell(config, folder, "python train.py"), folder / "best.ckpt"


@pytest.mark.parametrize(
    ("form", "backbone", "conv", "act"),
    [
        pytest.param(form, *cell, marks=[*([onnx] if form == "onnx" else []), *([] if quick else [pytest.mark.slow])])
        for form, cells in (("onnx", FEW[::2]), ("torch", FEW[1::2]))
        for cell in ALL
        for quick in (cell in cells,)
    ],
)
def test_exported_networks_compute_the_same(form, backbone, conv, act, tmp_path):
    net = lively(backbone, conv, act)
    path = zoo.export(net, tmp_path / "net", (32, 48), form)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    batch = images(5, size=(32, 48), seed=1)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        got = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
    else:
        got = torch.export.load(path).module()(batch)
    with torch.no_grad():
        expected = net(batch)
    assert expected.std(0).min() > 1e-3  # logits that depend on the image
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "_read", lambda path, form: lambda x: torch.export.load(path).module()(x) * 1.001)
    with pytest.raises(zoo.ConvzooError, match=r"differ .* by 1\.0e-03"):
        zoo.export(lively("mobilenetv1_100", "native", "swish"), tmp_path / "net.pt2", 32, "torch")
    assert not list(tmp_path.iterdir())


class Undecided(nn.Module):
    """What to compute depends on the pixels: no tracer can follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).flatten(1) if x.sum() > 0 else x.flatten(1)


def test_wrong_requests_for_export_are_refused(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    for arguments, says in (
        ((net, tmp_path / "a", 8, "onyx"), "Did you mean format=onnx"),
        ((net, tmp_path / "a", None, "torch"), "image_size=N"),
        ((net, tmp_path / "no" / "a", 8, "torch"), "is not a folder"),
        ((Undecided(), tmp_path / "a", 8, "torch"), "torch.export cannot trace it"),
        ((tmp_path / "missing.ckpt", None, 8, "torch"), "is not a file"),
    ):
        with pytest.raises(zoo.ConvzooError, match=says):
            zoo.export(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_said_with_what_to_install():
    need_packages("export", "torch")
    with pytest.raises(zoo.ConvzooError, match=r'no_such_package .*pip install "convzoo\[export\]"'):
        need_packages("export", "torch", "no_such_package")


def test_a_checkpoint_knows_its_image_size(checkpoint, tmp_path, capsys):
    result, path = checkpoint
    assert main(["export", str(path), "--format", "torch"]) == 0
    assert str(path.with_suffix(".pt2")) in capsys.readouterr().out
    program = torch.export.load(path.with_suffix(".pt2")).module()
    batch = images(3, channels=1, size=(result["cell"]["image_size"],) * 2)
    with torch.no_grad():
        assert torch.allclose(program(batch), zoo.load(path)(batch), atol=1e-5)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    assert main(["export", str(tmp_path / "bad.ckpt")]) == 2
    assert "bad.ckpt" in capsys.readouterr().err


@int8
@pytest.mark.parametrize("kind", KINDS)
def test_one_convolution_keeps_30_db(kind):
    """Eight bits on inputs, outputs and weights: each rounds to 1/255 of its range."""
    torch.manual_seed(0)
    spec = ConvSpec(8, 16, (3, 3), padding=(1, 1))
    net = nn.Sequential(KINDS[kind](spec), nn.BatchNorm2d(16), nn.ReLU()).eval()
    quantized = zoo.quantize(net, [images(16, 8)])
    done, layers = quantizer.count_layers(quantized)
    assert done == layers == sum(isinstance(m, nn.Conv2d) for m in net.modules())
    with torch.no_grad():
        expected = net(images(8, 8, seed=1))
        error = quantized(images(8, 8, seed=1)) - expected
    assert 10 * torch.log10(expected.pow(2).sum() / error.pow(2).sum()) > 30


@int8
@pytest.mark.parametrize(("backbone", "conv", "act"), CELLS)
def test_every_layer_is_int8_and_the_logits_follow(backbone, conv, act, tmp_path):
    """Random deep networks amplify noise (40 dB at the image are 5 dB at MobileNetV1's logits): hence a correlation."""
    net = lively(backbone, conv, act)
    quantized = zoo.quantize(net, [images(16, seed=1), images(16, seed=2)])
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules())
    # Squeeze-excite's 1×1 convolutions are among them.
    assert quantizer.count_layers(quantized) == (layers, layers)
    assert not any(p.dtype == torch.float32 and p.ndim == 4 for p in quantized.state_dict().values())
    batch = images(64, seed=3)
    with torch.no_grad():
        assert correlation(quantized(batch), net(batch)) > 0.6
    quantizer.save(quantized, tmp_path / "int8.pt2", (3, 32, 32))
    again = torch.export.load(tmp_path / "int8.pt2").module()
    with torch.no_grad():
        assert torch.equal(again(batch[:3]), quantized(batch[:3]))
    floats = sum(p.numel() for p in net.parameters()) * 4
    assert (tmp_path / "int8.pt2").stat().st_size < 0.5 * floats


@int8
def test_layers_left_in_float_are_named():
    from timm.layers import Conv2dSame

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Conv2dSame(4, 4, 3, stride=2), nn.Flatten())
    quantized = zoo.quantize(net, [images(2, size=(8, 8))])
    assert quantizer.count_layers(quantized) == (1, 2) and quantizer.float_layers(quantized) == ["1"]


@int8
def test_networks_that_cannot_be_quantised_are_refused():
    same = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Flatten(), nn.Linear(4 * 8 * 8, 2))
    for net, batches, says in (
        (same, [images(2, size=(8, 8))], "cannot be quantised"),
        (nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), [images(2)], "has no layer that the x86 backend quantises"),
        (Undecided(), [images(2)], "cannot trace"),
        (same, [], "at least one batch"),
    ):
        with pytest.raises(zoo.ConvzooError, match=says):
            zoo.quantize(net, batches)


@int8
@pytest.mark.slow
@pytest.mark.parametrize("act", ["relu", "swish", "gelu"])
def test_lowered_networks_run_on_int8_kernels(act):
    """Compiles C++: tens of seconds."""
    from torch._dynamo.utils import counters

    net = lively("resnet18", "spatial", act)
    quantized = zoo.quantize(net, [images(16, seed=1)])
    counters.clear()
    lowered = zoo.lower(quantized)
    batch = images(8, seed=2)
    with torch.no_grad():
        assert correlation(lowered(batch), quantized(batch)) > 0.98
    convs = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert counters["inductor"]["qconv_weight_prepack_matcher_count"] == convs
    assert lowered.train().eval()(batch).shape == (8, 10)  # zoo.speed sets the mode


@int8
@pytest.mark.slow
def test_the_command_compares_int8_with_the_run(checkpoint, tmp_path):
    result, path = checkpoint
    command = [sys.executable, "-m", "zoo", "quantize"]
    done = subprocess.run(
        [*command, str(path), "--output", str(tmp_path / "net.pt2")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    compared = json.loads((tmp_path / "net.json").read_text())
    # The float network is tested on the run's own test images.
    assert compared["float32"]["test/acc"] == pytest.approx(result["metrics"]["test/acc"])
    assert compared["int8"]["test/images"] == 270 and compared["calibration_images"] == 512
    # The backend finds no pattern for MobileNetV3's classifier behind hard-swish and flatten.
    layers = compared["layers"]
    assert layers["float"] == ["classifier"] and layers["int8"] == layers["all"] - 1
    assert compared["int8"]["size_mb"] == (tmp_path / "net.pt2").stat().st_size / 1e6 < compared["float32"]["size_mb"]
    assert f"of {layers['all']} layers int8" in done.stdout
    done = subprocess.run([*command, str(tmp_path / "no.ckpt")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "is not a file" in done.stderr and "Traceback" not in done.stderr
