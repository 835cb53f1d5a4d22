"""Finds the cheapest operating point that keeps the recall promised, measured on the log's text queries.

Ground truth is exhaustive search (`exact`). Points are tried in rising cost, counted in bytes scanned and not
in milliseconds, so that the choice is the same on every machine; times are kept in a file of their own. Only where a
latency budget is set they take part: of the points that keep the recall, those within it are left to choose from.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from pipelines.index.coarse_to_fine import Levels, default_shortlist, doubled, multiply_adds
from pipelines.index.levels import through
from pipelines.index.plan import IndexPlan
from pipelines.index.proposal import Proposal, estimated_bytes, human
from pipelines.index.search import Point, Searcher, format_point, limits, parse_point
from pipelines.index.truth import (
    MOST_QUERIES,
    Known,
    Truth,
    Truths,
    find_truths,
    interval,
    places_of,
    recall_of_each,
    recall_within,
    without_self,
)
from schemas.commits import read_json
from schemas.configs import Index
from schemas.errors import IndexBuildError
from schemas.layout import Layout
from schemas.manifests import Manifest

log = logging.getLogger(__name__)

MOST_EF_SEARCH = 4096
MOST_REPETITIONS = 7
LONGEST_TIMING_S = 0.2  # of one operating point, begun repetitions aside
TIMED = 512
"""Queries of a batch that is timed."""

K_FACTORS = (1, 2, 4, 8, 16, 32)

MOST_CANDIDATES = 1 << 23
"""Of the coarsest level, all queries of one measurement together: with long shortlists fewer queries are asked."""

LEAST_QUERIES = 50

FIRST_REFINED = 2
"""Shortlist to begin with where the index is refined, in multiples of `recall_k`."""

SHORTLISTS = 3
"""Lengths tried there: the first within reach of the recall promised, and its doubles."""

FLAT, FLAT_GAIN = 2, 0.005
"""Where the last so many points have raised the recall by less than this, wider ones are not tried."""

REACH_QUERIES = 256
DEEP = 16
"""How far, in multiples of the shortlist, neighbours are looked for among compressed vectors, at first."""

ALONE = 31
"""Queries timed one by one."""

LEAST_SELF_RECALL = 0.5
"""Of sampled items; an index that keeps its recall on texts is far above, one with its ids mixed up far below."""

TWIN = 1e-3
"""Items whose score with another is this near to 1 are the same to float16."""

ALL_FOUND = 0.999
"""Recall beyond which wider points are not tried."""


class Measured(Manifest):
    """Recall of one operating point.

    Attributes:
      parameters: as FAISS's ParameterSpace takes them; "" for exhaustive kinds.
      shortlist: items that whole vectors order, K_1; only where the index is refined, and the number tuned.
      cost_bytes: vectors' bytes scanned for one query, what points are ordered by.
      recall, low, high: recall@k on text queries and its 95 % interval.
      image_recall, image_low, image_high: the same with items as queries, themselves left out; null with one item.
      coarse_recall: of the index alone, at the level it holds; only of coarse to fine, where `recall` is that of the
        answers against exact search at the finest level.
    """

    parameters: str
    cost_bytes: float
    recall: float
    low: float
    high: float
    image_recall: float | None
    image_low: float | None
    image_high: float | None
    coarse_recall: float | None = Field(default=None, exclude_if=lambda value: value is None)
    shortlist: tuple[int, ...] = Field(default=(), exclude_if=lambda value: not value)

    @property
    def label(self) -> str:
        """The parameters for people, the shortlist among them."""
        kept = [f"shortlist={count}" for count in self.shortlist]
        return ",".join([*([self.parameters] if self.parameters else []), *kept])


class HeldOut(Manifest):
    """Recall at the chosen point on queries that had no part in choosing it."""

    queries: int
    recall: float
    low: float
    high: float


class TunedLevels(Manifest):
    """Coarse to fine at the chosen point; see schemas.manifests.LevelsEntry.

    Attributes:
      shortlist_from: "config", or "default", or "grown": the default doubled until the recall was within reach; or
        "tuned": of a refined index, together with its parameters.
      coarse_recall, coarse_low, coarse_high: recall@k of the index at its own level and its 95 % interval.
    """

    columns: tuple[str, ...]
    dims: tuple[int, ...]
    shortlist: tuple[int, ...]
    shortlist_from: Literal["config", "default", "grown", "tuned"]
    coarse_recall: float
    coarse_low: float
    coarse_high: float
    macs: int
    flat_macs: int

    def promised(self) -> dict[str, Any]:
        """What of it the index manifest repeats."""
        return self.model_dump(include={"columns", "dims", "shortlist", "coarse_recall", "macs", "flat_macs"})


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
    # In rising cost, until the target is reached and wider points find no more (see FLAT_GAIN, ALL_FOUND); refined:
    # shortlist by shortlist.
    curve: tuple[Measured, ...]
    chosen: str
    chosen_label: str = Field(default="", exclude_if=lambda value: not value)  # where it is more than `chosen`
    recall: float
    low: float
    high: float
    held_out: HeldOut | None
    self_recall: float  # share of sampled items that are among the `recall_k` their own vector finds
    levels: TunedLevels | None = Field(default=None, exclude_if=lambda value: value is None)  # of coarse to fine


@dataclass(frozen=True)
class _Search:
    """What is measured: an index of the finest level, or an index and the levels above it."""

    searcher: Searcher
    levels: Levels | None
    shortlist: tuple[int, ...]

    def __call__(self, queries: Sequence[np.ndarray], k: int, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids (Q, K) at an operating point; queries of each level."""
        if self.levels is None:
            return self.searcher.search(queries[0], k, point=point)
        return through(self.searcher, self.levels, self.shortlist, point).search(queries, k)

    @property
    def finer_bytes(self) -> int:
        """Bytes of the levels above the index that are looked at for one query."""
        vectors = self.levels.vectors if self.levels else ()
        return sum(kept * rows.shape[1] * rows.itemsize for kept, rows in zip(self.shortlist, vectors, strict=True))


