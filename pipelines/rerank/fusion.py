"""score = slow + beta * fast: choosing beta, ranking by it, and the tables and TREC files that come of it.

Letters: P candidate pairs of all queries, Q queries. Everything works on whole columns; no loop runs over pairs.
Source: Miech et al., Thinking Fast and Slow, CVPR 2021 (additive fusion on the shortlist, beta from held-out data).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rankings import trec_word

GRID = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of the fast side tried, in units of std(slow) / std(fast): the scales of the two differ by model."""

TREC_ROWS = 1 << 18
"""Rows of a run written at once: some 20 MB of text."""


class Pairs(NamedTuple):
    """The candidates of all queries as columns.

    Attributes:
      query: row of the query table, int64 (P,).
      item_id: int64 (P,).
      fast_rank: from 1 within its query, int32 (P,).
      fast: float32 (P,).
      slow: float32 (P,); NaN where the pair was not scored.
    """

    query: np.ndarray
    item_id: np.ndarray
    fast_rank: np.ndarray
    fast: np.ndarray
    slow: np.ndarray


class Ranked(NamedTuple):
    """An order of pairs.

    Attributes:
      order: rows of the pairs by query, then rank; int64 (P,).
      rank: from 1 within its query, in that order; int32 (P,).
      score: what `rank` sorts by, in that order; float32 (P,).
    """

    order: np.ndarray
    rank: np.ndarray
    score: np.ndarray


def fuse(pairs: Pairs, beta: float) -> np.ndarray:
    """The score of every pair, float32 (P,): slow + beta * fast.

    A pair that was not scored comes after all scored ones of its query, in the order of the fast side: it gets the
    query's lowest score, less 1 (and in a query without any scored pair its fast score).

    >>> none = np.float32("nan")
    >>> pairs = Pairs(np.zeros(3, int), np.arange(3), np.arange(1, 4), np.float32([3, 2, 1]), np.float32([none, 5, 6]))
    >>> fuse(pairs, 0.0).tolist()
    [4.0, 5.0, 6.0]
    """
    scored = ~np.isnan(pairs.slow)
    fused = np.where(scored, pairs.slow.astype(np.float64) + beta * pairs.fast.astype(np.float64), np.inf)
    if scored.all():
        return fused.astype(np.float32)
    queries = int(pairs.query.max()) + 1
    lowest = np.full(queries, np.inf)
    np.minimum.at(lowest, pairs.query, fused)
    best_fast = np.full(queries, -np.inf)
    np.maximum.at(best_fast, pairs.query[~scored], pairs.fast[~scored])
    below = lowest[pairs.query] - 1.0 - (best_fast[pairs.query] - pairs.fast)
    without = np.where(np.isinf(lowest[pairs.query]), pairs.fast, below)
    return np.where(scored, fused, without).astype(np.float32)


def rank(pairs: Pairs, score: np.ndarray) -> Ranked:
    """Ranks by score, highest first; equal scores keep the order of the fast side, unscored pairs stay last.

    Args:
      score: float32 (P,), from `fuse`.
    """
    unscored = np.isnan(pairs.slow)
    order = np.lexsort((pairs.fast_rank, -score, unscored, pairs.query))
    return Ranked(order, _rank_within(pairs.query[order]), score[order])


def _rank_within(query: np.ndarray) -> np.ndarray:
    """1, 2, 3 ... within each run of equal values."""
    position = np.arange(query.size)
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]]) if query.size else position
    lengths = np.diff(np.r_[starts, query.size])
    return (position - np.repeat(starts, lengths) + 1).astype(np.int32)


def fit_beta(pairs: Pairs, relevant: np.ndarray, judged: int) -> float | None:
    """The weight of the fast side that ranks best on held-out queries: by R@1, then mean reciprocal rank.

    Args:
      pairs: of the fit queries only; test queries must not be among them.
      relevant: whether a pair is known to be relevant, bool (P,).
      judged: fit queries with anything relevant, also those where it is not among the candidates.

    Returns:
      GRID's best weight times std(slow) / std(fast), the smaller one of equals; None when nothing is judged.
    """
    scored = ~np.isnan(pairs.slow)
    if judged == 0 or not scored.any():
        return None
    spread = float(pairs.fast[scored].std(dtype=np.float64))
    if spread == 0.0:
        return 0.0  # the fast side says nothing, at any weight
    unit = float(pairs.slow[scored].std(dtype=np.float64)) / spread
    best, best_quality = 0.0, (-1.0, -1.0)
    for weight in GRID:
        ranked = rank(pairs, fuse(pairs, weight * unit))
        first = _first_ranks(pairs.query[ranked.order], ranked.rank, relevant[ranked.order])
        quality = (float((first == 1).sum()) / judged, float((1.0 / first).sum()) / judged)
        if quality > best_quality:
            best, best_quality = weight * unit, quality
    return best


def relevant_pairs(pairs: Pairs, judgements: pa.Table, query_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs are known to be relevant, bool (P,), and which queries are judged at all, bool (Q,).

    Args:
      judgements: table of `schemas.rankings.JUDGEMENTS`.
      query_ids: of the query table.
    """
    query = pc.index_in(judgements.column("query_id"), value_set=query_ids).to_numpy()
    judged = np.zeros(len(query_ids), bool)
    judged[query] = True
    items = np.unique(judgements.column("item_id").to_numpy())
    if not items.size:
        return np.zeros(len(pairs.item_id), bool), judged
    known = query.astype(np.int64) * items.size + np.searchsorted(items, judgements.column("item_id").to_numpy())
    place = np.minimum(np.searchsorted(items, pairs.item_id), items.size - 1)
    relevant = (items[place] == pairs.item_id) & np.isin(pairs.query * items.size + place, known)
    return relevant, judged


def _first_ranks(query: np.ndarray, ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Rank of the first relevant pair of each query that has one; rows sorted by query, then rank."""
    _, first = np.unique(query[relevant], return_index=True)
    return np.asarray(ranks[relevant][first])


def run_lines(query_ids: pa.Array, keys: pa.Array, ranks: np.ndarray, *, depth: int, tag: str) -> Iterator[bytes]:
    """A TREC run in pieces, byte for byte what `schemas.rankings.trec_run` gives, without a loop over rows."""
    for begin in range(0, len(keys), TREC_ROWS):
        piece = slice(begin, begin + TREC_ROWS)
        place = pa.array(ranks[piece])
        score = pc.cast(pa.array(depth + 1 - ranks[piece].astype(np.int64)), pa.string())
        columns = [query_ids[piece], "Q0", _words(keys[piece]), pc.cast(place, pa.string()), score, tag, " "]
        yield _joined(pc.binary_join_element_wise(*columns))


def qrels_lines(query_ids: pa.Array, keys: pa.Array) -> Iterator[bytes]:
    """TREC judgements in pieces, byte for byte what `schemas.rankings.trec_qrels` gives."""
    for begin in range(0, len(keys), TREC_ROWS):
        piece = slice(begin, begin + TREC_ROWS)
        yield _joined(pc.binary_join_element_wise(query_ids[piece], "0", _words(keys[piece]), "1", " "))


def _words(keys: pa.Array) -> pa.Array:
    """Keys as single words, escaped once per distinct key."""
    coded = keys.dictionary_encode()
    words = [trec_word(key) for key in coded.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(coded.indices)


def _joined(lines: pa.Array) -> bytes:
    text = "\n".join(lines.to_pylist())
    return f"{text}\n".encode() if text else b""
