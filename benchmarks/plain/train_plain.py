"""Train one cell as a plain script with Lightning, torchvision and a DataLoader; only the network is convzoo's.

This is what a competent engineer writes without this project: the same network, recipe, augmentation, split and batch
size as ``python train.py``, in float32, with the libraries' defaults.

    python benchmarks/plain/train_plain.py --model resnet --conv spatial --act relu --epochs 15 --folder out
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

import zoo

BACKBONES = {"resnet": "resnet18", "effnet": "efficientnet_b0", "mobilenet": "mobilenetv2_100"}
SIZE, CLASSES, BATCH, WORKERS = 32, 10, 32, 2


class Digits(Dataset):
    """scikit-learn's digits as PIL images, split with seed 0 independent of the run's seed."""

    def __init__(self, split: str, transform: v2.Transform) -> None:
        bunch = load_digits()
        where = {}
        everything = range(len(bunch.target))
        where["train"], rest = train_test_split(everything, test_size=540, stratify=bunch.target, random_state=0)
        where["val"], where["test"] = train_test_split(rest, test_size=270, stratify=bunch.target[rest], random_state=0)
        scans = (bunch.images[where[split]] / 16 * 255).round().astype("uint8")
        self.images = [Image.fromarray(scan).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for scan in scans]
        self.labels = [int(label) for label in bunch.target[where[split]]]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


class Classifier(L.LightningModule):
    def __init__(self, model: str, conv: str, act: str) -> None:
        super().__init__()
        self.net = zoo.build(BACKBONES[model], conv, act, num_classes=CLASSES, in_chans=1, stem="small")
        head = self.net.get_classifier()
        torch.nn.init.normal_(head.weight, std=0.01)
        torch.nn.init.zeros_(head.bias)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        self.train_acc, self.val_acc, self.test_acc = (MulticlassAccuracy(CLASSES, average="micro") for _ in range(3))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = self.loss(logits, labels)
        self.train_acc(logits, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.val_acc(logits, labels)
        self.log("val/loss", torch.nn.functional.cross_entropy(logits, labels))
        self.log("val/acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.test_acc(self.net(images), labels)
        self.log("test/acc", self.test_acc)

    def configure_optimizers(self) -> dict:
        # No weight decay on biases and norms, as usual.
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.003)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, steps, pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loaders() -> list[DataLoader]:
    """Return the loaders of the training, validation and test images."""
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.3055], [0.3237])]
    augment = v2.RandomAffine(10, (0.12, 0.12), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)
    found = []
    for split in ("train", "val", "test"):
        training = split == "train"
        images = Digits(split, v2.Compose([augment, *to_tensor] if training else to_tensor))
        options = {"shuffle": True, "drop_last": True} if training else {}
        size = BATCH if training else 128
        found.append(DataLoader(images, size, num_workers=WORKERS, persistent_workers=True, **options))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BACKBONES, required=True)
    parser.add_argument("--conv", required=True)
    parser.add_argument("--act", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    L.seed_everything(given.seed, workers=True)
    best = ModelCheckpoint(given.folder, monitor="val/acc", mode="max")
    logger = WandbLogger(project="plain", save_dir=given.folder, offline=True, config=vars(given) | {"folder": ""})
    trainer = L.Trainer(max_epochs=given.epochs, logger=logger, callbacks=[best], default_root_dir=given.folder)
    train, val, test = loaders()
    trainer.fit(Classifier(given.model, given.conv, given.act), train, val)
    (metrics,) = trainer.test(dataloaders=test, ckpt_path="best")
    (given.folder / "result.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
