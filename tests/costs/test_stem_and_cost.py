"""The small stem, and counting without running."""

import pytest
import torch
from torch import nn

import zoo
from zoo.backbones.stem import first_conv


def test_small_resnet18_is_the_cifar_literatures():
    """The widely used CIFAR ResNet-18: 11,173,962 parameters, 0.56 G MACs at 32×32 with 10 classes."""
    cost = zoo.cost(zoo.build("resnet18", num_classes=10, stem="small"), 32)
    assert cost.params == 11_173_962
    assert cost.macs == pytest.approx(0.556e9, rel=0.002)


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet50d", "efficientnet_b0", "mobilenetv1_100", "mobilenetv3_small_100"]
)
def test_a_small_stem_halves_nothing(name):
    net = zoo.build(name, num_classes=3, stem="small").eval()
    sizes = []
    first = net.get_submodule(first_conv(net))
    first.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert sizes == [32]


def test_patchify_stems_are_refused():
    with pytest.raises(zoo.ConvzooError, match=r"model\.stem=imagenet"):
        zoo.build("convnext_atto", stem="small")


def test_cost_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 4 * 6, 5)
    )
    cost = zoo.cost(net, (6, 8))
    assert cost.macs == 6 * 8 * 8 * 27 + 4 * 6 * 8 * 9 + 8 * 4 * 6 * 5
    assert cost.activations == 6 * 8 * 8 + 4 * 6 * 8 + 5
    assert cost.flops == 2 * cost.macs
    assert cost.image_size == (6, 8)


def test_transposed_convolutions_and_attention_are_counted():
    transposed = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
    assert zoo.cost(transposed, 5, 4).macs == 5 * 5 * 4 * 3 * 4
    # ViT-Ti/16: 1.26 G multiply-adds (timm: 1.26), attention's products included.
    assert zoo.cost(zoo.build("vit_tiny_patch16_224")).macs == pytest.approx(1.26e9, rel=0.01)


def test_counting_leaves_the_network_as_it_was():
    net = zoo.build("resnet18", num_classes=2)
    net.layer1.eval()
    for p in net.layer2.parameters():
        p.requires_grad = False
    modes = [m.training for m in net.modules()]
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    cost = zoo.cost(net, 64)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert not any(v.is_meta for v in net.state_dict().values())
    frozen = sum(p.numel() for p in net.layer2.parameters())
    assert cost.params_trainable == cost.params - frozen


def test_counting_leaves_no_trace_in_a_network_that_caches():
    class Caching(nn.Linear):
        seen = None

        def forward(self, x):
            self.seen = torch.ones(1, device=x.device) if self.seen is None else self.seen
            return super().forward(x.mean((2, 3))) * self.seen

    net = Caching(3, 2)
    with torch.inference_mode():
        assert zoo.cost(net, 8).macs == 6
    assert net.seen is None and net(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


def test_speed_is_measured_and_the_mode_put_back():
    net = zoo.build("mobilenetv3_small_100", num_classes=2).train()
    speed = zoo.speed(net, torch.zeros(3, 32, 32), batch_size=4, seconds=0.1)
    assert speed.images_per_s.median > 0 and speed.images_per_s.iqr >= 0
    assert speed.latency_ms.median > 1000 / speed.images_per_s.median / 4
    assert speed.batch_size == 4 and speed.device == "cpu" and speed.dtype == "float32"
    assert net.training


class LastFirst(nn.Module):
    """What is used last is registered first."""

    def __init__(self, channels=3):
        super().__init__()
        self.head = nn.Conv2d(16, 5, 3)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.entry = nn.Conv2d(channels, 8, 3, padding=1)

    def forward(self, x):
        return self.head(self.body(self.entry(x))).mean((2, 3))


class SpaceToDepth(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(5)
        )
        self(torch.zeros(1, channels, 16, 16))


class ValuesFirst(LastFirst):
    def forward(self, x):
        return super().forward(x / 255 if x.max() > 1 else x)


@pytest.mark.parametrize("kind", [LastFirst, ValuesFirst])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_stem_is_what_the_image_reaches_first(kind, channels):
    net = kind(channels)
    assert first_conv(net) == "entry"
    report = zoo.rewrite(net, "spatial")
    assert [entry.name for entry in report.rewritten] == ["body"]
    assert {entry.name: entry.reason for entry in report.kept}["entry"] == "stem"


@pytest.mark.parametrize("size", [16, 32])
def test_the_stem_of_a_rearranged_image_and_of_one_that_runs_nowhere(size):
    assert first_conv(SpaceToDepth()) == "1"
    with zoo.meta_init():
        net = zoo.build("tresnet_m")
    assert first_conv(net) == "body.conv1.conv"
    # A linear layer that no guessed image fits: what was reached before it is known.
    assert first_conv(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(size, 2))) == "0"


@pytest.mark.parametrize("kind", [LastFirst, SpaceToDepth])
@pytest.mark.parametrize("channels", [1, 3])
def test_export_finds_the_channels(kind, channels, tmp_path):
    net = kind(channels).eval()
    images = torch.rand(3, channels, 16, 16)
    program = torch.export.load(zoo.export(net, tmp_path / "net.pt2", 16, "torch")).module()
    with torch.no_grad():
        assert torch.allclose(program(images), net(images), atol=1e-5)


def test_export_of_a_space_to_depth_network_of_timms(tmp_path):
    net = zoo.build("tresnet_m", num_classes=4, in_chans=1).eval()
    path = zoo.export(net, tmp_path / "net.pt2", 64, "torch")
    assert torch.export.load(path).module()(torch.zeros(5, 1, 64, 64)).shape == (5, 4)


def test_export_says_which_images_a_network_takes(tmp_path):
    with pytest.raises(zoo.ConvzooError, match="takes no images of image_size=20 "):
        zoo.export(SpaceToDepth(), tmp_path / "net.pt2", 20, "torch")
    assert not list(tmp_path.iterdir())
