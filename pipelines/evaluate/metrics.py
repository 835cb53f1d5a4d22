"""How good rankings are: per query by ir_measures, over queries as means with bootstrap intervals.

Nothing is known of an item that is not judged, so it counts as not relevant; a judged query that got no results
counts as zero, not as absent.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, Measure, Success, nDCG

CUTOFFS = (1, 5, 10)

MEASURES: dict[str, Measure] = {
    "R@1": Success @ 1,
    "R@5": Success @ 5,
    "R@10": Success @ 10,
    "nDCG@10": nDCG @ 10,
    "RR": RR,
}
"""Name here -> measure. R@K is the share of queries with a relevant item among the first K: what the COCO and Flickr30K
literature calls recall (Karpathy and Fei-Fei, CVPR 2015); with several relevant items it is not the share of those."""

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0


class Results(NamedTuple):
    """One system's rankings as columns.

    Attributes:
      query: number of the query, int64 (n,).
      item: id, int64 (n,).
      rank: from 1, without gaps within a query, int (n,).
    """

    query: np.ndarray
    item: np.ndarray
    rank: np.ndarray


class Judged(NamedTuple):
    """Relevant pairs as columns: query number and item id, int64 (n,)."""

    query: np.ndarray
    item: np.ndarray


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def per_query(results: Results, judged: Judged, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure of every query.

    Args:
      queries: numbers of the judged queries to measure, distinct; int64 (Q,).

    Returns:
      Name of the measure -> float64 (Q,), in the order of `queries`.
    """
    asked = np.isin(results.query, queries)
    run = pd.DataFrame(
        {
            "query_id": results.query[asked].astype(str),
            "doc_id": results.item[asked].astype(str),
            "score": -results.rank[asked].astype(np.float64),  # ranks hold no ties for the library to break
        }
    )
    known = np.isin(judged.query, queries)
    qrels = pd.DataFrame(
        {"query_id": judged.query[known].astype(str), "doc_id": judged.item[known].astype(str), "relevance": 1}
    )
    values = {name: np.zeros(len(queries)) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    row = {str(query): number for number, query in enumerate(queries)}
    if run.empty or qrels.empty:
        return values
    for found in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        values[names[found.measure]][row[found.query_id]] = found.value
    return values


def first_ranks(results: Results, judged: Judged, queries: np.ndarray) -> np.ndarray:
    """Rank of the first relevant result of each query, int64 (Q,); 0 where there is none among the results."""
    relevant = is_relevant(results, judged)
    best = np.zeros(len(queries), np.int64)
    order = np.argsort(queries)
    place = np.searchsorted(queries, results.query[relevant], sorter=order)
    inside = place < len(queries)
    inside[inside] = queries[order[place[inside]]] == results.query[relevant][inside]
    row, rank = order[place[inside]], results.rank[relevant][inside].astype(np.int64)
    falling = np.argsort(-rank, kind="stable")
    best[row[falling]] = rank[falling]  # the last one written to a row is the smallest
    return best


def is_relevant(results: Results, judged: Judged) -> np.ndarray:
    """Whether each result is a relevant pair, bool (n,); no loop over pairs."""
    items = np.unique(judged.item)
    if not items.size:
        return np.zeros(len(results.item), bool)
    place = np.minimum(np.searchsorted(items, results.item), items.size - 1)
    known = items[place] == results.item
    ours = results.query.astype(np.int64) * items.size + place
    theirs = judged.query.astype(np.int64) * items.size + np.searchsorted(items, judged.item)
    return np.asarray(known & np.isin(ours, theirs))


def means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Each measure over all queries; zero when there are none."""
    return {name: float(found.mean()) if found.size else 0.0 for name, found in values.items()}


def median_rank(ranks: np.ndarray) -> float | None:
    """The median of ranks from 1, None when there are none.

    >>> median_rank(np.array([1, 2, 9]))
    2.0
    """
    return float(np.median(ranks)) if len(ranks) else None


def interval(values: np.ndarray) -> Interval:
    """The mean of per-query values with its percentile bootstrap interval (95 %, seeded).

    Resampling n queries with replacement only changes how often each distinct value is met, which is a multinomial
    draw: the same distribution, without n draws a resample.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(SEED)
    share = counts / counts.sum()
    draws = [generator.multinomial(len(values), share) @ distinct / len(values) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def compare(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """The mean difference of two systems over the same queries, with its paired bootstrap interval.

    Args:
      ours, theirs: one value a query, in the same order, float (Q,).

    Returns:
      ours - theirs; an interval that holds 0 means that the queries do not tell them apart.
    """
    return interval(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))


def as_dict(found: Interval) -> dict[str, float]:
    """Plain values for JSON."""
    return {"value": found.value, "low": found.low, "high": found.high}


def recalls(ranks: Sequence[int] | np.ndarray) -> dict[str, float]:
    """R@1, R@5 and R@10 from ranks of the first relevant result (0: none).

    >>> recalls([1, 3, 0, 7])
    {'R@1': 0.25, 'R@5': 0.5, 'R@10': 0.75}
    """
    found = np.asarray(ranks)
    return {f"R@{k}": float(((found > 0) & (found <= k)).mean()) if found.size else 0.0 for k in CUTOFFS}


def rounded(value: Any) -> Any:
    """Plain values with floats at six decimals: beyond that lies only the order of a sum."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
