"""Finds the cheapest operating point that keeps the recall promised, measured on the log's text queries.

Ground truth is exhaustive search (`exact`). Points are tried in rising cost, counted in bytes scanned and not
in milliseconds, so that the choice is the same on every machine; times are kept in a file of their own.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pipelines.index.exact import exact_search
from pipelines.index.parts import Parts, sample
from pipelines.index.plan import LEVEL, IndexPlan
from pipelines.index.proposal import Proposal, estimated_bytes, human
from pipelines.index.search import Point, Searcher, format_point, limits, parse_point
from schemas.commits import read_json
from schemas.configs import Index
from schemas.errors import IndexBuildError
from schemas.manifests import Manifest
from schemas.parquet import read_table, vectors

log = logging.getLogger(__name__)

LEAST_FIT_QUERIES = 50
"""With fewer, all queries are used for tuning and nothing is held out."""

MOST_QUERIES = 2000
"""Of each split; recall 0.95 is then known to about +-0.01, and exhaustive search stays cheap."""

IMAGE_QUERIES = 1000
MOST_EF_SEARCH = 4096
MOST_REPETITIONS = 7
LONGEST_TIMING_S = 0.5  # of one operating point, begun repetitions aside
K_FACTORS = (1, 2, 4, 8, 16, 32)
WIDE = 4
"""Exact neighbours kept, in multiples of k: an item tied with the k-th counts as found too."""

TIE = 1e-6
"""Scores this close are a tie: float32 rounding in the index must not count as a miss."""


class Measured(Manifest):
    """Recall of one operating point.

    Attributes:
      parameters: as FAISS's ParameterSpace takes them; "" for exhaustive kinds.
      cost_bytes: vectors' bytes scanned for one query, what points are ordered by.
      recall, low, high: recall@k on text queries and its 95 % interval.
      image_recall, image_low, image_high: the same with items as queries, themselves left out; null with one item.
    """

    parameters: str
    cost_bytes: float
    recall: float
    low: float
    high: float
    image_recall: float | None
    image_low: float | None
    image_high: float | None


class HeldOut(Manifest):
    """Recall at the chosen point on queries that had no part in choosing it."""

    queries: int
    recall: float
    low: float
    high: float


class Tuning(Manifest):
    """What was tried, what was chosen and why: `tuning.json` beside the index."""

    kind: Literal["tuning"] = "tuning"
    key: str
    reason: str
    estimated_bytes: int
    rows: int
    dim: int
    train_rows: int
    recall_k: int
    recall_target: float
    tuned_on: Literal["fit", "all"]  # "all": the log has fewer than 50 fit queries, nothing is held out
    queries: int
    image_queries: int
    curve: tuple[Measured, ...]  # in rising cost, up to the first point with recall of both target and 0.999
    chosen: str
    recall: float
    low: float
    high: float
    held_out: HeldOut | None


class _Truth(NamedTuple):
    """Queries float32 (Q, D) with their exact neighbours, float32 and int64 (Q, W); `own`: ids to leave out."""

    queries: np.ndarray
    scores: np.ndarray
    ids: np.ndarray
    own: np.ndarray | None = None


def tune(
    searcher: Searcher, plan: IndexPlan, proposal: Proposal, *, train_rows: int, config: Index
) -> tuple[Tuning, dict[str, float]]:
    """Measures the curve and chooses.

    Returns:
      The tuning, a function of the data alone, and milliseconds per query (batch search, all threads) by parameters.

    Raises:
      IndexBuildError: no point reaches `config.recall_target`; says what binds and what would help.
    """
    tuned_on, truths = _truths(plan, config)
    curve: list[Measured] = []
    times: dict[str, float] = {}
    for cost, point in points(searcher.index, config.recall_k):
        name = format_point(point)
        text = _recalls(searcher, truths["tune"], config.recall_k, point)
        times[name] = _ms_per_query(searcher, truths["tune"].queries, config.recall_k, point)
        image = _recalls(searcher, truths["image"], config.recall_k, point)
        curve.append(_measured(name, cost, text, image))
        log.info("%s %s: recall@%d %.4f", proposal.key, name, config.recall_k, curve[-1].recall)
        if curve[-1].recall >= max(config.recall_target, 0.999):
            break
    chosen = next((measured for measured in curve if measured.recall >= config.recall_target), None)
    if chosen is None:
        raise IndexBuildError(_what_binds(searcher.index, curve, plan, proposal, train_rows=train_rows, config=config))
    tuning = Tuning(
        key=proposal.key,
        reason=proposal.reason,
        estimated_bytes=proposal.estimated_bytes,
        rows=plan.rows,
        dim=plan.dim,
        train_rows=train_rows,
        recall_k=config.recall_k,
        recall_target=config.recall_target,
        tuned_on=tuned_on,
        queries=len(truths["tune"].queries),
        image_queries=len(truths["image"].queries),
        curve=tuple(curve),
        chosen=chosen.parameters,
        recall=chosen.recall,
        low=chosen.low,
        high=chosen.high,
        held_out=_held_out(searcher, truths["test"], config.recall_k, chosen.parameters),
    )
    return tuning, times


def read_tuning(index_manifest_url: str) -> tuple[Tuning, dict[str, float]]:
    """The tuning of a finished index, and milliseconds per query by parameters as measured when it was built."""
    folder = index_manifest_url.rsplit("/", 1)[0]
    times: Mapping[str, float] = read_json(f"{folder}/timings.json")["ms_per_query"]
    return Tuning.read(f"{folder}/tuning.json"), dict(times)


def points(index: Any, k: int) -> list[tuple[float, dict[str, int]]]:
    """All operating points with their cost in bytes scanned per query, cheapest first.

    Exhaustive kinds have one point without parameters.
    """
    import faiss

    most = limits(index)
    rows, inner, refine_bytes = int(index.ntotal), faiss.downcast_index(index), 0
    while isinstance(inner, (faiss.IndexIDMap, faiss.IndexPreTransform, faiss.IndexRefine)):
        if isinstance(inner, faiss.IndexRefine):
            refine_bytes = int(inner.refine_index.sa_code_size())
            inner = faiss.downcast_index(inner.base_index)
        else:
            inner = faiss.downcast_index(inner.index)
    code_bytes = _code_bytes(inner)
    base: list[tuple[float, dict[str, int]]] = []
    if "nprobe" in most:
        for nprobe in steps(1, most["nprobe"]):
            point = {"nprobe": nprobe}
            if "quantizer_efSearch" in most:
                point["quantizer_efSearch"] = max(16, 2 * nprobe)
            base.append((rows * code_bytes * nprobe / most["nprobe"], point))
    elif "efSearch" in most:
        degree = inner.hnsw.nb_neighbors(0)
        widths = steps(16, min(most["efSearch"], MOST_EF_SEARCH))
        base = [(float(ef * degree * code_bytes), {"efSearch": ef}) for ef in widths]
    else:
        base.append((float(rows * code_bytes), {}))
    if "k_factor_rf" in most:
        base = [
            (cost + k * factor * refine_bytes, {**point, "k_factor_rf": factor})
            for cost, point in base
            for factor in K_FACTORS
        ]
    return sorted(base, key=lambda pair: (pair[0], tuple(pair[1].values())))


def _code_bytes(inner: Any) -> int:
    """Bytes of one stored vector."""
    import faiss

    if isinstance(inner, faiss.IndexIVF):
        return int(inner.code_size)
    if isinstance(inner, faiss.IndexHNSW):
        return int(inner.storage.sa_code_size())
    return int(inner.sa_code_size())


def steps(first: int, last: int) -> list[int]:
    """Values from `first` to `last`, growing by a half and a third in turn; always ends with `last`.

    >>> steps(1, 20)
    [1, 2, 3, 4, 6, 8, 12, 16, 20]
    """
    powers = [value for exponent in range(40) for value in (2**exponent, 3 * 2**exponent)]
    return [value for value in sorted(powers) if first <= value < last] + [last]


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


def _truths(plan: IndexPlan, config: Index) -> tuple[Literal["fit", "all"], dict[str, _Truth]]:
    """Query sets with their exact neighbours, found in one walk over the parts."""
    folder = plan.queries_url.rsplit("/", 1)[0]
    table = read_table(f"{folder}/{plan.queries.data.name}", ["split", LEVEL])
    values, split = vectors(table.column(LEVEL)), np.array(table.column("split").to_pylist())
    tuned_on: Literal["fit", "all"] = "fit" if (split == "fit").sum() >= LEAST_FIT_QUERIES else "all"
    rng = np.random.default_rng(config.seed)
    fit = _some(values if tuned_on == "all" else values[split == "fit"], rng)
    test = _some(values[split == "test"] if tuned_on == "fit" else values[:0], rng)
    items = sample(plan.part_urls, IMAGE_QUERIES if plan.rows > 1 else 0, seed=config.seed + 1)
    scores, ids = exact_search(
        Parts(plan.part_urls), np.concatenate([fit, test, items.vectors]), WIDE * config.recall_k + 1
    )
    a, b = len(fit), len(fit) + len(test)
    image_scores, image_ids = _without_self(scores[b:], ids[b:], items.ids)
    return tuned_on, {
        "tune": _Truth(fit, scores[:a], ids[:a]),
        "test": _Truth(test, scores[a:b], ids[a:b]),
        "image": _Truth(items.vectors, image_scores, image_ids, items.ids),
    }


def _some(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values[np.sort(rng.choice(len(values), min(len(values), MOST_QUERIES), replace=False))]


def _without_self(scores: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row without its own id, one column narrower; where it is absent the last column goes."""
    if not ids.size:
        return scores, ids
    drop = np.where((ids == own[:, None]).any(axis=1), (ids == own[:, None]).argmax(axis=1), ids.shape[1] - 1)
    keep = np.arange(ids.shape[1])[None, :] != drop[:, None]
    shape = (len(ids), ids.shape[1] - 1)
    return scores[keep].reshape(shape), ids[keep].reshape(shape)


