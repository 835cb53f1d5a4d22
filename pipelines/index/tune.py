"""Finds the cheapest operating point that keeps the recall promised, measured on the log's text queries.

Ground truth is exhaustive search (`exact`). Points are tried in rising cost, counted in bytes scanned and not
in milliseconds, so that the choice is the same on every machine; times are kept in a file of their own.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipelines.index.coarse_to_fine import Levels, default_shortlist, doubled, multiply_adds
from pipelines.index.levels import through
from pipelines.index.plan import IndexPlan
from pipelines.index.proposal import Proposal, estimated_bytes, human
from pipelines.index.search import Point, Searcher, format_point, limits, parse_point
from pipelines.index.truth import MOST_QUERIES, Truth, Truths, find_truths, interval, recall_of_each, without_self
from schemas.commits import read_json
from schemas.configs import Index
from schemas.errors import IndexBuildError
from schemas.manifests import Manifest

log = logging.getLogger(__name__)

MOST_EF_SEARCH = 4096
MOST_REPETITIONS = 7
LONGEST_TIMING_S = 0.5  # of one operating point, begun repetitions aside
K_FACTORS = (1, 2, 4, 8, 16, 32)

MOST_CANDIDATES = 1 << 23
"""Of the coarsest level, all queries of one measurement together: with long shortlists fewer queries are asked."""

LEAST_QUERIES = 50

FIRST_REFINED = 2
"""Shortlist to begin with where the index is refined, in multiples of `recall_k`."""

SHORTLISTS = 3
"""Lengths tried there: the first within reach of the recall promised, and its doubles."""

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
    # In rising cost, up to the first point with recall of both target and 0.999; refined: shortlist by shortlist.
    curve: tuple[Measured, ...]
    chosen: str
    chosen_label: str = Field(default="", exclude_if=lambda value: not value)  # where it is more than `chosen`
    recall: float
    low: float
    high: float
    held_out: HeldOut | None
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


def tune(
    searcher: Searcher,
    levels: Levels | None,
    plan: IndexPlan,
    proposal: Proposal,
    *,
    train_rows: int,
    config: Index,
) -> tuple[Tuning, dict[str, float]]:
    """Measures the curve and chooses.

    Args:
      levels: above the index, for coarse to fine; what is promised is then the recall of the whole search. Where no
        shortlist is set, the default is doubled until the recall is within reach of the widest point.

    Returns:
      The tuning, a function of the data alone, and milliseconds per query (batch search, all threads) by parameters.

    Raises:
      IndexBuildError: no point reaches `config.recall_target`; says what binds and what would help.
    """
    k, shortlist = config.recall_k, _first_shortlist(plan, config)
    truths = find_truths(plan, config, most=_most_queries(shortlist))
    search = _Search(searcher, levels, shortlist)
    if levels is not None and config.shortlist is None:
        search = _within_reach(search, truths.tune, points(searcher.index, k)[-1][1], plan.rows, config)
    curve: list[Measured] = []
    times: dict[str, float] = {}
    for one in _with_longer_shortlists(search, plan, config):
        for measured, ms in _curve(one, truths, config, noted=one.shortlist if plan.refined else ()):
            curve.append(measured)
            times[measured.label] = ms
            log.info("%s %s: recall@%d %.4f", proposal.key, measured.label, k, measured.recall)
    good = [measured for measured in curve if measured.recall >= config.recall_target]
    if not good:
        raise IndexBuildError(_what_binds(search, curve, plan, proposal, train_rows=train_rows, config=config))
    chosen = min(good, key=lambda measured: measured.cost_bytes)
    search = _Search(searcher, levels, chosen.shortlist or search.shortlist)
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
        levels=_tuned_levels(search, truths.coarse, plan, chosen.parameters, config) if truths.coarse else None,
    )
    return tuning, times


def _with_longer_shortlists(search: _Search, plan: IndexPlan, config: Index) -> list[_Search]:
    """The search; of a refined index also with longer shortlists, which let it probe fewer lists."""
    found = [search]
    while plan.refined and config.shortlist is None and len(found) < SHORTLISTS:
        longer = doubled(found[-1].shortlist, plan.rows)
        if longer == found[-1].shortlist:
            break
        found.append(_Search(search.searcher, search.levels, longer))
    return found


def _curve(
    search: _Search, truths: Truths, config: Index, *, noted: tuple[int, ...]
) -> Iterator[tuple[Measured, float]]:
    """Operating points in rising cost with their milliseconds, up to the first at which nearly all is found.

    Args:
      noted: shortlist to be kept with each; none where it is not tuned.
    """
    k, alone = config.recall_k, _Search(search.searcher, None, ())
    for cost, point in points(search.searcher.index, k, least=max(k, *search.shortlist[:1], 1)):
        text, image = _recalls(search, truths.tune, k, point), _recalls(search, truths.image, k, point)
        ms = _ms_per_query(search, truths.tune.queries, k, point)
        coarse = _recalls(alone, truths.coarse, k, point) if truths.coarse else None
        measured = _measured(format_point(point), cost + search.finer_bytes, text, image, coarse, noted)
        yield measured, ms
        if measured.recall >= max(config.recall_target, ALL_FOUND) or (measured.coarse_recall or 0) >= ALL_FOUND:
            return


def read_tuning(index_manifest_url: str) -> tuple[Tuning, dict[str, float]]:
    """The tuning of a finished index, and milliseconds per query by parameters as measured when it was built."""
    folder = index_manifest_url.rsplit("/", 1)[0]
    times: Mapping[str, float] = read_json(f"{folder}/timings.json")["ms_per_query"]
    return Tuning.read(f"{folder}/tuning.json"), dict(times)


def points(index: Any, k: int, *, least: int = 1) -> list[tuple[float, dict[str, int]]]:
    """All operating points with their cost in bytes scanned per query, cheapest first.

    Exhaustive kinds have one point without parameters.

    Args:
      least: items wanted of the index. Points that look at fewer, lists taken as equally long, are left out: the
        search would widen them by itself, and cost more than they say. The widest is always there.
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


def _within_reach(search: _Search, truth: Truth, widest: Point, rows: int, config: Index) -> _Search:
    """The search with its shortlists doubled until the widest point keeps the recall promised, or all is kept."""
    while True:
        recall, grown = float(_recalls(search, truth, config.recall_k, widest).mean()), doubled(search.shortlist, rows)
        if recall >= config.recall_target or grown == search.shortlist:
            return search
        level = logging.INFO if config.refine else logging.WARNING  # a refined index begins with the shortest
        log.log(level, "shortlist %s: recall@%d at most %.4f; doubled", search.shortlist, config.recall_k, recall)
        search = _Search(search.searcher, search.levels, grown)


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


def _ms_per_query(search: _Search, queries: Sequence[np.ndarray], k: int, point: Point) -> float:
    """Milliseconds per query of a batch that was just searched: the best of some repetitions."""
    best, begun = float("inf"), time.perf_counter()
    for _ in range(MOST_REPETITIONS):
        started = time.perf_counter()
        search(queries, k, point)
        now = time.perf_counter()
        best = min(best, now - started)
        if now - begun > LONGEST_TIMING_S:
            break
    return round(1000 * best / len(queries[0]), 4)


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
