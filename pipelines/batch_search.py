"""Answers a whole log from a published generation with the fast side; Parquet in, Parquet out."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.search import read_generation
from schemas.embeddings import VECTOR
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.parquet import read_table, write_table
from schemas.query_logs import read_rows
from schemas.rankings import ANSWERS

QUERIES_AT_ONCE = 4096
"""Searched and written together: one row group of the answers."""


class Answered(NamedTuple):
    """What was written."""

    queries: int
    rows: int


def run(layout: Layout, queries: str, out: str, *, k: int, generation: int | None = None) -> Answered:
    """The k best items of every row of a log.

    Args:
      queries: a log (see `query_logs.read_rows`), encoded here; or a Parquet file with a column `embedding` of vectors,
        and `embedding_<width>` for each coarser level that is searched, made by the same encoder: then no model is
        loaded. `query_id` names a row; without it, its number does, from 0.
      out: URL of the answers, schema `rankings.ANSWERS`: rows in the order of the log, then by rank.
      generation: None: the one being served.

    Raises:
      InputError: nothing is published, or the log cannot be read, is empty, or holds vectors that do not fit.
      StaleError: the encoder on this machine is not the one the generation was made with.
    """
    from pipelines.evaluate.gallery import open_gallery
    from pipelines.evaluate.published import published
    from pipelines.index.candidates import best_items

    state = published(layout, read_generation(layout, generation))
    levels = state.index.levels
    columns = levels.columns if levels else (VECTOR,)
    names, vectors = _vectors_of(queries, columns) or _encoded(layout, queries, columns, generation)
    if not names:
        raise InputError(f"{queries}: no query in it")
    parts = [state.url(part) for part in state.generation.embeddings]
    gallery, rows = open_gallery(parts), 0
    with write_table(out, ANSWERS) as table:
        for start in range(0, len(names), QUERIES_AT_ONCE):
            some = [level[start : start + QUERIES_AT_ONCE] for level in vectors]
            scores, ids = best_items(state.url(state.generation.index), parts, some, k)
            known, place = np.unique(ids, return_inverse=True)
            keys = gallery.rows(known, ["key"]).column("key")
            width = ids.shape[1]
            table.write(
                {
                    "query_id": [name for name in names[start : start + QUERIES_AT_ONCE] for _ in range(width)],
                    "item_id": ids.reshape(-1),
                    "rank": np.tile(np.arange(1, width + 1, dtype=np.int32), len(ids)),
                    "fast_score": scores.reshape(-1),
                    "key": keys.take(pa.array(place.reshape(-1))),
                }
            )
            rows += ids.size
    return Answered(len(names), rows)


Queries = tuple[list[str], list[np.ndarray]]
"""Names, and float32 (Q, width) of each level."""


def _vectors_of(url: str, columns: tuple[str, ...]) -> Queries | None:
    """Queries that are vectors already; None for a log of texts."""
    if not url.endswith(".parquet"):
        return None
    table = read_table(url)
    if VECTOR not in table.column_names:
        return None
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise InputError(f"{url}: no column {missing[0]}; the index is searched through {', '.join(columns)}")
    found = {column: _matrix(table.column(column), f"{url}: column {column}") for column in dict.fromkeys(columns)}
    return _names(table, table.num_rows), [found[column] for column in columns]


def _matrix(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """A column of lists of numbers as float32 (rows, width)."""
    rows = column.combine_chunks()
    if not pa.types.is_list(rows.type) and not pa.types.is_fixed_size_list(rows.type):
        raise InputError(f"{what}: expected lists of numbers, got {rows.type}")
    widths = sorted(set(pc.fill_null(pc.list_value_length(rows), 0).to_pylist()))
    if len(widths) > 1:
        raise InputError(f"{what}: vectors of widths {widths}")
    values: np.ndarray = pc.list_flatten(rows).to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(rows), widths[0] if widths else 0)


def _encoded(layout: Layout, url: str, columns: tuple[str, ...], generation: int | None) -> Queries:
    """Queries that are texts."""
    from pipelines.embed.queries import encode_texts
    from pipelines.search import open_encoder

    rows = list(read_rows(url))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("text"), str) or not str(row["text"]).strip():
            raise InputError(f"{url}, row {number}: expected a query text, got {row.get('text')!r}")
    found = encode_texts(open_encoder(layout, generation), [str(row["text"]).strip() for row in rows])
    names = [str(row.get("query_id") or number) for number, row in enumerate(rows)]
    return names, [found[column] for column in columns]


def _names(table: pa.Table, rows: int) -> list[str]:
    if "query_id" not in table.column_names:
        return [str(number) for number in range(rows)]
    return [str(name) for name in table.column("query_id").to_pylist()]