class Times(NamedTuple):
    """Milliseconds per query on this machine.

    Attributes:
      batch: of a batch, all threads.
      alone: of queries one by one, the median.
    """

    batch: float
    alone: float


class Start(NamedTuple):
    """Where to begin when an index has changed little: the operating point it had."""

    parameters: str
    shortlist: tuple[int, ...]


def tune(
    searcher: Searcher,
    levels: Levels | None,
    plan: IndexPlan,
    proposal: Proposal,
    *,
    train_rows: int,
    config: Index,
    layout: Layout,
    start: Start | None = None,
) -> tuple[Tuning, dict[str, Times], Known]:
    """Measures the curve and chooses.

    Args:
      start: cheaper points are left out, and the curve ends with the first that keeps the recall.
      layout: where neighbours of queries are remembered.
      levels: above the index, for coarse to fine; what is promised is then the recall of the whole search. Where no
        shortlist is set, the default is doubled until the recall is within reach of the widest point.

    Returns:
      The tuning, a function of the data alone (unless there is a latency budget); times by parameters; and the
      neighbours that were found.

    Raises:
      IndexBuildError: no point reaches `config.recall_target`, or none does within `config.latency_budget_ms`; says
        what binds and what would help.
    """
    k, shortlist = config.recall_k, start.shortlist if start else _first_shortlist(plan, config)
    truths, known = find_truths(plan, config, layout=layout, most=_most_queries(shortlist))
    search = _Search(searcher, levels, shortlist)
    if levels is not None and config.shortlist is None and start is None:
        search = _within_reach(search, truths.tune, plan, config)
    curve: list[Measured] = []
    times: dict[str, Times] = {}
    found = _curve(search, truths, config, start=start)
    if plan.refined:
        tuned = config.shortlist is None and start is None
        found = _curve_of_refined(search, truths, config, start=start, longer=SHORTLISTS - 1 if tuned else 0)
    for measured, spent in found:
        curve.append(measured)
        times[measured.label] = spent
        log.info("%s %s: recall@%d %.4f", proposal.key, measured.label, k, measured.recall)
    curve.sort(key=lambda measured: measured.shortlist)
    good = [measured for measured in curve if measured.recall >= config.recall_target]
    if not good:
        raise IndexBuildError(_what_binds(search, curve, plan, proposal, train_rows=train_rows, config=config))
    budget = config.latency_budget_ms or math.inf
    quick = [measured for measured in good if times[measured.label].alone <= budget]
    if not quick:
        raise IndexBuildError(_too_slow(curve, good, times, proposal, config))
    chosen = min(quick, key=lambda measured: measured.cost_bytes)
    search = _Search(searcher, levels, chosen.shortlist or search.shortlist)
    if plan.refined:  # all shortlists were measured with one search; the chosen one is measured as it is served
        recall, low, high = interval(_recalls(search, truths.tune, k, parse_point(chosen.parameters)))
        chosen = chosen.model_copy(update={"recall": recall, "low": low, "high": high})
    tuning = Tuning(
        key=proposal.key,
        reason=proposal.reason,
        estimated_bytes=proposal.estimated_bytes,
        rows=plan.rows,
        dim=plan.dim,
        train_rows=train_rows,
        recall_k=config.recall_k,
        recall_target=config.recall_target,
        tuned_on=truths.tuned_on,
        queries=len(truths.tune.ids),
        image_queries=len(truths.image.ids),
        curve=tuple(curve),
        chosen=chosen.parameters,
        chosen_label=chosen.label if chosen.shortlist else "",
        recall=chosen.recall,
        low=chosen.low,
        high=chosen.high,
        held_out=_held_out(search, truths.test, k, chosen.parameters),
        self_recall=_self_recall(search, truths.image, k, chosen.parameters),
        levels=_tuned_levels(search, truths.coarse, plan, chosen.parameters, config) if truths.coarse else None,
    )
    return tuning, times, known


