"""Our own CPU kernels against PyTorch's, in float64 as the judge."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import subprocess
import sys
import weakref

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import ROOT
from timm.layers import BatchNormAct2d
from torch import nn

import zoo
from zoo import kernels
from zoo.kernels import library
from zoo.kernels.depthwise import depthwise_conv2d
from zoo.kernels.modules import (
    COMPILED,
    FastBatchNorm,
    FastDepthwise,
    FastPointwise,
    FastSqueezeExcite,
    FloatDepthwise,
)
from zoo.kernels.norm import ACTIVATIONS

DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Relative to the largest value: a few units in the last place."""

needs_compiler = pytest.mark.skipif(kernels.why_not() is not None, reason=f"no kernels: {kernels.why_not()}")


def off(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-9)).item()


def gradients(out: torch.Tensor, towards: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(out, inputs, towards.to(out.dtype))


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (2, 2), (3, 3), (5, 5), (7, 7), (9, 9)])
def test_depthwise_values_and_gradients(kernel, dtype):
    generator = torch.Generator().manual_seed(0)
    checked = 0
    strides, paddings, dilations = [(1, 1), (2, 2), (1, 2), (3, 3)], (0, 1, 3), [(1, 1), (2, 2)]
    sizes, channels = [(9, 8), (2, 3), (17, 16)], (5, 16, 40)
    for stride, padding, dilation, size, c in itertools.product(strides, paddings, dilations, sizes, channels):
        pads = tuple(min(padding, (k - 1) * d) for k, d in zip(kernel, dilation, strict=True))
        if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(size, pads, dilation, kernel, strict=True)):
            continue
        x = torch.randn(3, c, *size, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(c, 1, *kernel, generator=generator).requires_grad_()
        exact = [t.detach().double().requires_grad_() for t in (x, weight)]
        out = depthwise_conv2d(x, weight, stride, pads, dilation)
        wanted = F.conv2d(*exact, None, stride, pads, dilation, c)
        towards = torch.randn(wanted.shape, generator=generator).to(dtype).double()
        pairs = zip(
            (out, *gradients(out, towards, x, weight)), (wanted, *gradients(wanted, towards, *exact)), strict=True
        )
        assert max(itertools.starmap(off, pairs)) < ROUNDING[dtype], (stride, pads, dilation, size, c)
        assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
        checked += 1
    assert checked > 50


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", [nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("channels", [1, 5, 16, 40, 130])
def test_batchnorm_with_activation(channels, act, dtype):
    torch.manual_seed(0)
    norm = BatchNormAct2d(channels, act_layer=act, apply_act=act is not nn.Identity)
    for p in (norm.weight, norm.bias):
        nn.init.normal_(p)
    exact = copy.deepcopy(norm).double()
    assert kernels.speed_up(norm) == 1
    # A mean far from zero: sums of squares alone would lose the variance.
    x = (torch.randn(40, channels, 5, 5) * 3 + 50).to(dtype).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    out, wanted = norm(x), exact(x64)
    # At a kink a rounding decides which side a value is on: those beside one are left out of the gradients.
    with torch.no_grad():
        z = F.batch_norm(x64, None, None, exact.weight, exact.bias, training=True)
    kinks = (z.abs(), (z - 6).abs(), (z.abs() - 3).abs())
    towards = torch.randn_like(out) * (torch.stack(kinks).amin(0) > 2 * ROUNDING[dtype])
    ours = (out, *gradients(out, towards, x, norm.weight, norm.bias))
    theirs = (wanted, *gradients(wanted, towards, x64, exact.weight, exact.bias))
    assert off(ours[0], theirs[0]) < ROUNDING[dtype]
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert off(a, b) < 5 * ROUNDING[dtype]
    assert off(norm.running_mean, exact.running_mean) < 1e-5 and off(norm.running_var, exact.running_var) < 1e-4
    assert norm.num_batches_tracked == 1
    norm.eval(), exact.eval()
    with torch.no_grad():
        assert off(norm(x), exact(x64)) < ROUNDING[dtype]
    assert off(norm(x), exact(x64)) < 2 * ROUNDING[dtype]  # with gradients: PyTorch's


@needs_compiler
def test_batchnorm_of_one_value_a_channel_is_refused_as_by_pytorch():
    norm = nn.BatchNorm2d(3)
    kernels.speed_up(norm)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.randn(1, 3, 1, 1))


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [8, 72])
def test_squeeze_and_excitation(channels, dtype):
    torch.manual_seed(0)
    module = timm.models._efficientnet_blocks.SqueezeExcite(channels)
    exact = copy.deepcopy(module).double()
    kernels.speed_up(module)
    assert type(module) is FastSqueezeExcite
    x = torch.randn(6, channels, 7, 5).to(dtype).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = module(x)
    wanted = exact(x64)
    towards = torch.randn_like(out)
    inputs = (module.conv_reduce.weight, module.conv_expand.bias)
    inputs64 = (exact.conv_reduce.weight, exact.conv_expand.bias)
    ours, theirs = gradients(out, towards, x, *inputs), gradients(wanted, towards, x64, *inputs64)
    for a, b in zip((out, *ours), (wanted, *theirs), strict=True):
        assert off(a, b) < 3 * ROUNDING[dtype]


