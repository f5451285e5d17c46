"""The smallest cells that train, as overrides."""

TINY_EFFNET = (
    "model=effnet",  # has drop-path: the random states matter
    "scale=width",
    "scale.factor=0.25",
    "logger=none",
    "data.image_size=8",
    "data.batch_size=8",
    "hardware=cpu",
    "hardware.threads=1",
)
"""EfficientNet at a quarter of its width, on the smallest images."""

TINY = (
    "model=mobilenet",
    "model.variant=v3_small",
    "logger=none",
    "data.image_size=8",
    "data.batch_size=8",
    "hardware=cpu",
    "hardware.threads=1",
    "hardware.plan=fp32",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
)