def _recalls(searcher: Searcher, truth: _Truth, k: int, point: Point) -> np.ndarray:
    if not len(truth.queries):
        return np.empty(0)
    scores, ids = searcher.search(truth.queries, k + (truth.own is not None), point=point)
    if truth.own is not None:
        ids = _without_self(scores, ids, truth.own)[1]
    return recall_of_each(ids, truth.scores, truth.ids, k)


def _ms_per_query(searcher: Searcher, queries: np.ndarray, k: int, point: Point) -> float:
    """Milliseconds per query of a batch that was just searched: the best of some repetitions."""
    best, begun = float("inf"), time.perf_counter()
    for _ in range(MOST_REPETITIONS):
        started = time.perf_counter()
        searcher.search(queries, k, point=point)
        now = time.perf_counter()
        best = min(best, now - started)
        if now - begun > LONGEST_TIMING_S:
            break
    return round(1000 * best / len(queries), 4)


def _measured(name: str, cost: float, text: np.ndarray, image: np.ndarray) -> Measured:
    mean, low, high = interval(text)
    of_images = interval(image) if len(image) else (None, None, None)
    return Measured(
        parameters=name,
        cost_bytes=cost,
        recall=mean,
        low=low,
        high=high,
        image_recall=of_images[0],
        image_low=of_images[1],
        image_high=of_images[2],
    )