def _curve(search: _Search, truths: Truths, config: Index, *, start: Start | None) -> Iterator[tuple[Measured, Times]]:
    """Operating points in rising cost with their times, as far as wider ones find more.

    Args:
      start: see `tune`.
    """
    k, alone = config.recall_k, _Search(search.searcher, None, ())
    reached: list[float] = []
    for cost, point in _points(search, max(k, *search.shortlist[:1], 1), k, start):
        text, image = _recalls(search, truths.tune, k, point), _recalls(search, truths.image, k, point)
        coarse = _recalls(alone, truths.coarse, k, point) if truths.coarse else None
        measured = _measured(format_point(point), cost + search.finer_bytes, text, image, coarse, ())
        yield measured, _times(search, truths.tune.queries, k, point)
        reached.append(measured.recall)
        if _enough(reached, config, start) or (measured.coarse_recall or 0) >= ALL_FOUND:
            return


def _curve_of_refined(
    search: _Search, truths: Truths, config: Index, *, start: Start | None, longer: int
) -> Iterator[tuple[Measured, Times]]:
    """The same where whole vectors order what compressed ones find: each point with several shortlists.

    Whole vectors put every neighbour that is on the shortlist before all others, so that its place in the index's own
    order says with which shortlists it is found: one search serves all of them.

    Args:
      longer: times that the shortlist is doubled.
    """
    k, found = config.recall_k, [search.shortlist]
    for _ in range(longer):
        found.append(doubled(found[-1], search.searcher.items))
    searches = [_Search(search.searcher, search.levels, one) for one in dict.fromkeys(found)]
    most = searches[-1].shortlist[0]
    reached: list[float] = []
    for cost, point in _points(search, max(k, search.shortlist[0]), k, start):
        places, of_images = (
            places_of(search.searcher.hits(truth.queries[0], most, point)[1], truth.scores, truth.ids, k)
            for truth in (truths.tune, truths.image)
        )
        looked_at = search.searcher.items * _share(point, search.searcher.index)
        for one in searches:
            kept = one.shortlist[0]
            if looked_at < kept and one is not search:
                continue
            text, image, coarse = (
                recall_within(among, depth, k) for among, depth in ((places, kept), (of_images, kept), (places, k))
            )
            measured = _measured(format_point(point), cost + one.finer_bytes, text, image, coarse, one.shortlist)
            yield measured, _times(one, truths.tune.queries, k, point)
        reached.append(measured.recall)
        if _enough(reached, config, start):
            return


