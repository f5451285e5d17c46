"""Which images make which batch: one seeded order, shared out exactly over the ranks of a job."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class ShardedBatches:
    """Yields this rank's share of each batch, as lists of indices.

    Training (``shuffle=True``): one permutation an epoch, seeded by (seed, epoch) and the same on every rank. A batch
    of the whole job is the same set of images whatever the number of ranks; a last, smaller batch is left out.
    Evaluation: rank r takes images r, r + world, …: every image exactly once, however uneven.

    Args:
        n: Number of images.
        batch_size: Images per batch over all ranks together.
        done: Epoch, and batches of it, that were trained before the run was stopped: they are left out.
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
        # Lightning's worker processes fetch ahead before they are told the epoch.
        self.epoch = done[0]

    @property
    def sampler(self) -> ShardedBatches:
        """Where Lightning looks for ``set_epoch`` in a DataLoader's ``batch_sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.n // self.batch_size
        return -(-len(range(self.rank, self.n, self.world)) // self._share)

    @property
    def _share(self) -> int:
        return max(1, self.batch_size // self.world)

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.n, generator=generator).tolist()
            first = self.done[1] if self.epoch == self.done[0] else 0
            for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
                yield order[start : start + self.batch_size][self.rank :: self.world]
        else:
            mine = range(self.rank, self.n, self.world)
            for start in range(0, len(mine), self._share):
                yield list(mine[start : start + self._share])


class TensorLoader:
    """Batches of images that lie in memory: one indexing operation each, no worker processes.

    Attributes:
        batch_sampler, sampler: Under these names Lightning looks for ``set_epoch``.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, batches: ShardedBatches) -> None:
        self.images, self.labels = images, labels
        self.batch_sampler = self.sampler = batches

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for indices in self.sampler:
            yield self.images[indices], self.labels[indices]