def _held_out(searcher: Searcher, truth: _Truth, k: int, chosen: str) -> HeldOut | None:
    values = _recalls(searcher, truth, k, parse_point(chosen))
    if not len(values):
        return None
    mean, low, high = interval(values)
    return HeldOut(queries=len(values), recall=mean, low=low, high=high)


def _what_binds(
    index: Any, curve: Sequence[Measured], plan: IndexPlan, proposal: Proposal, *, train_rows: int, config: Index
) -> str:
    """Why no point reaches the target: at the widest point nothing but the codes (or the graph) can be to blame."""
    best, most = max(curve, key=lambda measured: measured.recall), limits(index)
    whole = estimated_bytes("IVF1,Flat", plan.rows, plan.dim)
    if "nprobe" in most:
        where = f"even with all {most['nprobe']} lists probed"
        cause = "the compressed codes lose too much (quantization error)"
    elif "efSearch" in most:
        where, cause = f"even at efSearch {min(most['efSearch'], MOST_EF_SEARCH)}", "the graph does not reach them"
    else:
        where, cause = "though every code is looked at", "the compressed codes lose too much (quantization error)"
    return (
        f"index {proposal.key!r}: recall@{config.recall_k} on text queries is at most {best.recall:.4f} (95 % interval "
        f"{best.low:.4f} to {best.high:.4f}), index.recall_target is {config.recall_target:g}: {where} {cause}; "
        f"trained on {train_rows} of {plan.rows} rows. "
        f"What would help: a finer index.key (longer codes, or ',RFlat' behind it), index.max_memory of "
        f"{human(whole)} where whole vectors fit (now {config.max_memory}), or a lower index.recall_target"
    )
