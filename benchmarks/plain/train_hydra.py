"""Train the plain script's network as a usual Lightning + Hydra + W&B template does; baseline of startup.py."""

from __future__ import annotations

import hydra
import lightning as L
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint, RichModelSummary
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig
from train_plain import Classifier, loaders

torch.set_float32_matmul_precision("high")
ConfigStore.instance().store(
    "config", {"model": "mobilenet", "conv": "native", "act": "native", "seed": 0, "epochs": 1}
)


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def train(config: DictConfig) -> None:
    L.seed_everything(config.seed, workers=True)
    folder = HydraConfig.get().runtime.output_dir
    logger = WandbLogger(project="plain", save_dir=folder, offline=True)
    callbacks = [ModelCheckpoint(folder, monitor="val/acc", mode="max"), RichModelSummary()]
    trainer = L.Trainer(max_epochs=config.epochs, logger=logger, callbacks=callbacks, default_root_dir=folder)
    train, val, _ = loaders()
    trainer.fit(Classifier(config.model, config.conv, config.act), train, val)


if __name__ == "__main__":
    train()