@needs_compiler
@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "resnet18", "convnext_atto"]
)
def test_a_network_computes_the_same(name):
    torch.manual_seed(0)
    # Smooth: at a kink a rounding decides which side a value is on, and one of a million weighs more than all the rest.
    net = zoo.build(name, act="swish", num_classes=10, stem="imagenet" if name == "convnext_atto" else "small")
    exact, stock, keys = copy.deepcopy(net).double(), copy.deepcopy(net), list(net.state_dict())
    kinds = {type(m) for m in net.modules()}
    assert kernels.speed_up(net) > 5
    assert list(net.state_dict()) == keys
    x, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    for network, images in ((net, x), (stock, x), (exact, x.double())):
        F.cross_entropy(network(images), labels).backward()
    # At the start gradients are what cancellation leaves of large sums: PyTorch's own are off too, and by how much is
    # the measure.
    for (key, ours), theirs, judge in zip(net.named_parameters(), stock.parameters(), exact.parameters(), strict=True):
        own, usual = ((p.grad.double() - judge.grad).norm() for p in (ours, theirs))
        assert own <= 5 * usual + 1e-4 * judge.grad.norm(), key
    net.eval(), exact.eval()
    with torch.no_grad():
        assert off(net(x), exact(x.double())) < 1e-3
    kernels.restore(net)
    assert {type(m) for m in net.modules()} == kinds


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype):
    torch.manual_seed(0)
    net = zoo.build("mobilenetv3_small_100", num_classes=10, stem="small")
    kernels.speed_up(net)
    fast = [m for m in net.modules() if isinstance(m, (FastDepthwise, FastBatchNorm))][:12]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            values = []
            for module in fast:
                channels = module.weight.shape[0]
                x = torch.linspace(-3, 5, 24 * channels * 121).view(24, channels, 11, 11).to(dtype).requires_grad_()
                out = module(x)
                values += [out, *gradients(out, out.detach().cos(), x, module.weight)]
            found.append(values)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_compiler
def test_a_gate_is_freed_with_its_graph():
    module = timm.models._efficientnet_blocks.SqueezeExcite(8)
    kernels.speed_up(module)
    gates = []
    module.gate.register_forward_hook(lambda module, given, gate: gates.append(weakref.ref(gate)))
    for backward in (True, False):
        out = module(torch.randn(2, 8, 4, 4, requires_grad=True))
        if backward:
            out.sum().backward()
        del out
    gc.collect()
    assert [gate() for gate in gates] == [None, None]


