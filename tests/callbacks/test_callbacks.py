"""The plugin's callbacks in trainings that are not convzoo's."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_modules import CostLogger, SpeedLogger
from lightning_modules.callbacks.batch import count_of, images_of, tensors_of


class Theirs(L.LightningModule):
    def __init__(self, width: int = 4, forward=None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
        self.odd = forward

    def forward(self, x):
        return self.odd(self, x) if self.odd else self.net(x)

    def training_step(self, batch, _):
        return (self if self.odd else self.net)(batch[0]).square().mean()

    def test_step(self, batch, _):
        self.log("loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


DATA = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 3, 8, 8)), batch_size=4)


def trainer(*callbacks, **settings):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    return L.Trainer(max_epochs=1, accelerator="cpu", callbacks=list(callbacks), **quiet, **settings)


def macs(width: int) -> int:
    return 6 * 6 * width * 27 + width * 2


def test_one_callback_in_two_fits_counts_each():
    cost, speed = CostLogger(), SpeedLogger()
    for width in (4, 16):
        trainer(cost, speed).fit(Theirs(width), DATA)
        assert cost.metrics["cost/macs"] == macs(width)
    assert len(speed._samples) == 6 - 3, "samples of the first fit must not stay"


def test_an_epoch_that_is_shorter_than_a_window_is_measured_without_its_warm_up():
    """A GPU's figures are read once in a window."""

    class Windows(SpeedLogger):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            self._batches = 20

    trainer(speed := Windows()).fit(Theirs(), DATA)
    assert len(speed._samples) == 1 and speed.metrics["speed/data_wait"] > 0


@pytest.mark.parametrize("inference_mode", [True, False])
def test_a_test_alone_is_counted(inference_mode):
    cost = CostLogger()
    trainer(cost, inference_mode=inference_mode).test(Theirs(), DATA, verbose=False)
    assert cost.metrics["cost/macs"] == macs(4)


def uncountable(module, x):
    if not module.training:
        raise RuntimeError("trains, and does nothing else")
    return module.net(x)


def test_what_cannot_be_counted_does_not_end_their_training():
    cost = CostLogger()
    with pytest.warns(UserWarning, match="CostLogger"):
        trainer(cost).fit(Theirs(forward=uncountable), DATA)
    assert cost.metrics == {"cost/params": 4 * 27 + 4 + 10}


def test_batches_of_any_shape():
    image, mask, row = torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8), torch.zeros(4, 7)
    assert images_of({"emb": row, "meta": {"img": image}}) == {("meta", "img"): [image]}
    assert images_of([mask, row]) == {} == images_of("text")
    found = images_of({"a": [image, row], "b": [torch.zeros(6, 3, 8, 8)]})
    assert [count_of(images) for images in found.values()] == [4, 6]
    assert [count_of(images) for images in images_of([list(image), row]).values()] == [4]
    itself = {"image": image}
    itself["itself"] = itself
    assert all(t is image for t in tensors_of(itself))
