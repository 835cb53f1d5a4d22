"""What an index should find: queries of the log, and items, with their exact neighbours; recall against them.

Letters: Q queries, W neighbours kept, k of recall@k, d_m width of level m.
"""

from typing import Literal, NamedTuple

import numpy as np

from pipelines.index.exact import exact_search
from pipelines.index.parts import Parts, sample
from pipelines.index.plan import LEVEL, IndexPlan
from schemas.configs import Index
from schemas.parquet import read_table, vectors

LEAST_FIT_QUERIES = 50
"""With fewer, all queries are used for tuning and nothing is held out."""

MOST_QUERIES = 2000
"""Of each split; recall 0.95 is then known to about +-0.01, and exhaustive search stays cheap."""

IMAGE_QUERIES = 1000

WIDE = 4
"""Exact neighbours kept, in multiples of k: an item tied with the k-th counts as found too."""

TIE = 1e-6
"""Scores this close are a tie: float32 rounding in the index must not count as a miss."""


class Truth(NamedTuple):
    """Queries with their exact neighbours.

    Attributes:
      queries: float32 (Q, d_m), one array a level searched through, coarse to fine.
      scores, ids: of the neighbours, float32 and int64 (Q, W).
      own: ids to leave out, int64 (Q,); None for texts.
    """

    queries: tuple[np.ndarray, ...]
    scores: np.ndarray
    ids: np.ndarray
    own: np.ndarray | None = None


class Truths(NamedTuple):
    """What an index is tuned on and measured with.

    Attributes:
      tuned_on: "all" where the log has fewer than 50 fit queries and nothing is held out.
      tune, test, image: texts to tune on, texts held out, and items as queries; neighbours at the finest level.
      coarse: the tuning texts with their neighbours at the level that is indexed; None where that alone is searched.
    """

    tuned_on: Literal["fit", "all"]
    tune: Truth
    test: Truth
    image: Truth
    coarse: Truth | None


def find_truths(plan: IndexPlan, config: Index, *, most: int = MOST_QUERIES) -> Truths:
    """Exhaustive search for some of the queries, at the finest level in one walk over the parts.

    Args:
      most: queries of each kind.
    """
    folder = plan.queries_url.rsplit("/", 1)[0]
    table = read_table(f"{folder}/{plan.queries.data.name}", ["split", *dict.fromkeys(plan.levels)])
    texts = [vectors(table.column(level)) for level in plan.levels]
    split = np.array(table.column("split").to_pylist())
    tuned_on: Literal["fit", "all"] = "fit" if (split == "fit").sum() >= LEAST_FIT_QUERIES else "all"
    rng = np.random.default_rng(config.seed)
    fit = _some(np.arange(len(split)) if tuned_on == "all" else np.flatnonzero(split == "fit"), rng, most)
    test = _some(np.flatnonzero(split == "test") if tuned_on == "fit" else fit[:0], rng, most)
    count = min(IMAGE_QUERIES, most) if plan.rows > 1 else 0
    items = [sample(plan.part_urls, count, seed=config.seed + 1, level=level) for level in plan.levels]
    scores, ids = exact_search(
        Parts(plan.part_urls, LEVEL),
        np.concatenate([texts[-1][fit], texts[-1][test], items[-1].vectors]),
        WIDE * config.recall_k + 1,
    )
    a, b = len(fit), len(fit) + len(test)
    own = items[-1].ids
    coarse = None
    if plan.refined:
        coarse = Truth((texts[0][fit],), scores[:a], ids[:a])
    elif len(plan.levels) > 1:
        queries = texts[0][fit]
        coarse = Truth(
            (queries,), *exact_search(Parts(plan.part_urls, plan.levels[0]), queries, WIDE * config.recall_k + 1)
        )
    return Truths(
        tuned_on,
        Truth(tuple(level[fit] for level in texts), scores[:a], ids[:a]),
        Truth(tuple(level[test] for level in texts), scores[a:b], ids[a:b]),
        Truth(tuple(block.vectors for block in items), *without_self(scores[b:], ids[b:], own), own),
        coarse,
    )


def recall_of_each(ids: np.ndarray, exact_scores: np.ndarray, exact_ids: np.ndarray, k: int) -> np.ndarray:
    """Recall@k of every query: the share of its k exact neighbours that were found.

    An item that ties with the k-th exact neighbour is as good as it, so identical pictures do not count as misses.

    Args:
      ids: int64 (Q, K), found, K <= k; -1 for none.
      exact_scores, exact_ids: (Q, W), W >= k (all items when there are fewer), falling.

    Returns:
      float64 (Q,).
    """
    k = min(k, exact_ids.shape[1])
    good = exact_scores >= exact_scores[:, k - 1 : k] - TIE
    hits = ((ids[:, :, None] == exact_ids[:, None, :]) & good[:, None, :]).any(axis=2).sum(axis=1)
    return np.asarray(np.minimum(hits, k) / k)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of per-query recalls, with Wilson's 95 % score interval over queries.

    A recall lies between 0 and 1, so its variance is at most that of a yes or no with the same mean: the
    interval is never too narrow. Unlike a bootstrap it does not shrink to a point when all queries succeed.
    Source: Wilson, JASA 22 (1927) 209-212.
    """
    n, mean, z = len(values), float(np.mean(values)), 1.959964
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return round(mean, 6), round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6)


def without_self(scores: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row without its own id, one column narrower; where it is absent the last column goes."""
    if not ids.size:
        return scores, ids
    drop = np.where((ids == own[:, None]).any(axis=1), (ids == own[:, None]).argmax(axis=1), ids.shape[1] - 1)
    keep = np.arange(ids.shape[1])[None, :] != drop[:, None]
    shape = (len(ids), ids.shape[1] - 1)
    return scores[keep].reshape(shape), ids[keep].reshape(shape)


def _some(rows: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """A fair sample of query rows, rising."""
    return rows[np.sort(rng.choice(len(rows), min(len(rows), most), replace=False))]
