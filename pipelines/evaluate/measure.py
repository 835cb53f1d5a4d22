"""All figures of one set of rankings: fast and reranked, by modality, text to item and back, and stage by stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.evaluate.metrics import (
    Judged,
    Results,
    as_dict,
    compare,
    first_ranks,
    means,
    per_query,
    recalls,
)
from pipelines.evaluate.stages import FirstRanks, Stage, loss_by_stage, losses, median_where_found, moved
from pipelines.index.exact import exact_ranks, exact_search
from pipelines.index.parts import BLOCK_ROWS, Block, Parts

STAGE_QUERIES = 20_000
"""Queries searched exhaustively at most (a fair, seeded sample): on a million items of width 512 some minutes."""

GALLERY_ITEMS = 20_000
"""Items whose captions are looked for at most, likewise."""

LEAST_DEPTH = 10
"""R@10 and nDCG@10 need ten results."""

SEED = 0


class Data(NamedTuple):
    """What is evaluated; queries are row numbers of the query table.

    Attributes:
      query_ids: string (Q,).
      texts: vectors of the queries, float32 (Q, D).
      measured: judged queries to measure on, rising; int64.
      judged: relevant pairs.
      videos: whether the item of a relevant pair is a video, bool (pairs,).
      fast: the candidates in the order of the fast side.
      final: the same after reranking; None without a scorer.
      slow: slow score of each candidate, NaN where there is none; float32.
    """

    query_ids: pa.Array
    texts: np.ndarray
    measured: np.ndarray
    judged: Judged
    videos: np.ndarray
    fast: Results
    final: Results | None
    slow: np.ndarray


class Exhaustive(NamedTuple):
    """Exact search of some of the measured queries.

    Attributes:
      queries: their numbers, rising, int64 (S,).
      results: as deep as there are candidates, 10 at least.
      ranks: of each query's best relevant item among all items; int64 (S,), 0 where it is not embedded.
    """

    queries: np.ndarray
    results: Results
    ranks: np.ndarray


def measure(data: Data, manifest_urls: Sequence[str], *, captions: bool) -> dict[str, Any]:
    """Every figure that needs judged queries; keys as documented in `pipelines.evaluate.job`.

    Args:
      manifest_urls: embedding manifests.
      captions: whether queries are relevant by caption, so that the other direction has a meaning.
    """
    parts = Parts(tuple(manifest_urls))
    exact = exhaustive(parts, data)
    ranks = first_ranks(data.fast, data.judged, data.measured)
    found: dict[str, Any] = {
        "text_to_image": compare_sides(data, data.judged, data.measured),
        "image_to_text": image_to_text(parts, data) if captions else None,
        "modalities": _modalities(data),
        "upper_bound": float((ranks > 0).mean()),
        "stage_queries": len(exact.queries),
        "stages": loss_by_stage(_stages(data, exact), data.judged, exact.queries, exact_ranks=exact.ranks),
        "losses": losses(_where(data, exact), data.query_ids.take(pa.array(exact.queries)).to_pylist()),
    }
    found["text_to_image"]["fast"]["median_rank"] = median_where_found(exact.ranks)
    if data.final is not None:
        found["moved"] = moved(ranks, first_ranks(data.final, data.judged, data.measured))
    return found


def compare_sides(data: Data, judged: Judged, queries: np.ndarray) -> dict[str, Any]:
    """Fast against reranked on the same queries: `fast`, `reranked` and `gain`, the last two with a scorer only."""
    fast = per_query(data.fast, judged, queries)
    found: dict[str, Any] = {"fast": means(fast)}
    if data.final is not None:
        final = per_query(data.final, judged, queries)
        median = median_where_found(first_ranks(data.final, judged, queries))
        found["reranked"] = means(final) | {"median_rank": median}
        found["gain"] = {name: as_dict(compare(final[name], fast[name])) for name in fast}
    return found


def _modalities(data: Data) -> dict[str, Any]:
    """`compare_sides` for queries after images and after videos, each judged by items of its modality alone."""
    found: dict[str, Any] = {}
    for name, rows in (("image", ~data.videos), ("video", data.videos)):
        judged = Judged(data.judged.query[rows], data.judged.item[rows])
        queries = np.intersect1d(judged.query, data.measured)
        if queries.size:
            found[name] = {"queries": len(queries)} | compare_sides(data, judged, queries)
    return found


def exhaustive(parts: Parts, data: Data) -> Exhaustive:
    """Searches all items for the measured queries, or for a fair sample of them."""
    queries = _sample(data.measured, STAGE_QUERIES)
    depth = max(LEAST_DEPTH, int(data.fast.rank.max(initial=0)))
    _, ids = exact_search(parts, data.texts[queries], depth)
    width = ids.shape[1]
    results = Results(np.repeat(queries, width), ids.reshape(-1), np.tile(np.arange(1, width + 1), len(queries)))
    ranks = exact_ranks(parts, data.texts[queries], _relevant(data.judged.query, data.judged.item, queries))
    return Exhaustive(queries, results, ranks)


def image_to_text(parts: Parts, data: Data) -> dict[str, Any]:
    """Finds an item's captions among all queries by exhaustive search of the fast side.

    The slow side scores text-to-item candidates only, so there is no reranked figure for this direction.

    Returns:
      side ("fast"), items, gallery (distinct texts), R@1, R@5, R@10 (any of the captions), median_rank.
    """
    items = _sample(np.unique(data.judged.item), GALLERY_ITEMS)
    found = [(block.ids[rows], block.vectors[rows]) for block in parts for rows in [np.isin(block.ids, items)]]
    ids, pictures = np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])
    numbers = np.arange(len(data.texts))
    gallery = [Block(some, data.texts[some]) for some in np.split(numbers, range(BLOCK_ROWS, len(numbers), BLOCK_ROWS))]
    ranks = exact_ranks(gallery, pictures, _relevant(data.judged.item, data.judged.query, ids))
    figures = {"side": "fast", "items": len(ids), "gallery": len(numbers)}
    return figures | recalls(ranks) | {"median_rank": median_where_found(ranks)}


def _sample(numbers: np.ndarray, count: int) -> np.ndarray:
    """All numbers, or a fair sample of them; rising."""
    if len(numbers) <= count:
        return numbers
    return np.sort(np.random.default_rng(SEED).choice(numbers, count, replace=False))


def _relevant(left: np.ndarray, right: np.ndarray, wanted: np.ndarray) -> list[list[int]]:
    """For each wanted value of `left`: the values of `right` beside it."""
    order = np.argsort(left, kind="stable")
    begin = np.searchsorted(left, wanted, side="left", sorter=order)
    end = np.searchsorted(left, wanted, side="right", sorter=order)
    return [right[order[a:b]].tolist() for a, b in zip(begin, end, strict=True)]


def _stages(data: Data, exact: Exhaustive) -> list[Stage]:
    stages = [Stage("exact", exact.results), Stage("index", data.fast)]
    if data.final is not None:
        stages += [Stage("rerank", by_slow_score(data)), Stage("fused", data.final)]
    return stages


def by_slow_score(data: Data) -> Results:
    """The candidates by slow score alone; equal and missing ones in the order of the fast side, these last."""
    missing = np.isnan(data.slow)
    order = np.lexsort((data.fast.rank, -np.where(missing, 0, data.slow), missing, data.fast.query))
    query = data.fast.query[order]
    starts = np.searchsorted(query, query, side="left")
    return Results(query, data.fast.item[order], np.arange(len(query)) - starts + 1)


def _where(data: Data, exact: Exhaustive) -> FirstRanks:
    """Ranks of the first relevant item of the exhaustively searched queries, at each step."""
    fast = first_ranks(data.fast, data.judged, exact.queries)
    deep = first_ranks(exact.results, data.judged, exact.queries)
    deep = np.where(deep <= data.fast.rank.max(initial=0), deep, 0)
    if data.final is None:
        return FirstRanks(deep, fast, fast, fast)
    seen = ~np.isnan(data.slow)
    scored = Results(*(column[seen] for column in data.final))
    return FirstRanks(
        deep,
        fast,
        first_ranks(scored, data.judged, exact.queries),
        first_ranks(data.final, data.judged, exact.queries),
    )
