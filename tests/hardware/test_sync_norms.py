"""Synchronized BatchNorm: PyTorch's own does not train on a CPU, so what is tested is that nothing else changes."""

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm

import zoo
from lightning_modules.hardware.sync_batchnorm import SyncNorms
from zoo.speeds.plan import PLANS


def network(name):
    torch.manual_seed(0)
    net = zoo.build(name, "separable", "swish", num_classes=10).eval()
    return PLANS["fp32_fast"].apply(net, torch.device("cpu"))


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet18", "mobilenetv2_100"])
def test_activations_stay_and_the_modules_come_back(name):
    net, images = network(name), torch.randn(2, 3, 32, 32)
    modules, keys, sync = dict(net.named_modules()), list(net.state_dict()), SyncNorms()
    with torch.no_grad():
        expected = net(images)
        assert sync.apply(net) is net
        norms = [module for module in net.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
        assert norms and len(norms) == sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in net.modules())
        assert torch.allclose(net(images), expected, atol=1e-5) and list(net.state_dict()) == keys
        norms[0].running_mean.add_(1)
        changed = net(images)
        sync.revert(net)
        assert dict(net.named_modules()) == modules
        assert torch.allclose(net(images), changed, atol=1e-5) and not torch.allclose(changed, expected, atol=1e-5)


def test_lightnings_own_loses_the_activations():
    """Why there is ours; where this fails, it is needed no more."""
    net, images = network("efficientnet_b0"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(images)
        TorchSyncBatchNorm().apply(net)
        assert not torch.allclose(net(images), expected, atol=1e-2)
