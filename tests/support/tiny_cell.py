"""The smallest cell that trains, as overrides."""

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
