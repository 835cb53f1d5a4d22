"""Where quality is lost: exhaustive search -> index -> slow score alone -> fused, and which stage lost which query."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluate.metrics import (
    CUTOFFS,
    Judged,
    Results,
    as_dict,
    compare,
    first_ranks,
    interval,
    median_rank,
    per_query,
)

SHOWN = (*(f"R@{k}" for k in CUTOFFS), "nDCG@10")

EXAMPLES = 20
"""Query ids listed for each way of being lost."""

NOTES = {
    "exact": "exhaustive search by the fast side",
    "index": "the index's candidates, in the order of their exact fast scores",
    "rerank": "the same candidates by slow score alone",
    "fused": "the same candidates by slow + beta * fast",
}

LOSSES = {
    "fast": "the fast side ranks it below the candidates even in exhaustive search",
    "index": "exhaustive search would have made it a candidate, the index did not find it",
    "unscored": "a candidate, but its picture could not be read or was below the rerank depth",
    "rerank": "first by fast score, no longer first after reranking",
    "not lifted": "a candidate below the first place, and reranking did not lift it there",
}


class Stage(NamedTuple):
    """One step of the flow and the order it leaves."""

    name: str
    results: Results


class FirstRanks(NamedTuple):
    """Ranks of each query's first relevant item, int64 (Q,); 0 where there is none.

    Attributes:
      exact: in exhaustive search, as deep as there are candidates.
      fast: among the candidates, by fast score.
      scored: among the candidates that have a slow score, by final rank.
      final: among the candidates, by final rank.
    """

    exact: np.ndarray
    fast: np.ndarray
    scored: np.ndarray
    final: np.ndarray


def loss_by_stage(
    stages: Sequence[Stage], judged: Judged, queries: np.ndarray, *, exact_ranks: np.ndarray
) -> list[dict[str, Any]]:
    """Quality after each stage, with what it changed against the one before.

    Args:
      stages: in the order of the flow, the first of them "exact".
      queries: numbers of the judged queries to measure, int64 (Q,).
      exact_ranks: of each query's best relevant item among all items, int64 (Q,); 0 where it is not in the index.

    Returns:
      One mapping a stage: name, note, queries, R@1, R@5, R@10 and nDCG@10 as value with a 95 % interval (low, high),
      median_rank (null where more than half of the queries have no relevant result), and from the second stage on
      `change`: of R@1, R@5, R@10 and nDCG@10 against the stage before, paired, with intervals.
    """
    found: list[dict[str, Any]] = []
    before: dict[str, np.ndarray] | None = None
    for stage in stages:
        values = per_query(stage.results, judged, queries)
        ranks = exact_ranks if stage.name == "exact" else first_ranks(stage.results, judged, queries)
        row: dict[str, Any] = {"name": stage.name, "note": NOTES[stage.name], "queries": len(queries)}
        row |= {name: as_dict(interval(values[name])) for name in SHOWN}
        row["median_rank"] = median_where_found(ranks)
        if before is not None:
            row["change"] = {name: as_dict(compare(values[name], before[name])) for name in SHOWN}
        found.append(row)
        before = values
    return found


def median_where_found(ranks: np.ndarray) -> float | None:
    """The median rank, 0 (not found) being below everything; None when it falls among those.

    >>> median_where_found(np.array([1, 2, 0])), median_where_found(np.array([1, 0, 0]))
    (2.0, None)
    """
    middle = median_rank(np.where(ranks > 0, ranks.astype(np.float64), np.inf))
    return middle if middle is not None and np.isfinite(middle) else None


def losses(ranks: FirstRanks, query_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Of the queries whose first result is not relevant: the stage that lost each, by `LOSSES`.

    Args:
      query_ids: in the order of the ranks.

    Returns:
      One mapping a way of being lost: where, note, queries, share (of all measured), examples (query ids, 20 at
      most). Each lost query is in exactly one.
    """
    lost = ranks.final != 1
    candidate = ranks.fast > 0
    cases = {
        "fast": lost & ~candidate & (ranks.exact == 0),
        "index": lost & ~candidate & (ranks.exact > 0),
        "unscored": lost & candidate & (ranks.scored == 0),
        "rerank": lost & candidate & (ranks.scored > 0) & (ranks.fast == 1),
        "not lifted": lost & candidate & (ranks.scored > 0) & (ranks.fast > 1),
    }
    total = max(1, len(lost))
    return [
        {
            "where": where,
            "note": LOSSES[where],
            "queries": int(rows.sum()),
            "share": float(rows.sum() / total),
            "examples": [query_ids[row] for row in np.flatnonzero(rows)[:EXAMPLES]],
        }
        for where, rows in cases.items()
    ]


def moved(fast: np.ndarray, final: np.ndarray) -> dict[str, int]:
    """How many queries reranking brought to the first place, and how many it took from there.

    >>> moved(np.array([1, 2, 0]), np.array([2, 1, 0]))
    {'won': 1, 'lost': 1}
    """
    return {"won": int(((fast != 1) & (final == 1)).sum()), "lost": int(((fast == 1) & (final != 1)).sum())}
