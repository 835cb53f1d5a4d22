"""Exhaustive search over blocks of vectors: the oracle of recall, the exact fast scores, and ranks of known items.

A score is the inner product taken in float64 and rounded to float32, so that it depends on the two vectors
alone: not on the block they were in, nor on how a matrix product was cut. The float32 product only finds
who may matter; its error bound decides who is looked at again.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.index.parts import Block
from schemas.embeddings import NORM_TOLERANCE
from schemas.errors import InputError

PAIRS_AT_ONCE = 1 << 15
"""Pairs scored in float64 at once: 128 MiB a side at width 512."""

QUERIES_AT_ONCE = 1024
"""Queries multiplied with a block at once: the product is 128 MiB at the usual block."""

_LONGEST = 1 + NORM_TOLERANCE


def exact_search(parts: Iterable[Block], queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items of the largest inner product with each query.

    Args:
      parts: blocks of items; walked once. Memory: one block, Q x k results.
      queries: float32 (Q, D).
      k: 1 or more.

    Returns:
      scores float32 (Q, min(k, items)), falling, and ids int64 of the same shape; equal scores by smaller id.

    Raises:
      InputError: k below 1 or vectors of another width.
    """
    if k < 1:
        raise InputError(f"k: expected 1 or more, got {k}")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    count = len(queries)
    rows, scores, ids = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
    floor = np.full(count, -np.inf, np.float32)  # k-th best so far
    for block in parts:
        if not len(block.ids):
            continue
        _refuse_width(block, queries)
        hits = [
            _contenders(block, queries, floor, slice(start, start + QUERIES_AT_ONCE), k)
            for start in range(0, count, QUERIES_AT_ONCE)
        ]
        new_rows, columns = (np.concatenate([hit[axis] for hit in hits]) for axis in (0, 1)) if hits else (rows, rows)
        new_scores = _exact(queries, block.vectors, new_rows, columns)
        rows = np.concatenate([rows, new_rows])
        scores = np.concatenate([scores, new_scores])
        ids = np.concatenate([ids, block.ids[columns]])
        rows, scores, ids = _best(rows, scores, ids, k)
        full = np.bincount(rows, minlength=count) == k
        last = np.searchsorted(rows, np.arange(count), side="right") - 1
        floor[full] = scores[last[full]]
    width = len(rows) // count if count else 0  # every query has the same number of hits: min(k, items)
    return scores.reshape(count, width), ids.reshape(count, width)


