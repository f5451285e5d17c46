"""The LightningModule: an image classifier around a network of the zoo."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics import SumMetric

import zoo
from lightning_modules.hardware.micro_batch import MicroBatch
from lightning_modules.losses import Loss, make_loss
from lightning_modules.metrics import Mean
from lightning_modules.optimizer import make_optimizer
from zoo.errors import ConvzooError
from zoo.log import log

ABSURD = 5
"""Warn when the training loss exceeds this multiple of the loss of uniform guessing."""


class Classifier(LightningModule):
    """Trains and tests a network of the zoo on labelled images.

    Logs ``train/loss``, ``val/acc``, ``val/loss``, ``test/acc``, ``test/loss`` and ``test/images`` once per epoch,
    over all images and all ranks, counting each image once.

    Args:
        network: Arguments of `zoo.build`, as plain values: the checkpoint stores them for `zoo.load`.
        optim: ``name`` (any timm optimizer), ``lr`` (peak of the one-cycle schedule), ``weight_decay``, ``warmup``
            (fraction of the steps), ``label_smoothing``, ``bad_step``.
        micro_batch: Images per forward and backward pass on one device: see `MicroBatch`.
        loss: The training loss: see `lightning_modules.losses`; None: cross-entropy. The losses of validation and test
            are always cross-entropy.
    """

    def __init__(
        self,
        network: dict[str, Any],
        optim: dict[str, Any],
        micro_batch: int | str | None = None,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        # logger=False: the loggers get the choices as flat columns, one of which is called "optim" too. Without a given
        # frame Lightning keeps its own in a reference cycle, and with it the network.
        self.save_hyperparameters("network", "optim", logger=False, frame=inspect.currentframe())
        self.micro_batch = MicroBatch(micro_batch)
        self.loss = loss or make_loss("cross_entropy", {}, optim["label_smoothing"])
        self._warned = False
        self.net = zoo.build(**network)
        if not network.get("pretrained"):
            _init_classifier_head(self.net)
        self.train_loss, self.val_loss, self.test_loss, self.val_acc, self.test_acc = (Mean() for _ in range(5))
        self.test_images = SumMetric()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits (N, num_classes) for images (N, C, H, W)."""
        return self.net(x)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = self.micro_batch.loss(self.net, images, labels, self._loss)
        if self.hparams.optim.get("bad_step") == "skip":
            self.train_loss.add_finite(loss, len(labels), len(labels))
        else:
            self.train_loss.add(loss, len(labels), len(labels))
        return loss

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.loss(self(images), labels)

    def on_train_epoch_end(self) -> None:
        loss, guessing = self.train_loss.compute().item(), math.log(self.hparams.network.get("num_classes", 1000))
        if loss > ABSURD * guessing and not self._warned:
            # A warning only: some networks recover.
            self._warned = True
            log.warning(
                f"epoch {self.current_epoch + 1}: the training loss is {loss:.4g}; guessing gives {guessing:.2f}. "
                f"If it stays there, type a smaller optim.lr (it is {self.hparams.optim['lr']})."
            )
        self.log("train/loss", self.train_loss, prog_bar=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])

    def on_validation_start(self) -> None:
        if self.trainer.accumulate_grad_batches == 1:
            self.zero_grad()

    def on_train_end(self) -> None:
        # Free stale gradients; with CUDA graphs the graph owns their memory, and touching them is an error.
        self.zero_grad()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.val_loss, self.val_acc)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/acc": self.val_acc, "val/loss": self.val_loss}, prog_bar=True)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.test_loss, self.test_acc)
        self.test_images.update(len(batch[1]))

    def on_test_epoch_end(self) -> None:
        self.log_dict({"test/acc": self.test_acc, "test/loss": self.test_loss, "test/images": self.test_images})

    def _evaluate(self, batch: tuple[torch.Tensor, torch.Tensor], loss: Mean, acc: Mean) -> None:
        images, labels = batch
        logits = self.micro_batch.logits(self, images).float()
        loss.add(F.cross_entropy(logits, labels, reduction="sum"), len(labels))
        acc.add((logits.argmax(1) == labels).sum(), len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["micro_batch"] = self.micro_batch.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.micro_batch.load_state_dict(checkpoint.get("micro_batch", {}))

    def configure_optimizers(self) -> dict[str, Any]:
        optim = self.hparams.optim
        optimizer = make_optimizer(self.net, optim)
        if self.trainer.precision in ("bf16-mixed", "16-mixed"):
            # Lightning refuses to clip gradients if a fused optimizer could unscale them itself. Here it never has to:
            # bfloat16 uses no GradScaler, and that of float16 unscales before clipping.
            optimizer._step_supports_amp_scaling = False
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConvzooError("the one-cycle learning rate needs an end: type trainer.max_epochs=N.")
        # OneCycleLR needs at least one step of warm-up and one of decay, however short the run.
        steps = max(3, int(steps))
        rise = min(max(optim["warmup"], 2 / steps), 1 - 1 / steps)
        schedule = OneCycleLR(optimizer, optim["lr"], steps, pct_start=rise)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _init_classifier_head(net: torch.nn.Module) -> None:
    """Re-initializes the classifier of an untrained network so that all classes start about equally likely.

    timm initializes the 10-class head of EfficientNet with weights of up to 0.32: the loss starts at twice that of
    uniform guessing, and training spends epochs on unlearning it.
    """
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None
    if isinstance(classifier, torch.nn.Linear):
        torch.nn.init.normal_(classifier.weight, std=0.01)
        if classifier.bias is not None:
            torch.nn.init.zeros_(classifier.bias)
