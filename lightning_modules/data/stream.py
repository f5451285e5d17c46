"""Read a stream of images in one order that depends on seed and epoch only, whatever the processes and stops.

Every process reads the whole stream and decodes only the images of its own batches. So each image is used exactly once
an epoch, and a run resumes with any number of worker processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from lightning_modules.data.batches import EpochBatches
from lightning_modules.data.files import BadImage
from lightning_modules.data.folder import FolderImages, View
from zoo.errors import ConvzooError

SHARD = 2**32
"""An image's number is its shard times this, plus its place in the shard: the same in every epoch."""


class Sample(NamedTuple):
    """One image of a stream: its number, the file's content, and its label."""

    number: int
    content: bytes
    label: int


class Stream(Protocol):
    """Images that can only be read one after the other, in shards."""

    source: str
    """What users call it, for messages."""

    shards: int

    def read(self, shard: int) -> Iterator[tuple[bytes, int]]:
        """Yield content and label of a shard's images."""
        ...

    def labels(self) -> Iterator[int]:
        """Yield all labels, without reading the images where the format allows it."""
        ...

    def name(self, shard: int) -> str:
        """Return a shard's name."""
        ...


class StreamBatches(EpochBatches):
    """Yields batches as (epoch, places in that epoch's stream), in the stream's order."""

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        if not self.shuffle:
            yield from super().__iter__()
            return
        epoch = self.epoch
        for batch in range(self.done[1] if epoch == self.done[0] else 0, len(self)):
            start = batch * self.batch_size
            yield epoch, list(range(start + self.rank, start + self.batch_size, self.world))


class StreamImages(FolderImages):
    """Reads a stream's images into whole batches, like `FolderImages`; batches must be asked for in their order.

    In training, the order of the shards and the draws from the buffer follow from (seed, epoch). A bad image is
    replaced by another one of its batch.

    Args:
        stream: The stream.
        count: Number of its images.
        classes: Number of classes.
        view: What of an image the network sees.
        buffer: Number of images from which the next is drawn, in training.
    """

    def __init__(self, stream: Stream, count: int, classes: int, view: View, buffer: int) -> None:
        super().__init__([], *view)
        self.stream, self.count, self.classes, self.buffer = stream, count, classes, buffer
        self.paths = _Names(stream, count)
        self._epoch, self._next = -1, 0
        self._samples: Iterator[Sample] = iter(())
        self._batch: dict[int, Sample] = {}  # by place
        self._contents: dict[int, bytes] = {}  # by number, as are the labels

    def __getitems__(self, batch: tuple[int, list[int]]) -> tuple:
        epoch, places = batch
        self._batch = {place: self._at(epoch, place) for place in places}
        self._contents = {sample.number: sample.content for sample in self._batch.values()}
        self.labels = {sample.number: sample.label for sample in self._batch.values()}
        return super().__getitems__(batch)

    def _sources(self, epoch: int, index: int) -> Iterator[int]:
        first = self._batch[index].number
        yield first
        if self.seed is not None:
            others = [number for number in self._contents if number != first]
            random.Random(f"{self.seed},{epoch},{index},instead").shuffle(others)
            yield from others

    def _content(self, source: int, until: float) -> bytes:
        if content := self._contents[source]:
            return content
        raise BadImage("empty file")

    def _at(self, epoch: int, place: int) -> Sample:
        if epoch != self._epoch or place < self._next:
            self._epoch, self._next, self._samples = epoch, 0, self._open(epoch)
        for sample in self._samples:
            self._next += 1
            if self._next > place:
                self._check(sample)
                return sample
        raise ConvzooError(
            f"{self.stream.source} has only {self._next:,} images, not {self.count:,}. Type the true number."
        )

    def _check(self, sample: Sample) -> None:
        if not 0 <= sample.label < self.classes:
            raise ConvzooError(
                f"{self.paths[sample.number]} has the label {sample.label}. Allowed: 0 to {self.classes - 1} "
                f"(data.num_classes={self.classes})."
            )

    def _open(self, epoch: int) -> Iterator[Sample]:
        shards = list(range(self.stream.shards))
        if self.seed is None:
            return self._read(shards)
        draws = random.Random(f"{self.seed},{epoch},stream")
        draws.shuffle(shards)
        return shuffled(self._read(shards), self.buffer, draws)

    def _read(self, shards: Iterable[int]) -> Iterator[Sample]:
        for shard in shards:
            for place, (content, label) in enumerate(self.stream.read(shard)):
                yield Sample(shard * SHARD + place, content, label)


def shuffled(samples: Iterable[Sample], size: int, draws: random.Random) -> Iterator[Sample]:
    """Yield samples in random order, each drawn from the next ``size`` ones that are left."""
    held: list[Sample] = []
    for sample in samples:
        if len(held) < size:
            held.append(sample)
            continue
        at = draws.randrange(size)
        yield held[at]
        held[at] = sample
    draws.shuffle(held)
    yield from held


class _Names:
    """An image's name by its number, for messages and the list of bad images."""

    def __init__(self, stream: Stream, count: int) -> None:
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> str:
        shard, place = divmod(number, SHARD)
        return f"{self.stream.name(shard)}: image {place}"
