"""What a registered function may return, turned into `Splits`: arrays, datasets, or a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from lightning_modules.data.memory import Images, Splits
from lightning_modules.data.split import SPLITS
from zoo.errors import ConvzooError

ALLOWED = "Splits of arrays, three torch Datasets (train, val, test), or a LightningDataModule"
BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@dataclass(frozen=True)
class Items:
    """The images of a split, each made when it is needed.

    Attributes:
        dataset: Index → (image, label).
        collate: Makes a batch of such pairs.
    """

    dataset: Dataset
    collate: Callable[[list[Any]], Any] = default_collate

    def __len__(self) -> int:
        return len(self.dataset)

    def labels(self) -> list[int]:
        """Return all labels without making the images.

        Raises:
            ConvzooError: The dataset does not list them.
        """
        found = getattr(self.dataset, "targets", None)
        if found is None or len(found) != len(self):
            raise ConvzooError(
                "data.train_images chooses images by their labels: your Dataset needs a list `targets` of all of them."
            )
        return [int(label) for label in found]

    def at(self, indices: Sequence[int]) -> Items:
        """Return the images at some indices."""
        return Items(Subset(self.dataset, indices), self.collate)


def splits_of(name: str, read: Any) -> Splits:
    """Return what the function of ``data=NAME`` returned as splits of `Images` or `Items`.

    Raises:
        ConvzooError: It is something else, or lacks a split.
    """
    if isinstance(read, LightningDataModule):
        return Splits(*(_of_module(name, read, split) for split in SPLITS))
    if not isinstance(read, Sequence) or len(read) != len(SPLITS):
        raise ConvzooError(f"data={name} returned {_kind(read)}. Return {ALLOWED}.")
    return Splits(*(_of_split(name, part, split) for part, split in zip(read, SPLITS, strict=True)))


def _of_split(name: str, part: Any, split: str) -> Images | Items:
    if isinstance(part, Images):
        return part
    indexed = hasattr(part, "__getitem__") and hasattr(part, "__len__")
    if not indexed or isinstance(part, (IterableDataset, tuple, list)):
        raise ConvzooError(f"data={name} returned {_kind(part)} as {split}. Allowed: Images, or an indexed Dataset.")
    return Items(part)


def _of_module(name: str, module: LightningDataModule, split: str) -> Items:
    """Take dataset and collate function of a module's loader; order and batches are convzoo's own."""
    what = f"the {type(module).__name__} of data={name}"
    for hook in BATCH_HOOKS:
        if getattr(type(module), hook) is not getattr(LightningDataModule, hook):
            raise ConvzooError(f"{what} has {hook}, which would not be called. Move it into its Dataset.")
    if getattr(type(module), f"{split}_dataloader") is getattr(LightningDataModule, f"{split}_dataloader"):
        raise ConvzooError(f"{what} has no {split}_dataloader. A run needs {', '.join(SPLITS)}.")
    loader = getattr(module, f"{split}_dataloader")()
    if not isinstance(loader, DataLoader):
        raise ConvzooError(f"{what} returned {_kind(loader)} as {split}_dataloader. Allowed: one torch DataLoader.")
    if type(loader.sampler) not in (RandomSampler, SequentialSampler):
        raise ConvzooError(
            f"{what} has {_kind(loader.sampler)} in its {split}_dataloader. convzoo orders the images itself, so that "
            "ranks share them and a run resumes exactly: leave the sampler out."
        )
    part = _of_split(name, loader.dataset, split)
    return Items(part.dataset, loader.collate_fn or default_collate) if isinstance(part, Items) else part


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