def _points(search: _Search, least: int, k: int, start: Start | None) -> list[tuple[float, dict[str, int]]]:
    """The operating points to be tried."""
    tried = points(search.searcher.index, k, least=least, rows=search.searcher.items)
    labels = [format_point(point) for _, point in tried]
    return tried[labels.index(start.parameters) if start and start.parameters in labels else 0 :]


def _share(point: Point, index: Any) -> float:
    """Of the items, how many a point looks at, lists taken as equally long; 1 for kinds without lists."""
    return point["nprobe"] / limits(index)["nprobe"] if "nprobe" in point else 1.0


def _enough(reached: Sequence[float], config: Index, start: Start | None) -> bool:
    """Whether wider points can be left out: the recall is reached, and it rises no more (or was all that is wanted)."""
    if reached[-1] < config.recall_target:
        return False
    level = len(reached) > FLAT and reached[-1] - reached[-1 - FLAT] < FLAT_GAIN
    return start is not None or reached[-1] >= ALL_FOUND or level


def read_tuning(index_manifest_url: str) -> tuple[Tuning, dict[str, float]]:
    """The tuning of a finished index, and milliseconds per query by parameters as measured when it was built."""
    folder = index_manifest_url.rsplit("/", 1)[0]
    times: Mapping[str, float] = read_json(f"{folder}/timings.json")["ms_per_query"]
    return Tuning.read(f"{folder}/tuning.json"), dict(times)


