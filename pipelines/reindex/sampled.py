"""Looks again at some items of a generation: their bytes, their vectors, and whether they find themselves."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from typing import NamedTuple

import numpy as np

from pipelines.evaluate.gallery import open_gallery
from pipelines.rerank.pictures import Item, fetch
from schemas.configs import Embed
from schemas.errors import SampleError
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest
from schemas.parquet import vectors
from schemas.rejects import Reject
from schemas.samples import Sample

CHANCE = 1e-4
"""Of a false alarm, where an index may lose some items by design (see `fewest`)."""


class Sampled(NamedTuple):
    """Some items, in the order of parts and rows.

    Attributes:
      items: where each lies.
      shards: URL of the shard of each.
      vectors: as stored, column -> float32 (items, width).
    """

    items: list[Item]
    shards: list[str]
    vectors: dict[str, np.ndarray]

    @property
    def ids(self) -> np.ndarray:
        """Item ids, int64 (items,)."""
        return np.array([item.item_id for item in self.items], np.int64)


def draw(parts: Sequence[str], count: int, *, seed: int) -> Sampled:
    """A fair sample of the items of embedding parts; with the same seed the same.

    Args:
      parts: embedding manifests.
      count: all items where there are fewer.

    Raises:
      InputError: a part is missing or damaged.
    """
    gallery = open_gallery(parts)
    chance = np.random.default_rng(seed)
    places = chance.choice(len(gallery.ids), size=min(count, len(gallery.ids)), replace=False)
    ids = gallery.ids[places[np.lexsort((gallery.row[places], gallery.part[places]))]]
    columns = list(EmbeddingManifest.read(parts[0]).dims)
    place = [field.name for field in fields(Item)]
    table = gallery.rows(ids, [*place, *columns])
    items = [Item(**row) for row in table.select(place).to_pylist()]
    return Sampled(items, gallery.shard_of(ids), {name: vectors(table.column(name)) for name in columns})


def unreadable(sample: Sampled, embed: Embed) -> list[str]:
    """Why items do not have the bytes any more that were embedded; nothing for those that have.

    Args:
      embed: limits, as they were when the items were embedded.
    """
    return [data for _, data in _bytes_of(sample, embed) if isinstance(data, str)]


def cosines(layout: Layout, generation: int, sample: Sampled, embed: Embed) -> dict[str, float | str]:
    """Encodes the pictures of items again and compares with the stored vectors; loads torch.

    Args:
      embed: as it was when the items were embedded.

    Returns:
      key -> cosine, the least of all columns, or why nothing came out of it. Items whose bytes are gone are left out.

    Raises:
      StaleError: the encoder here is not the one the generation was made with.
      ModelError: it cannot be loaded.
    """
    from pipelines.embed.batches import Batch
    from pipelines.embed.encoding import BatchEncoder
    from pipelines.search import open_encoder

    work = BatchEncoder(open_encoder(layout, generation), embed)
    found: dict[str, float | str] = {}
    for number, data in _bytes_of(sample, embed):
        if isinstance(data, str):
            continue
        item = sample.items[number]
        again = Sample(item.key, sample.shards[number], item.position, "", data, item.offset, item.size)
        [(_, row)] = work(Batch([(0, again)], len(data)))
        if isinstance(row, Reject):
            found[item.key] = f"{row.error}: {row.message}"
        else:
            pairs = [(stored[number], row.vectors[name]) for name, stored in sample.vectors.items()]
            found[item.key] = min(_cosine(before, now.astype(np.float32)) for before, now in pairs)
    return found


def lost(index: str, parts: Sequence[str], queries: Sequence[np.ndarray], ids: np.ndarray, k: int) -> list[int]:
    """Items that their own vector does not find among the k best, as the index is served; loads faiss.

    An item that has k others as good beside it counts as found.

    Args:
      index: manifest.
      parts: embedding manifests it was built of.
      queries: float32 (Q, d_m) of each level searched through, coarse to fine.
      ids: of the same items, int64 (Q,).

    Returns:
      Their numbers, from 0.

    Raises:
      InputError, StaleError: the index cannot be opened, or names items that the parts do not hold.
    """
    from pipelines.index.candidates import best_items
    from pipelines.index.tune import TWIN

    scores, found = best_items(index, parts, queries, k)
    itself = (found == ids[:, None]).any(axis=1)
    best = np.einsum("ij,ij->i", queries[-1], queries[-1])
    crowded = (scores >= best[:, None] - TWIN).sum(axis=1) >= k
    return [int(number) for number in np.flatnonzero(~(itself | crowded))]


def fewest(share: float, asked: int) -> int:
    """Items of a sample that must find themselves: fewer are as unlikely as `CHANCE` if the index is as it was built.

    Args:
      share: of items that did when it was built.
      asked: items in the sample.

    >>> fewest(1.0, 32), fewest(0.95, 32)
    (32, 24)
    """
    likely = 0.0
    for found in range(asked):
        likely += math.comb(asked, found) * share**found * (1 - share) ** (asked - found)
        if likely > CHANCE:
            return found
    return asked


def _bytes_of(sample: Sampled, embed: Embed) -> Iterator[tuple[int, bytes | str]]:
    """The number of each item with its bytes, or why there are none; one picture is in memory at a time."""
    for url, group in groupby(range(len(sample.items)), key=lambda number: sample.shards[number]):
        waiting = list(group)
        try:
            for data in fetch(url, [sample.items[number] for number in waiting], embed):
                yield waiting.pop(0), str(data) if isinstance(data, SampleError) else data
        except OSError as error:
            yield from ((number, f"{sample.items[number].key}: {url} cannot be read ({error})") for number in waiting)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