@needs_compiler
@pytest.mark.parametrize("far", [10, 1000])
def test_statistics_survive_an_outlier_in_the_corner(far):
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(16), torch.randn(16, 16, 16, 16)
    x[0, :, 0, 0] = far
    exact = copy.deepcopy(norm).double()
    kernels.speed_up(norm)
    norm(x), exact(x.double())
    assert off(norm.running_var, exact.running_var) < 1e-5


@needs_compiler
def test_nan_stays_nan():
    for act in ACTIVATIONS:
        norm = BatchNormAct2d(4, act_layer=act, apply_act=act is not nn.Identity)
        kernels.speed_up(norm)
        x = torch.randn(2, 4, 3, 3)
        x[0, 1, 0, 0] = float("nan")
        x.requires_grad_()
        out = norm(x)
        out.sum().backward()
        assert out[:, 1].isnan().all() and x.grad[:, 1].isnan().all() and not out[:, 0].isnan().any(), act


@needs_compiler
@pytest.mark.parametrize("module", [nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)], ids=repr)
def test_a_wrong_number_of_channels_is_refused_as_by_pytorch(module):
    module = copy.deepcopy(module)
    assert kernels.speed_up(module) == 1
    with pytest.raises(RuntimeError, match="8"):
        module(torch.randn(2, 16, 5, 5))


@needs_compiler
def test_a_network_can_be_traced_and_exported():
    net = zoo.build("efficientnet_b0", num_classes=4, stem="small", depth=0.3).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        kernels.speed_up(net)
        assert torch.allclose(torch.jit.trace(net, x)(x), expected, atol=1e-4)
        assert torch.allclose(torch.export.export(net, (x,)).module()(x), expected, atol=1e-4)


def test_what_the_kernels_cannot_do_stays_as_it_is():
    odd = nn.Sequential(
        nn.Conv2d(8, 16, 3, groups=8),  # two filters a channel
        nn.Conv2d(16, 16, 3, groups=16, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, groups=16, padding="same"),
        nn.Conv2d(16, 16, 3, groups=16, padding=5),
        nn.Conv2d(16, 16, 1, groups=16, padding=1),
        nn.Conv2d(16, 8, 1, stride=2),
        nn.BatchNorm2d(8, track_running_stats=False),
    )
    assert kernels.speed_up(odd) == 0


@needs_compiler
def test_on_another_device_or_dtype_it_is_pytorch():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    assert kernels.speed_up(net) == 3
    assert copy.deepcopy(net).to("meta")(torch.empty(2, 4, 8, 8, device="meta")).shape == (2, 2, 6, 6)
    double = copy.deepcopy(net).double()
    assert double(torch.randn(2, 4, 8, 8).double()).dtype == torch.float64
    assert zoo.cost(net, 8, in_chans=4).macs == 36 * 4 * 9 + 36 * 4 * 2


