"""Which samples go through the model together: a function of their order and size, never of timing.

A matrix product of another height may round differently in its last bit, so the same bytes on every run and for
any number of lanes need the same batches.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from schemas.rejects import Reject
from schemas.samples import VIDEO_SUFFIXES, Sample

ItemType = TypeVar("ItemType")

BATCH_BYTES = 32 << 20
"""Encoded bytes of one batch (a single larger sample is a batch of its own)."""

MAX_LAG = 1024
"""A batch is closed unfilled when its first sample is this many behind: rows leave in order, all later ones wait."""

TAIL_BATCHES = 2
TAIL_PARTS = 4
"""The last two batches are cut in four, so that at the end of a shard no lane waits long for another."""


@dataclass(slots=True)
class Batch:
    """Samples that are encoded together.

    Attributes:
      items: (number in the stream, sample); what the reader already refused travels along to keep its place.
      size_bytes: of the samples' data.
    """

    items: list[tuple[int, Sample | Reject]] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, number: int, item: Sample | Reject) -> None:
        """Appends one item of the stream."""
        self.items.append((number, item))
        self.size_bytes += _bytes(item)


def compose(stream: Iterable[Sample | Reject], *, batch_size: int, frames: int) -> Iterator[Batch]:
    """Cuts a stream of samples into batches.

    Images and videos have batches of their own (a video counts as its frames), told apart by suffix; content may
    disagree, which costs speed only.

    Args:
      batch_size: pictures in a batch.
      frames: sampled from a video.
    """
    return _cut_tail(_compose(stream, {False: batch_size, True: max(1, batch_size // frames)}))


def _compose(stream: Iterable[Sample | Reject], sizes: dict[bool, int]) -> Iterator[Batch]:
    open_batches = {False: Batch(), True: Batch()}
    for number, item in enumerate(stream):
        moving = isinstance(item, Sample) and item.suffix in VIDEO_SUFFIXES | {"gif"}
        if open_batches[moving].items and open_batches[moving].size_bytes + _bytes(item) > BATCH_BYTES:
            yield open_batches[moving]
            open_batches[moving] = Batch()
        open_batches[moving].add(number, item)
        for kind, batch in open_batches.items():
            if len(batch.items) >= sizes[kind] or (batch.items and number - batch.items[0][0] >= MAX_LAG):
                yield batch
                open_batches[kind] = Batch()
    yield from sorted((b for b in open_batches.values() if b.items), key=lambda b: b.items[0][0])


def _bytes(item: Sample | Reject) -> int:
    return len(item.data) if isinstance(item, Sample) else 0


def _cut_tail(batches: Iterator[Batch]) -> Iterator[Batch]:
    held: deque[Batch] = deque()
    for batch in batches:
        held.append(batch)
        if len(held) > TAIL_BATCHES:
            yield held.popleft()
    for batch in held:
        size = -(-len(batch.items) // TAIL_PARTS)
        for start in range(0, len(batch.items), size):
            items = batch.items[start : start + size]
            yield Batch(items, sum(_bytes(item) for _, item in items))


def in_order(results: Iterable[list[tuple[int, ItemType]]]) -> Iterator[ItemType]:
    """The items of finished batches by their number in the stream, each as soon as all before it are out.

    >>> list(in_order([[(0, "a"), (2, "c")], [(1, "b")]]))
    ['a', 'b', 'c']
    """
    ready: dict[int, ItemType] = {}
    number = 0
    for result in results:
        ready.update(result)
        while number in ready:
            yield ready.pop(number)
            number += 1
