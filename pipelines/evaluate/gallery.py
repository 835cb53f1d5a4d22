"""The items of a generation by id: where each lies, what was written of it, its bytes; vectors stay on disk."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.rerank.pictures import Item, fetch
from schemas.configs import Embed
from schemas.embeddings import part_url
from schemas.errors import InputError, SampleError, StaleError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import open_table, read_table

_PLACE = ["item_id", "key", "position", "offset", "size", "content_sha256", "modality"]
_SHARDS_AT_ONCE = 8  # reads wait for the disk or the network, not for a core


@dataclass(frozen=True)
class Gallery:
    """A look-up of items that costs 16 bytes an item; everything else is read when asked for.

    Attributes:
      parts: URLs of the embedding tables.
      shards: URLs of the shards they were made of, in the same order.
      ids: of all items, rising, int64 (N,).
      part, row: where each item's row is, int32 (N,).
    """

    parts: tuple[str, ...]
    shards: tuple[str, ...]
    ids: np.ndarray
    part: np.ndarray
    row: np.ndarray
    _footers: dict[int, pq.FileMetaData] = field(default_factory=dict, repr=False)

    def rows(self, ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Columns of the embedding rows of items, in the order given; only row groups that hold one are read.

        Args:
          ids: int64 (n,).

        Raises:
          StaleError: an item is in no part.
          InputError: a part is missing or damaged.
        """
        place = self._places(ids)
        found: list[pa.Table] = []
        order: list[np.ndarray] = []
        for number in np.unique(self.part[place]):
            mine = np.flatnonzero(self.part[place] == number)
            rows, back = np.unique(self.row[place[mine]], return_inverse=True)
            table = self._read(int(number), rows, columns)
            found.append(table.take(pa.array(back)))
            order.append(mine)
        if not found:
            return pa.table({name: [] for name in columns})
        return pa.concat_tables(found).take(pa.array(np.argsort(np.concatenate(order))))

    def shard_of(self, ids: np.ndarray) -> list[str]:
        """URL of the shard of each item."""
        return [self.shards[number] for number in self.part[self._places(ids)]]

    def files(self, ids: np.ndarray, embed: Embed) -> list[bytes | SampleError]:
        """The bytes of items as they were embedded, or why they cannot be had, in the order given.

        Args:
          ids: int64 (n,), distinct.
          embed: limits, as they were when the items were embedded.

        Raises:
          OSError: a shard is there but cannot be read now.
        """
        items = [Item(**row) for row in self.rows(ids, _PLACE).to_pylist()]
        groups: dict[str, list[int]] = {}
        for number, url in enumerate(self.shard_of(ids)):
            groups.setdefault(url, []).append(number)
        for numbers in groups.values():
            numbers.sort(key=lambda number: items[number].position)
        result: list[bytes | SampleError] = [SampleError("not read")] * len(items)

        def read(url: str) -> None:
            wanted = groups[url]
            for number, data in zip(wanted, fetch(url, [items[n] for n in wanted], embed), strict=True):
                result[number] = data

        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            list(pool.map(read, groups))  # a list, so that what a thread raised is raised here
        return result

    def _places(self, ids: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.ids, ids)
        inside = place < len(self.ids)
        missing = ~inside
        missing[inside] = self.ids[place[inside]] != ids[inside]
        if missing.any():
            raise StaleError(
                f"item {ids[missing][0]}: in none of the {len(self.parts)} embedding parts; index and parts do not "
                "belong together, publish again"
            )
        return place

    def _read(self, number: int, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Chosen rows (rising) of one part."""
        with open_table(self.parts[number], footer=self._footers.get(number)) as file:
            footer = self._footers.setdefault(number, file.metadata)
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(sizes)])
            holder = np.searchsorted(starts, rows, side="right") - 1
            groups = np.unique(holder)
            table = file.read_row_groups(groups.tolist(), columns=list(columns)).select(list(columns))
        begins = np.concatenate([[0], np.cumsum([sizes[group] for group in groups])])[:-1]
        return table.take(pa.array(rows - starts[holder] + begins[np.searchsorted(groups, holder)]))


def open_gallery(manifest_urls: Sequence[str]) -> Gallery:
    """The items behind embedding manifests; reads their ids only.

    Raises:
      InputError: a part is missing, or has other rows than its manifest says.
    """
    parts: list[str] = []
    shards: list[str] = []
    ids: list[np.ndarray] = []
    for url, manifest in zip(manifest_urls, EmbeddingManifest.read_all(manifest_urls), strict=True):
        parts.append(part_url(url, manifest))
        shards.append(manifest.shard)
        ids.append(read_table(parts[-1], ["item_id"]).column("item_id").to_numpy())
        if len(ids[-1]) != manifest.data.rows:
            raise InputError(f"{parts[-1]}: {len(ids[-1])} rows, its manifest says {manifest.data.rows}")
    sizes = [len(some) for some in ids]
    every = np.concatenate([*ids, np.empty(0, np.int64)])
    order = np.argsort(every, kind="stable")
    part = np.repeat(np.arange(len(ids), dtype=np.int32), sizes)
    row = np.concatenate([*(np.arange(size, dtype=np.int32) for size in sizes), np.empty(0, np.int32)])
    return Gallery(tuple(parts), tuple(shards), every[order], part[order], row[order])
