"""The vectors of embedding parts as blocks, read again each time they are walked; memory is bounded by one part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.index.plan import LEVEL
from schemas.embeddings import part_url, read_parts, refuse_bad_vectors
from schemas.errors import InputError, LedgerError, StaleError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import open_table, read_table, vectors

BLOCK_ROWS = 1 << 15
"""Rows handed out at once: 64 MiB of float32 at width 512, and enough for a matrix product to run at full speed."""


class Block(NamedTuple):
    """Some items: ids int64 (rows,) and vectors float32 (rows, width)."""

    ids: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Parts:
    """The vectors behind embedding manifests; may be iterated any number of times.

    Attributes:
      urls: embedding manifests, in the order wanted.
      level: vector column.
    """

    urls: tuple[str, ...]
    level: str = LEVEL

    def __iter__(self) -> Iterator[Block]:
        """All rows in order, in blocks of at most `BLOCK_ROWS` rows."""
        for part in read_parts(self.urls, ["item_id"], level=self.level):
            ids = part.table.column("item_id").to_numpy()
            for start in range(0, len(ids), BLOCK_ROWS):
                yield Block(ids[start : start + BLOCK_ROWS], part.vectors[start : start + BLOCK_ROWS])


def ids_of(urls: Sequence[str]) -> np.ndarray:
    """Item ids of some parts, int64, rising; the vectors are not read."""
    tables = (read_table(part_url(url, EmbeddingManifest.read(url)), ["item_id"]) for url in urls)
    found = [table.column("item_id").to_numpy() for table in tables]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def check(urls: Sequence[str], *, dim: int, level: str = LEVEL) -> None:
    """Reads one level of everything and refuses what would spoil an index, before any long work.

    Raises:
      InputError: a vector that is not finite, not of norm 1 or not `dim` wide; an id used twice; an empty key.
      StaleError: a data file made by another encoder than its manifest says.
    """
    all_ids = []
    for url, part in zip(urls, read_parts(urls, ["item_id", "key"], level=level), strict=True):
        made_by = (part.table.schema.metadata or {}).get(b"fastslow.encoder", b"").decode()
        if made_by != part.manifest.encoder:
            raise StaleError(
                f"{part_url(url, part.manifest)}: made by encoder {made_by[:16] or 'unknown'}, its manifest says "
                f"{part.manifest.encoder[:16]}; remove both to have them made again"
            )
        if part.vectors.shape[1] != dim:
            raise InputError(f"{part_url(url, part.manifest)}: vectors are {part.vectors.shape[1]} wide, not {dim}")
        refuse_bad_vectors(part.vectors, part.table.column("key").to_pylist(), column=level)
        all_ids.append(part.table.column("item_id").to_numpy())
    ids = np.sort(np.concatenate(all_ids)) if all_ids else np.empty(0, np.int64)
    twice = ids[1:][ids[1:] == ids[:-1]]
    if twice.size:
        _name_duplicate(urls, int(twice[0]))
    if ids.size and ids[0] < 0:
        raise InputError(f"item id {ids[0]}: expected 0 or more; ids are made by schemas.ids.item_id")


def check_ids(new: np.ndarray, old: Sequence[tuple[np.ndarray, np.ndarray]], urls: Sequence[str]) -> None:
    """Refuses items that are in an index already.

    Args:
      new: int64, rising.
      old: ids of each segment, rising, and those among them that are deleted.
      urls: embedding manifests of the new ones.

    Raises:
      InputError: names the first item, and how often it is used.
    """
    for ids, deleted in old:
        place = np.searchsorted(ids, new)
        place[place == len(ids)] = 0
        there = ids[place] == new if len(ids) else np.zeros(len(new), bool)
        twice = new[there & ~np.isin(new, deleted)]
        if len(twice):
            _name_duplicate(urls, int(twice[0]), elsewhere=1)


def _name_duplicate(urls: Sequence[str], number: int, *, elsewhere: int = 0) -> None:
    """Says where an id is used twice; a second read, but only on the way to an error.

    Args:
      elsewhere: uses beyond these parts, in the index that they come to.
    """
    places: list[str] = []
    for part in read_parts(urls, ["item_id", "key", "shard"], level=LEVEL):
        rows = np.flatnonzero(part.table.column("item_id").to_numpy() == number)
        places += [f"{part.table['key'][row]} in {part.table['shard'][row]}" for row in rows]
    raise InputError(
        f"item id {number} is used {len(places) + elsewhere} times: {'; '.join(places[:3])}"
        f"{', and in the index already' if elsewhere else ''}. Keys must be unique in a dataset; "
        "set `key_scope: shard` in the dataset config when they are unique only within a shard"
    )


def sample(urls: Sequence[str], count: int, *, seed: int, level: str = LEVEL) -> Block:
    """A fair sample over all parts: every row has the same chance, none is drawn twice.

    With the same seed, the same rows at every level.

    Only row groups that hold a drawn row are read, one at a time. Memory: the sample and one of them.

    Args:
      count: rows wanted; all rows when there are fewer.

    Returns:
      The rows in the order of the parts.
    """
    manifests = EmbeddingManifest.read_all(urls)
    sizes = np.array([m.data.rows for m in manifests], dtype=np.int64)
    total = int(sizes.sum())
    drawn = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    bounds = np.searchsorted(drawn, starts)
    ids = np.empty(len(drawn), np.int64)
    found, filled = np.empty((len(drawn), manifests[0].dims[level]), np.float32), 0
    for number, (url, manifest) in enumerate(zip(urls, manifests, strict=True)):
        rows = drawn[bounds[number] : bounds[number + 1]] - starts[number]
        for block in _read_rows(part_url(url, manifest), rows, level) if rows.size else ():
            here = slice(filled, filled + len(block.ids))
            ids[here], found[here] = block.ids, block.vectors
            filled = here.stop
    if filled != len(drawn):
        raise LedgerError(f"{filled} of {len(drawn)} rows of the sample are there; a part has fewer than it should")
    return Block(ids, found)


def _read_rows(url: str, rows: np.ndarray, level: str) -> Iterator[Block]:
    """Chosen rows (ascending) of one Parquet file."""
    with open_table(url) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            begin, end = np.searchsorted(rows, (first, last))
            inside = rows[begin:end] - first
            if inside.size:
                table = file.read_row_group(group, columns=["item_id", level])
                yield Block(table.column("item_id").to_numpy()[inside], vectors(table.column(level))[inside])
            first = last
