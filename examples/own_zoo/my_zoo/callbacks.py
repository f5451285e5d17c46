"""A Lightning callback as anybody writes it; conf/callbacks/gradient_norm.yaml names it."""

import lightning.pytorch as lightning
import torch


class GradientNorm(lightning.Callback):
    """Logs the length of the gradient, the mean over an epoch, as ``gradient/norm``.

    Args:
        every: Steps from one that counts to the next.
    """

    def __init__(self, every: int = 4) -> None:
        self.every = every

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Lightning calls it with the gradients of a step."""
        if trainer.global_step % self.every == 0:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            module.log("gradient/norm", torch.nn.utils.get_total_norm(gradients), on_step=False, on_epoch=True)