def nearest_rows(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """The k rows of the largest exact score with one query, as a set; what `exact_search` finds in one block.

    Fewer steps than there, for searches of one query: no order is made, and only rows about whose place the float32
    product leaves a doubt are scored in float64.

    Args:
      vectors: float32 (N, D), L2 norm 1 as stored vectors have it (`embeddings.refuse_bad_vectors`).
      query: float32 (D,).
      k: 1 or more.

    Returns:
      int64 (min(k, N),), rising; of rows that tie at the last place, the smaller ones.
    """
    if k >= len(vectors):
        return np.arange(len(vectors), dtype=np.int64)
    rough = vectors @ query
    kth = np.partition(rough, len(rough) - k)[len(rough) - k]
    slack = _slack(query[None], _LONGEST)[0]
    sure = np.flatnonzero(rough > kth + slack)
    unsure = np.flatnonzero((rough >= kth - slack) & (rough <= kth + slack))
    scores = pair_scores(query, vectors, unsure)
    rows: np.ndarray = np.concatenate([sure, unsure[np.lexsort((unsure, -scores))[: k - len(sure)]]])
    rows.sort()
    return rows


def pair_scores(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Exact scores float32 (n,) of one query, float32 (D,), with some rows of vectors float32 (N, D)."""
    return _exact(query[None], vectors, np.zeros(len(rows), np.int64), rows)


def exact_scores(parts: Iterable[Block], queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Exact scores of given pairs, gathered block by block.

    Args:
      queries: float32 (Q, D).
      ids: int64 (Q, K), items to score with each query.

    Returns:
      float32 (Q, K).

    Raises:
      InputError: an id is in no block.
    """
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    wanted = flat[order]
    scores = np.full(len(flat), np.nan, np.float32)
    for block in parts:
        by_id = np.argsort(block.ids, kind="stable")
        known = block.ids[by_id]
        place = np.searchsorted(known, wanted)
        found = np.flatnonzero(place < len(known))
        found = found[known[place[found]] == wanted[found]]
        pairs = order[found]
        scores[pairs] = _exact(queries, block.vectors, pairs // ids.shape[1], by_id[place[found]])
    missing = np.flatnonzero(np.isnan(scores))
    if missing.size:
        raise InputError(f"item {flat[missing[0]]}: not in the embedding parts ({missing.size} pairs without a vector)")
    return scores.reshape(ids.shape)


def rescore(parts: Iterable[Block], queries: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same items with their exact scores, best first, equal scores by smaller id.

    Args and errors as `exact_scores`.

    Returns:
      scores float32 (Q, K), ids int64 (Q, K).
    """
    return sort_hits(exact_scores(parts, queries, ids), ids)


def sort_hits(scores: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row by falling score, equal scores by smaller id; float32 and int64 (Q, K)."""
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def exact_ranks(parts: Iterable[Block], queries: np.ndarray, relevant: Sequence[Sequence[int]]) -> np.ndarray:
    """The rank of each query's best relevant item in exhaustive search.

    Args:
      parts: blocks of items; walked twice.
      queries: float32 (Q, D).
      relevant: item ids of each query.

    Returns:
      int64 (Q,): 1 + number of other items that score as much or more (ties count against), relevant items
      not counted; 0 where no relevant item is in the parts.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    pairs = sorted({(int(item), query) for query, items in enumerate(relevant) for item in items})
    wanted, owner = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)
    best = np.full(len(queries), -np.inf, np.float32)
    for block in parts:
        _refuse_width(block, queries)
        at, columns = _positions(block, wanted)
        np.maximum.at(best, owner[at], _exact(queries, block.vectors, owner[at], columns))
    ahead = np.zeros(len(queries), np.int64)
    for block in parts:
        at, columns = _positions(block, wanted)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            chunk = slice(start, start + QUERIES_AT_ONCE)
            rough = queries[chunk] @ block.vectors.T
            slack = _slack(queries[chunk], _longest(block.vectors))
            mine = (owner[at] >= start) & (owner[at] < start + QUERIES_AT_ONCE)
            rough[owner[at][mine] - start, columns[mine]] = -np.inf  # relevant items are not in each other's way
            sure = rough > (best[chunk] + slack)[:, None]
            unsure = (rough >= (best[chunk] - slack)[:, None]) & ~sure
            rows, close = np.nonzero(unsure)
            beaten = _exact(queries, block.vectors, rows + start, close) >= best[chunk][rows]
            ahead[chunk] += sure.sum(axis=1) + np.bincount(rows[beaten], minlength=len(rough))
    return np.where(np.isfinite(best), ahead + 1, 0)


def _refuse_width(block: Block, queries: np.ndarray) -> None:
    if block.vectors.shape[1] != queries.shape[1]:
        raise InputError(f"queries are {queries.shape[1]} wide, items {block.vectors.shape[1]}")


def _positions(block: Block, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices into `wanted`, rows of the block) of the wanted ids that are in the block; `wanted` ascends."""
    by_id = np.argsort(block.ids, kind="stable")
    known = block.ids[by_id]
    place = np.searchsorted(known, wanted)
    at = np.flatnonzero(place < len(known))
    at = at[known[place[at]] == wanted[at]]
    return at, by_id[place[at]]


def _longest(items: np.ndarray) -> float:
    """The largest norm."""
    return float(np.linalg.norm(items, axis=1).max(initial=0.0))


def _slack(queries: np.ndarray, longest: float) -> np.ndarray:
    """A bound on the error of a float32 inner product with items of at most this norm, float32 (Q,).

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1: D u |x| |y|,
    doubled for the rounding of what it is compared with.
    """
    bound = (queries.shape[1] + 2) * 2.0**-23 * np.linalg.norm(queries, axis=1) * longest
    return np.asarray(bound, dtype=np.float32)


def _contenders(
    block: Block, queries: np.ndarray, floor: np.ndarray, chunk: slice, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(query rows, block rows) that can be among the k best; everything tied with the k-th is among them."""
    rough = queries[chunk] @ block.vectors.T
    least = floor[chunk]
    if np.isneginf(least).any() and k < rough.shape[1]:
        kth = np.partition(rough, rough.shape[1] - k, axis=1)[:, rough.shape[1] - k]
        least = np.maximum(least, kth)
    keep = rough >= (least - _slack(queries[chunk], _longest(block.vectors)))[:, None]
    rows, columns = np.nonzero(keep)
    return rows + chunk.start, columns


def _exact(queries: np.ndarray, items: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Inner products of the pairs (queries[rows], items[columns]), float64 rounded to float32."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        left = queries[rows[some]].astype(np.float64)
        scores[some] = np.einsum("pd,pd->p", left, items[columns[some]].astype(np.float64))
    return scores


def _best(rows: np.ndarray, scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best of each query, grouped by query."""
    order = np.lexsort((ids, -scores, rows))
    rows, scores, ids = rows[order], scores[order], ids[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
    keep = place < k
    return rows[keep], scores[keep], ids[keep]
