"""Save the batch of a non-finite step, and rerun it to find the layer where the first bad value arises."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_modules.callbacks.batch import tensors_of
from lightning_modules.callbacks.first_bad import Bad, first_bad
from lightning_modules.results.files import why_not, write_whole
from lightning_modules.rng import set_torch_states, torch_states
from zoo.text import typed

FILE = "bad_batch.pt"


@dataclass(frozen=True)
class Seen:
    """A batch as training saw it, with the random states from before its forward pass."""

    batch: Any
    index: int
    random: dict[str, torch.Tensor]


def look_into(trainer: Any, seen: list[Seen], step: int, folder: Path) -> str:
    """Find out why a step's gradients are not finite, and write ``bad_batch.pt``.

    The file loads with ``torch.load(weights_only=True)``. It holds ``images``, ``labels`` and the batch's other tensors
    (``others``), on the CPU; ``step``, ``epoch`` and ``batch``, counted from 1; ``layer``, and ``what`` in it is not
    finite; ``rank``; and ``random``, the states of torch's generators before the forward pass.

    Args:
        trainer: The Trainer. All ranks of its job must call this function.
        seen: The step's batches; several if gradients were accumulated.
        step: The step's number, from 1.
        folder: Folder for the file.

    Returns:
        The first half of a message: when, where, and the file.
    """
    device = trainer.strategy.root_device
    before = torch_states(device)
    bad, one, why = None, seen[-1], "running the batch again gave finite values"
    if any(isinstance(m, torch.nn.SyncBatchNorm) for m in trainer.lightning_module.modules()):
        seen, why = [], "a network with SyncBatchNorm cannot run the batch again to find the layer"
    for candidate in seen:
        try:
            bad = _run_again(trainer, candidate)
        except Exception as error:  # the user's step may raise anything, and the bad step must be reported
            why = f"running the batch again failed ({type(error).__name__})"
        if bad:
            one, why = candidate, f"the first value that is not finite is {bad.what}"
            break
    set_torch_states(before, device)
    found = torch.tensor(float(bad is not None), device=device)
    # The first rank that found a bad value; 0 if none did.
    rank = int(trainer.strategy.all_gather(found).view(-1).argmax())
    if trainer.global_rank == rank:
        why += f". {_save(folder / FILE, one, bad, trainer.current_epoch, step, rank)}"
    why = trainer.strategy.broadcast(why, rank)
    when = f"epoch {trainer.current_epoch + 1}, batch {one.index + 1}"
    when += f" of rank {rank}" if trainer.world_size > 1 else ""
    return f"step {step} ({when}) has a loss or gradient that is not finite: {why}"


def _run_again(trainer: Any, seen: Seen) -> Bad | None:
    module = trainer.lightning_module
    set_torch_states(seen.random, trainer.strategy.root_device)
    # Lightning's own test: the signature of a compiled or decorated step says little about its arguments.
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    arguments = (seen.batch, seen.index) if takes_index else (seen.batch,)

    def loss() -> torch.Tensor:
        with trainer.precision_plugin.train_step_context():
            found = module.training_step(*arguments)
        return found["loss"] if isinstance(found, dict) else found

    return first_bad(module, seen.batch, loss)


def _save(path: Path, seen: Seen, bad: Bad | None, epoch: int, step: int, rank: int) -> str:
    """Write the file and return a sentence that says where it is, or why it could not be written."""
    images, labels, *others = [*(t.detach().cpu().clone() for t in tensors_of(seen.batch)), None, None]
    content = {
        "images": images,
        "labels": labels,
        "others": [t for t in others if t is not None],
        "step": step,
        "epoch": epoch + 1,
        "batch": seen.index + 1,
        "layer": bad and bad.layer,
        "what": bad and bad.what,
        "rank": rank,
        "random": seen.random,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_whole(path, buffer.getbuffer())
    except OSError as error:
        return f"The batch: {why_not(error, path, buffer.tell())}"
    return f"The batch is in {typed(path)}"
