"""Which images make which batch: one seeded order, shared out exactly over the ranks of a job."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class ShardedBatches:
    """Yields this rank's share of each batch, as tensors of indices.

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

    def generator(self, stream: int = 0) -> torch.Generator:
        """This epoch's source of chance: stream 0 for the order, another for what each image gets by its index."""
        # torch's generator takes the lower 32 bits of a seed.
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) ^ (stream * 0x9E3779B1 & 0xFFFFFFFF))

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.on(torch.device("cpu"))

    def on(self, device: torch.device) -> Iterator[torch.Tensor]:
        """The same on a device, where the indices of the whole epoch go at once."""
        if not self.shuffle:
            if self.rank < self.n:
                yield from torch.arange(self.rank, self.n, self.world, device=device).split(self._share)
            return
        order = torch.randperm(self.n, generator=self.generator())
        first = self.done[1] if self.epoch == self.done[0] else 0
        batches = order[: len(self) * self.batch_size].view(-1, self.batch_size)[first:, self.rank :: self.world]
        yield from batches.contiguous().to(device)
