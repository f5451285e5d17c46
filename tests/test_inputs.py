"""Networks that the meta device cannot run, or that take no image: counted, folded and swapped, or the true reason."""

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.costs import mac_counter as products
from zoo.errors import UnfitError
from zoo.inputs import try_inputs


class Body(nn.Module):
    """Conv, BatchNorm, ReLU around what a subclass does."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.shift = torch.ones(4, 1, 1)

    def body(self, x):
        return self.act(self.norm(self.conv(x)))


class TensorAttribute(Body):
    def forward(self, x):
        return self.body(x) + self.shift


class DataDependent(Body):
    def forward(self, x):
        return self.body(x / 255 if x.max() > 1 else x)


class Item(Body):
    def forward(self, x):
        return self.body(x * x.mean().item())


class Numpy(Body):
    def forward(self, x):
        y = self.body(x)
        return torch.from_numpy(np.square(y.detach().cpu().numpy())) + y


class Masked(Body):
    def forward(self, x):
        y = self.body(x)
        return y[y > 0]


class Siamese(Body):
    def forward(self, x, y):
        return self.body(torch.cat([x, y]))


class Guided(Body):
    def forward(self, x, text):
        return self.body(x) * text.sum()


NEED_VALUES = [TensorAttribute, DataDependent, Item, Numpy, Masked]
MACS = 14 * 14 * 4 * 27


@pytest.mark.parametrize("kind", NEED_VALUES)
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "weightless"])
def test_what_needs_values_is_counted_with_real_tensors(kind, weights):
    if not weights:
        with zoo.meta_init():
            net = kind()
        net.shift = torch.ones(4, 1, 1)
    else:
        net = kind()
    before = {k: v.clone() for k, v in net.state_dict().items() if weights}
    state = torch.get_rng_state()
    cost = zoo.cost(net, 16)
    assert (cost.macs, cost.train_macs, cost.uncounted) == (MACS, 2 * MACS, ())
    assert torch.equal(torch.get_rng_state(), state) and net.training and net.shift.device.type == "cpu"
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("kind", [*NEED_VALUES, Siamese])
def test_what_needs_values_is_folded_and_swapped(kind):
    net = kind()
    assert zoo.swap_activations(net, "swish", image_size=16) == 1
    assert zoo.fold_batchnorm(net, image_size=16) == 1


def test_several_inputs():
    image, text = torch.zeros(1, 3, 16, 16), torch.zeros(1, 7, dtype=torch.long)
    assert zoo.cost(Siamese(), inputs=(image, image)).macs == 2 * MACS
    assert zoo.cost(Guided(), inputs={"text": text, "x": image}) == zoo.cost(Guided(), inputs=(image, text))
    assert zoo.cost(Guided(), inputs=(image, text)).image_size == (16, 16)
    net = Guided()
    assert zoo.swap_activations(net, "swish", inputs=(image, text)) == 1
    for refused in (lambda: zoo.cost(Siamese(), 16), lambda: zoo.cost(Guided(), 16)):
        with pytest.raises(UnfitError, match=r"has 2 inputs.*Give inputs="):
            refused()


def test_a_detector_is_counted():
    detection = pytest.importorskip("torchvision.models.detection")
    net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    cost = zoo.cost(net, 320)
    # torchvision's own figure: 0.58 GMACs.
    assert cost.macs == pytest.approx(0.583e9, rel=0.02) and cost.uncounted == ()


@pytest.mark.parametrize(
    ("name", "size", "would_do"),
    [("vgg11_bn", 28, "32×32"), ("vit_tiny_patch16_224", 96, "224×224"), ("inception_v3", 32, "96×96")],
)
def test_an_image_that_does_not_fit_is_refused_with_one_that_would(name, size, would_do):
    with zoo.meta_init():
        net = zoo.build(name)
    with pytest.raises(UnfitError, match=f"{name} takes no images of image_size={size} .*{would_do}") as refused:
        zoo.cost(net, size)
    assert "\n" not in str(refused.value) and "meta" not in str(refused.value)


@pytest.mark.parametrize("kind", NEED_VALUES)
def test_the_reason_is_the_networks_own(kind):
    with pytest.raises(UnfitError, match="takes no images of image_size=2 ") as refused:
        zoo.cost(kind(), 2)
    assert "Kernel size can't be greater" in str(refused.value) and "meta" not in str(refused.value)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def broken(args, out):
        return products.no_such_name

    broken.__globals__["__name__"] = "zoo.costs.mac_counter"
    monkeypatch.setitem(products.PRODUCTS, "aten::convolution", broken)
    try:
        with pytest.raises(AttributeError, match="no_such_name"):
            zoo.cost(Body().conv, 16)
    finally:
        broken.__globals__["__name__"] = __name__


def test_a_networks_own_bug_is_told_as_such():
    class Broken(Body):
        def forward(self, x):
            return self.missing(x)

    with pytest.raises(UnfitError, match=r"AttributeError.*missing"):
        try_inputs(Broken(), lambda run: run(), 16)


def test_weight_norm_is_left_as_it_is():
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    weight = net[0].weight
    assert zoo.cost(net, 8).macs == 36 * 4 * 27
    assert net[0].weight is weight


@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_torchscript_is_counted(part):
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    net = nn.Sequential(scripted, nn.Conv2d(4, 4, 1)) if part else scripted
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert zoo.cost(net, 16).macs == MACS + part * 14 * 14 * 16
    try_inputs(net, lambda run: run(training=True), 16)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
