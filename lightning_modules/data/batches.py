"""Assign images to batches: one seeded order, sharded exactly over the ranks of a job."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class ShardedBatches:
    """Yields this rank's share of each batch, as tensors of indices.

    Training (``shuffle=True``): one permutation per epoch, seeded by (seed, epoch) and the same on every rank. A batch
    of the whole job is the same set of images for any number of ranks; a last, smaller batch is dropped.
    Evaluation: rank r takes images r, r + world, …, so every image is used exactly once, even if the ranks' numbers of
    images differ.

    Args:
        n: Number of images.
        batch_size: Images per batch, over all ranks together.
        shuffle: Training order if True, evaluation order otherwise.
        seed: Seed of the order.
        rank: This process's rank.
        world: Number of ranks.
        done: Epoch in which the run was stopped, and its batches that were trained before: they are skipped.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        done: tuple[int, int] = (0, 0),
    ) -> None:
        self.n, self.batch_size, self.shuffle = n, min(batch_size, n) if shuffle else batch_size, shuffle
        self.seed, self.rank, self.world, self.done = seed, rank, world, done
        # Batches are prefetched before Lightning calls set_epoch.
        self.epoch = done[0]

    @property
    def sampler(self) -> ShardedBatches:
        """This object: Lightning looks for ``set_epoch`` in the ``sampler`` of a DataLoader's ``batch_sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.n // self.batch_size
        return -(-len(range(self.rank, self.n, self.world)) // self._share)

    @property
    def _share(self) -> int:
        return max(1, self.batch_size // self.world)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Return this epoch's random generator: stream 0 for the order, others for per-image draws by index."""
        # torch's generator uses only the lower 32 bits of a seed.
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) ^ (stream * 0x9E3779B1 & 0xFFFFFFFF))

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.on(torch.device("cpu"))

    def on(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Yield the same batches on a device; the whole epoch's indices are moved there at once."""
        if not self.shuffle:
            if self.rank < self.n:
                yield from torch.arange(self.rank, self.n, self.world, device=device).split(self._share)
            return
        order = torch.randperm(self.n, generator=self.generator())
        first = self.done[1] if self.epoch == self.done[0] else 0
        batches = order[: len(self) * self.batch_size].view(-1, self.batch_size)[first:, self.rank :: self.world]
        yield from batches.contiguous().to(device)


class EpochBatches(ShardedBatches):
    """Yields batches as (epoch, indices), which is all that a worker process needs."""

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        epoch = self.epoch
        for indices in super().__iter__():
            yield epoch, indices.tolist()