def points(index: Any, k: int, *, least: int = 1, rows: int | None = None) -> list[tuple[float, dict[str, int]]]:
    """All operating points with their cost in bytes scanned per query, cheapest first.

    Exhaustive kinds have one point without parameters.

    Args:
      least: items wanted of the index. Points that look at fewer, lists taken as equally long, are left out: the
        search would widen them by itself, and cost more than they say. The widest is always there.
      rows: items, where the index is one of several segments.
    """
    import faiss

    most = limits(index)
    rows, inner, refine_bytes = rows or int(index.ntotal), faiss.downcast_index(index), 0
    while isinstance(inner, (faiss.IndexIDMap, faiss.IndexPreTransform, faiss.IndexRefine)):
        if isinstance(inner, faiss.IndexRefine):
            refine_bytes = int(inner.refine_index.sa_code_size())
            inner = faiss.downcast_index(inner.base_index)
        else:
            inner = faiss.downcast_index(inner.index)
    code_bytes = _code_bytes(inner)
    base: list[tuple[float, dict[str, int]]] = []
    if "nprobe" in most:
        first = min(most["nprobe"], -(-least * most["nprobe"] // max(1, rows)))
        for nprobe in (value for value in steps(1, most["nprobe"]) if value >= first):
            point = {"nprobe": nprobe}
            if "quantizer_efSearch" in most:
                point["quantizer_efSearch"] = max(16, 2 * nprobe)
            base.append((rows * code_bytes * nprobe / most["nprobe"], point))
    elif "efSearch" in most:
        degree = inner.hnsw.nb_neighbors(0)
        last = min(most["efSearch"], MOST_EF_SEARCH)
        widths = [value for value in steps(16, last) if value >= min(least, last)]
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


def _first_shortlist(plan: IndexPlan, config: Index) -> tuple[int, ...]:
    """K_m to begin with; none for a flat search."""
    if len(plan.levels) == 1:
        return ()
    if plan.refined and config.shortlist is None:
        return (min(plan.rows, FIRST_REFINED * config.recall_k),)
    return config.shortlist or default_shortlist(plan.rows, len(plan.levels))


def _most_queries(shortlist: Sequence[int]) -> int:
    return max(LEAST_QUERIES, min(MOST_QUERIES, MOST_CANDIDATES // max(1, *shortlist, 1)))


def _within_reach(search: _Search, truth: Truth, plan: IndexPlan, config: Index) -> _Search:
    """The search with its shortlists doubled until the widest point keeps the recall promised, or all is kept."""
    k = config.recall_k
    widest = points(search.searcher.index, k)[-1][1]
    if plan.refined:
        return _refined_within_reach(search, truth, plan.rows, widest, config)
    while True:
        recall, grown = float(_recalls(search, truth, k, widest).mean()), doubled(search.shortlist, plan.rows)
        if recall >= config.recall_target or grown == search.shortlist:
            return search
        log.warning("shortlist %s: recall@%d at most %.4f; doubled", search.shortlist, k, recall)
        search = _Search(search.searcher, search.levels, grown)


def _refined_within_reach(search: _Search, truth: Truth, rows: int, widest: Point, config: Index) -> _Search:
    """The same behind compressed vectors, on some of the queries: a search is the same whatever its shortlist."""
    asked, k, deep = slice(0, REACH_QUERIES), config.recall_k, min(rows, DEEP * search.shortlist[0])
    while True:
        ids = search.searcher.hits(truth.queries[0][asked], deep, widest)[1]
        places = places_of(ids, truth.scores[asked], truth.ids[asked], k)
        shortlist = search.shortlist
        while shortlist[0] < deep and recall_within(places, shortlist[0], k).mean() < config.recall_target:
            shortlist = doubled(shortlist, rows)
        if shortlist[0] < deep or deep == rows:
            return _Search(search.searcher, search.levels, shortlist)
        deep = min(rows, DEEP * deep)


def _tuned_levels(search: _Search, coarse: Truth, plan: IndexPlan, chosen: str, config: Index) -> TunedLevels:
    mean, low, high = interval(
        _recalls(_Search(search.searcher, None, ()), coarse, config.recall_k, parse_point(chosen))
    )
    default: Literal["default", "grown", "tuned"] = (
        "default" if search.shortlist == default_shortlist(plan.rows, len(plan.levels)) else "grown"
    )
    if plan.refined:
        default = "tuned"
    return TunedLevels(
        columns=plan.levels,
        dims=plan.dims,
        shortlist=search.shortlist,
        shortlist_from="config" if config.shortlist else default,
        coarse_recall=mean,
        coarse_low=low,
        coarse_high=high,
        macs=multiply_adds(plan.rows, plan.dims, search.shortlist),
        flat_macs=multiply_adds(plan.rows, plan.dims[-1:], ()),
    )


def _recalls(search: _Search, truth: Truth, k: int, point: Point) -> np.ndarray:
    if not len(truth.ids):
        return np.empty(0)
    scores, ids = search(truth.queries, k + (truth.own is not None), point)
    if truth.own is not None:
        ids = without_self(scores, ids, truth.own)[1]
    return recall_of_each(ids, truth.scores, truth.ids, k)


def _times(search: _Search, queries: Sequence[np.ndarray], k: int, point: Point) -> Times:
    """Of a batch, the best of some repetitions; of the first of it alone, the median."""
    batch = [level[:TIMED] for level in queries]
    best, begun = float("inf"), time.perf_counter()
    for _ in range(MOST_REPETITIONS):
        started = time.perf_counter()
        search(batch, k, point)
        now = time.perf_counter()
        best = min(best, now - started)
        if now - begun > LONGEST_TIMING_S:
            break
    alone = []
    for row in range(min(ALONE, len(queries[0]))):
        started = time.perf_counter()
        search([level[row : row + 1] for level in queries], k, point)
        alone.append(time.perf_counter() - started)
    return Times(round(1000 * best / len(batch[0]), 4), round(1000 * float(np.median(alone)), 4))


def _measured(
    name: str, cost: float, text: np.ndarray, image: np.ndarray, coarse: np.ndarray | None, shortlist: tuple[int, ...]
) -> Measured:
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
        coarse_recall=None if coarse is None else interval(coarse)[0],
        shortlist=shortlist,
    )


def _held_out(search: _Search, truth: Truth, k: int, chosen: str) -> HeldOut | None:
    values = _recalls(search, truth, k, parse_point(chosen))
    if not len(values):
        return None
    mean, low, high = interval(values)
    return HeldOut(queries=len(values), recall=mean, low=low, high=high)


def _self_recall(search: _Search, truth: Truth, k: int, chosen: str) -> float:
    """The share of items, taken as queries, that are among the k they find, or have k others as good beside them.

    Raises:
      IndexBuildError: so few that ids and vectors must have been mixed up.
    """
    if truth.own is None or not len(truth.own):
        return 1.0
    ids = search(truth.queries, k, parse_point(chosen))[1]
    itself = (ids == truth.own[:, None]).any(axis=1)
    crowded = (truth.scores[:, : k + 1] >= 1 - TWIN).sum(axis=1) >= k
    share = round(float((itself | crowded).mean()), 6)
    if share < LEAST_SELF_RECALL:
        raise IndexBuildError(
            f"only {share:.0%} of {len(truth.own)} sampled items are among the {k} that their own vector finds: ids "
            "and vectors do not belong together, or the codes tell next to nothing apart; try another index.key"
        )
    return share


def _too_slow(
    curve: Sequence[Measured], good: Sequence[Measured], times: Mapping[str, Times], proposal: Proposal, config: Index
) -> str:
    """Why no point that keeps the recall is within the latency budget."""
    fastest = min(good, key=lambda measured: times[measured.label].alone)
    within = [measured for measured in curve if times[measured.label].alone <= (config.latency_budget_ms or 0)]
    best = max(within, key=lambda measured: measured.recall, default=None)
    said = f"at {best.label} recall is {best.recall:.4f}" if best else "no point is so fast"
    return (
        f"index {proposal.key!r}: recall@{config.recall_k} of {config.recall_target:g} takes "
        f"{times[fastest.label].alone:g} ms a query at {fastest.label or 'its only point'}, "
        f"index.latency_budget_ms is {config.latency_budget_ms:g} ({said} within it). What would help: a higher "
        "budget, a lower index.recall_target, index.refine=true, or an index.key with more lists or shorter codes"
    )


def _what_binds(
    search: _Search, curve: Sequence[Measured], plan: IndexPlan, proposal: Proposal, *, train_rows: int, config: Index
) -> str:
    """Why no point reaches the target: at the widest point nothing but the codes (or the graph) can be to blame."""
    best, most = max(curve, key=lambda measured: measured.recall), limits(search.searcher.index)
    if (best.coarse_recall or 0) > best.recall:
        return (
            f"coarse to fine: recall@{config.recall_k} on text queries is at most {best.recall:.4f} (95 % interval "
            f"{best.low:.4f} to {best.high:.4f}), index.recall_target is {config.recall_target:g}, though the index "
            f"finds {best.coarse_recall:.4f} at its own level ({plan.levels[0]}): index.shortlist "
            f"{list(search.shortlist)} of {plan.rows} items is too short for what that level can tell apart. What "
            "would help: a longer index.shortlist, none (it is then grown as needed), index.levels=finest, or a lower "
            "index.recall_target"
        )
    if plan.refined:
        return (
            f"index {proposal.key!r}, refined: recall@{config.recall_k} on text queries is at most {best.recall:.4f} "
            f"(95 % interval {best.low:.4f} to {best.high:.4f}), index.recall_target is {config.recall_target:g}: "
            f"index.shortlist {list(search.shortlist)} of {plan.rows} items is too short for what the compressed codes "
            "can tell apart. What would help: a longer index.shortlist, none (it is then tuned), a finer index.key, "
            "or a lower index.recall_target"
        )
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
        f"What would help: index.refine=true, a finer index.key (longer codes), index.max_memory of "
        f"{human(whole)} where whole vectors fit (now {config.max_memory}), or a lower index.recall_target"
    )