def test_without_a_compiler_depthwise_convolutions_stay_float32(monkeypatch):
    monkeypatch.setattr(library, "_find", lambda: (None, "no C++ compiler"))
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    exact = copy.deepcopy(net)
    kernels.speed_up(net)
    assert [type(m) for m in net] == [FloatDepthwise, nn.BatchNorm2d, FastPointwise]
    x = torch.randn(2, 4, 8, 8)
    assert torch.allclose(net(x), exact(x), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = net[0](x)
    assert out.dtype == torch.bfloat16 and torch.equal(out, exact[0](x).bfloat16())


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CONVZOO_KERNELS": "off"}, "CONVZOO_KERNELS=off"),
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler (c++, g++, clang++)"),
        ({"CXX": "false"}, "the C++ compiler failed: "),
    ],
)
def test_why_there_are_no_kernels(environment, reason, tmp_path, monkeypatch):
    for key, value in {"XDG_CACHE_HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(key, value)
    found, why = library._find.__wrapped__()
    assert found is None and why.startswith(reason)


@needs_compiler
@pytest.mark.parametrize("writable", [True, False])
def test_the_library_is_compiled_once_and_kept(writable, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    quick = [flag.replace("-O3", "-O0") for flag in library.FLAGS]
    monkeypatch.setattr(library, "FLAGS", quick)
    monkeypatch.setattr(library, "SOURCES", ("gate.cpp",))  # the smallest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("cache" if writable else "file")))
    assert library._find.__wrapped__()[1] is None
    if writable:
        (made,) = (tmp_path / "cache").rglob("*.so")
        assert [p for p in made.parent.iterdir() if p != made] == []
        run = library._run
        monkeypatch.setattr(library, "_run", None)  # no second time
        assert library._find.__wrapped__()[1] is None
        monkeypatch.setattr(library, "_run", run)
        made.unlink()
        made.write_bytes(b"damaged")
        # A name that was loaded before is not read again: a process of its own.
        code = (
            f"from zoo.kernels import library; library.FLAGS, library.SOURCES = {quick}, ('gate.cpp',); "
            "assert library.why_not() is None"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert made.stat().st_size > 1000


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (3, 7)])
def test_taps_that_see_only_padding_are_left_out(size):
    torch.manual_seed(0)
    for kernel, stride, padding, dilation in itertools.product([1, 2, 3, 5, (7, 3)], [1, 2, 3], [0, 1, 2, 3], [1, 2]):
        conv = nn.Conv2d(3, 4, kernel, stride, padding, dilation)
        high, wide = conv.kernel_size
        x = torch.randn(2, 3, *size)
        if size[0] + 2 * padding <= dilation * (high - 1) or size[1] + 2 * padding <= dilation * (wide - 1):
            continue
        expected = conv(x)
        towards = torch.randn_like(expected)
        (wanted,) = gradients(expected, towards, conv.weight)
        assert kernels.trim(conv) == (max(high, wide) > 1)
        out = conv(x)
        assert torch.allclose(out, expected, atol=1e-5)
        assert torch.allclose(*gradients(out, towards, conv.weight), wanted, atol=1e-5)


POISONED = """
import torch
from timm.layers import Conv2dSame
from torch import nn
from zoo.speeds.plan import PLANS
for plan in ("bf16", "bf16_fast"):
    for kernel, stride, groups in ((3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 2, 192), (5, 2, 192), (5, 2, 4)):
        conv = nn.Conv2d(192, 384, kernel, stride, kernel // 2, groups=groups)
        PLANS[plan].apply(conv, torch.device("cpu"))
        with PLANS[plan].autocast(torch.device("cpu")):
            out = conv(torch.randn(8, 192, 1, 1))
        out.float().square().sum().backward()
        seen = torch.zeros(kernel, kernel, dtype=torch.bool)
        seen[kernel // 2, kernel // 2] = True
        gradient = conv.weight.grad
        assert (gradient[:, :, ~seen] == 0).all() and gradient[:, :, seen].isfinite().all(), (plan, kernel)
    for kernel, stride, groups in ((3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 2, 192), (5, 2, 192)):
        conv = Conv2dSame(192, 192, kernel, stride, groups=groups)  # pads its input: oneDNN sees no padding
        PLANS[plan].apply(conv, torch.device("cpu"))
        x = torch.randn(8, 192, 2, 2)
        with PLANS[plan].autocast(torch.device("cpu")):
            out = conv(x)
        (gradient,) = torch.autograd.grad(out.float().sum(), conv.weight)
        (expected,) = torch.autograd.grad(conv(x).sum(), conv.weight)
        assert torch.allclose(gradient, expected, rtol=0.1, atol=0.1 * expected.abs().max()), (plan, kernel)
"""


def test_no_gradient_is_what_was_in_memory():
    """glibc fills what is allocated: oneDNN leaves such gradients unwritten."""
    environment = {**os.environ, "MALLOC_PERTURB_": "1"}
    subprocess.run([sys.executable, "-c", POISONED], cwd=ROOT, env=environment, check=True)


def test_every_activation_that_is_fused_is_one_of_the_zoo():
    assert set(ACTIVATIONS.values()) == set(range(5))
    assert {f.stock for f in COMPILED} >= {nn.Conv2d, nn.BatchNorm2d, BatchNormAct2d}
