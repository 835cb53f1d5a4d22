"""Which items are known to be relevant to which queries: by caption, by click, or not known at all."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.embeddings import part_url
from schemas.manifests import EmbeddingManifest
from schemas.parquet import read_table
from schemas.query_logs import normalise
from schemas.rankings import JUDGEMENTS

logger = logging.getLogger(__name__)

PICKED_AT_ONCE = 1 << 20
"""Strings of one chunk."""

Kind = Literal["captions", "clicked", "none"]


def judge(kind: Kind, queries: pa.Table, manifest_urls: Sequence[str]) -> pa.Table:
    """The relevant pairs of a query table.

    `captions`: an item is relevant to a query when one of its captions normalises to the query's text.
    `clicked`: the items whose keys the log says were chosen. `none`: nothing is known.
    Shards are read one at a time and only the queries are held in memory, so that the number of captions
    costs time and not memory.

    Args:
      queries: columns query_id, text, clicked (schemas.query_logs.table_schema).
      manifest_urls: embedding manifests of the plan.

    Returns:
      Table of schemas.rankings.JUDGEMENTS, each pair once, in the order of the query table, then item id.
    """
    if kind == "none":
        return JUDGEMENTS.empty_table()
    wanted = _texts(queries) if kind == "captions" else _clicks(queries)
    rows: list[np.ndarray] = []
    items: list[np.ndarray] = []
    keys: list[pa.Array] = []
    modalities: list[pa.Array] = []
    for url in manifest_urls:
        part = _read(url, ["captions"] if kind == "captions" else [])
        found = _by_caption(part, wanted) if kind == "captions" else _by_key(part, wanted)
        rows.append(found[:, 0])
        items.append(part.column("item_id").to_numpy()[found[:, 1]])
        keys.append(part.column("key").combine_chunks().take(pa.array(found[:, 1])))
        modalities.append(part.column("modality").combine_chunks().take(pa.array(found[:, 1])))
    if not rows:
        return JUDGEMENTS.empty_table()
    row, item = np.concatenate(rows), np.concatenate(items)
    if kind == "clicked":
        asked, met = sum(len(owners) for owners in wanted.values()), row.size
        if met < asked:
            logger.warning("%d of %d clicks are of items that are not in the dataset", asked - met, asked)
    order = np.lexsort((item, row))
    columns = [
        _picked(queries.column("query_id"), row[order]),
        pa.array(item[order]),
        _picked(pa.chunked_array(keys), order),
        _picked(pa.chunked_array(modalities), order),
    ]
    return pa.Table.from_arrays(columns, schema=JUDGEMENTS)


def _picked(strings: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """Chosen strings in chunks; in one array they may be more than 2 GiB, which Arrow's take damages or refuses."""
    large = strings.cast(pa.large_string()).combine_chunks()
    starts = range(0, len(rows), PICKED_AT_ONCE)
    pieces = [large.take(pa.array(rows[start : start + PICKED_AT_ONCE])).cast(pa.string()) for start in starts]
    return pa.chunked_array(pieces, pa.string())


def _texts(queries: pa.Table) -> dict[str, list[int]]:
    """Normalised text -> rows of the query table."""
    owners: dict[str, list[int]] = {}
    for row, text in enumerate(queries.column("text").to_pylist()):
        owners.setdefault(normalise(text), []).append(row)
    return owners


def _clicks(queries: pa.Table) -> dict[str, list[int]]:
    """Item key -> rows of the query table that chose it."""
    owners: dict[str, list[int]] = {}
    for row, clicked in enumerate(queries.column("clicked").to_pylist()):
        for key in dict.fromkeys(clicked):
            owners.setdefault(key, []).append(row)
    return owners


def _read(url: str, more: Sequence[str]) -> pa.Table:
    """Names of one embedded shard, and other columns."""
    return read_table(part_url(url, EmbeddingManifest.read(url)), ["item_id", "key", "modality", *more])


def _by_caption(part: pa.Table, wanted: dict[str, list[int]]) -> np.ndarray:
    """Distinct (row of the query table, row of the part), int64 (n, 2)."""
    captions = part.column("captions").combine_chunks()
    owner = pc.list_parent_indices(captions).to_numpy()
    pairs = {
        (query, int(owner[number]))
        for number, text in enumerate(pc.list_flatten(captions).to_pylist())
        if text is not None
        for query in wanted.get(normalise(text), ())
    }
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _by_key(part: pa.Table, wanted: dict[str, list[int]]) -> np.ndarray:
    """The same for keys; only those that were clicked leave Arrow."""
    keys = part.column("key").combine_chunks()
    hits = np.flatnonzero(pc.is_in(keys, value_set=pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False))
    pairs = [(query, int(row)) for row in hits for query in wanted[keys[int(row)].as_py()]]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
