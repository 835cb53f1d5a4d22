"""Claims that trained checkpoints can answer: each a function of what both sides say of every pair of a few galleries.

Galleries are of held-out scenes, N = 1,000, one a seed; R@k are in percent, differences in points.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipelines.claims import gallery
from pipelines.claims.findings import Finding, Verdict, difference, rounded
from pipelines.claims.gallery import Gallery
from pipelines.claims.ranks import hits, mean_recall, ranks, recall, reranked
from pipelines.claims.scores import Checkpoint, Scores, cache_items, encode_items, score_all, score_pairs
from pipelines.index.coarse_to_fine import CoarseToFine, Levels, default_shortlist
from pipelines.index.exact import nearest_rows

ITEMS = 1_000
TEXTS = 80

LAMBDAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Of RR5: (1 - lambda) sigmoid(score) + lambda cosine."""


@dataclass
class Measured:
    """A checkpoint and what it says of the galleries of some seeds; scored when first asked for.

    Attributes:
      model: both sides.
      seeds: of the galleries.
      items, texts: N and Q of each.
      distractors: items added where a claim is about large galleries.
      tell: told what is being done.
    """

    model: Checkpoint
    seeds: Sequence[int]
    items: int = ITEMS
    texts: int = TEXTS
    distractors: int = 100_000
    tell: Callable[[str], None] = field(default=lambda _: None)

    @cached_property
    def galleries(self) -> list[Gallery]:
        """One a seed."""
        return [gallery.draw(seed, images=self.items, texts=self.texts, size=self.model.size) for seed in self.seeds]

    @cached_property
    def scores(self) -> list[Scores]:
        """All pairs of each gallery."""
        found = []
        for seed, shown in zip(self.seeds, self.galleries, strict=True):
            self.tell(f"seed {seed}: {len(shown.captions):,} texts x {len(shown.pixels):,} items, all pairs")
            found.append(score_all(self.model, shown))
        return found

    def fast_hits(self, column: str = "embedding") -> list[np.ndarray]:
        """Of the fast side, by seed."""
        return [hits(ranks(one.by(column), one.targets)) for one in self.scores]

    def slow_hits(self) -> list[np.ndarray]:
        """Of the slow side over all pairs, by seed."""
        return [hits(ranks(one.slow, one.targets)) for one in self.scores]

    def hits_at(self, depth: int, *, beta: float = 0.0) -> list[np.ndarray]:
        """Of the best K by the fast side, reranked, by seed."""
        return [hits(reranked(one.fast, one.slow, one.targets, depth, beta=beta)) for one in self.scores]

    def compare(
        self,
        claim: str,
        ours: list[np.ndarray],
        theirs: list[np.ndarray],
        holds: Callable[[float], bool],
        names: tuple[str, str],
        *,
        note: str = "",
        **facts: Any,
    ) -> Finding:
        """See `findings.difference`."""
        return difference(
            claim,
            ours,
            theirs,
            holds=holds,
            names=names,
            seeds=self.seeds,
            note=note,
            facts=facts | {"items": self.items},
        )


def verdict(holds: bool) -> Verdict:
    """In words."""
    return "holds" if holds else "does not hold"


# Thinking Fast and Slow


def fs1(on: Measured) -> Finding:
    """Slow over all pairs against fast."""
    note = "fast is distilled already, which makes the gap smaller than the claim asks for"
    return on.compare("FS1", on.slow_hits(), on.fast_hits(), lambda d: d > 5, ("slow", "fast"), note=note)


def fs4(on: Measured) -> Finding:
    """K = 10 of N against all."""
    names = (f"10 of {on.items:,}", "all pairs")
    return on.compare("FS4", on.hits_at(10), on.slow_hits(), lambda d: d >= -1, names, fewer_pairs=on.items / 10)


def fs5(on: Measured) -> Finding:
    """The sum against its better part, beta as fitted on validation pictures."""
    beta, slow, fast = on.model.beta, on.hits_at(10), on.fast_hits()
    better = slow if np.mean(slow) >= np.mean(fast) else fast
    names = (f"sum, beta {beta:.2g}", "slow alone" if better is slow else "fast alone")
    return on.compare("FS5", on.hits_at(10, beta=beta), better, lambda d: d >= 0, names, beta=beta)


# VLDeformer


def vd1(on: Measured) -> Finding:
    """MR of all pairs by the interaction, less that of the vectors it became."""
    squares = [one.among(on.texts) for one in on.scores]
    slow, fast = [mean_recall(one.slow) for one in squares], [mean_recall(one.fast) for one in squares]
    drops = [a - b for a, b in zip(slow, fast, strict=True)]
    mean = float(np.mean(drops))
    said = f"all pairs {np.mean(slow):.1f}, decomposed {np.mean(fast):.1f}: {-mean:+.1f}"
    note = f"mR over {on.texts} texts and their {on.texts} items, both ways"
    return Finding("VD1", verdict(mean <= 3), said, rounded(drops), tuple(on.seeds), note=note)


def vd3(on: Measured) -> Finding:
    """Passes counted, and seconds of both ways to rank all items for all texts."""
    texts, items = on.texts, on.items
    counted = texts * items / (texts + items)
    timed = [one.seconds["pairs"] / (one.seconds["texts"] + one.seconds["items"]) for one in on.scores]
    ratio = float(np.median(timed))
    coco = 25_000 * 5_000 / (25_000 + 5_000)
    said = f"{counted:.0f} times by count, {ratio:.0f} times in seconds; by count {coco:,.0f} times at COCO's 5K size"
    note = "seconds of the vectors include the convolutions over pixels, those of the pairs do not"
    holds = 0.5 <= ratio / counted <= 2
    return Finding("VD3", verdict(holds), said, rounded(timed), tuple(on.seeds), note=note)


# Retrieve Fast, Rerank Smart


def rr1(on: Measured) -> Finding:
    """20 candidates reranked against the twin alone."""
    return on.compare("RR1", on.hits_at(20), on.fast_hits(), lambda d: d > 0, ("reranked", "twin"))


def rr2(on: Measured) -> Finding:
    """20 candidates against all pairs."""
    names = (f"20 of {on.items:,}", "all pairs")
    return on.compare("RR2", on.hits_at(20), on.slow_hits(), lambda d: d >= -0.5, names, fewer_pairs=on.items / 20)


def rr3(on: Measured) -> Finding:
    """R@1 at three depths."""
    by_depth = {depth: np.concatenate(on.hits_at(depth)).mean() for depth in (10, 20, 50)}
    spread = max(by_depth.values()) - min(by_depth.values())
    said = ", ".join(f"{value:.1f} at {depth}" for depth, value in by_depth.items())
    each = [
        max(means) - min(means)
        for means in zip(*([one.mean() for one in on.hits_at(depth)] for depth in by_depth), strict=True)
    ]
    return Finding("RR3", verdict(spread <= 0.5), f"{said}: spread {spread:.1f}", rounded(each), tuple(on.seeds))


def rr5(on: Measured) -> Finding:
    """Mixes of both scores over 20 candidates."""
    by_lambda: dict[float, list[np.ndarray]] = {}
    for weight in LAMBDAS:
        mixed = [(1 - weight) / (1 + np.exp(-one.slow)) + weight * one.fast for one in on.scores]
        by_lambda[weight] = [
            hits(reranked(one.fast, scores, one.targets, 20)) for one, scores in zip(on.scores, mixed, strict=True)
        ]
    alone = np.mean(by_lambda[0.0])
    best = max(by_lambda, key=lambda weight: float(np.mean(by_lambda[weight])))
    added, late = np.mean(by_lambda[best]) - alone, np.mean(by_lambda[0.9]) - alone
    said = f"cross alone {alone:.1f}, best lambda {best:g}: {added:+.1f}, lambda 0.9: {late:+.1f}"
    values = [float(a.mean() - b.mean()) for a, b in zip(by_lambda[best], by_lambda[0.0], strict=True)]
    return Finding("RR5", verdict(added <= 1 and late <= 0), said, rounded(values), tuple(on.seeds))


def rr6(on: Measured) -> Finding:
    """Seconds of one text: vectors, 20 candidates, all; at two sizes of the gallery."""
    shown = on.galleries[0]
    encoded = encode_items(on.model.encoder, shown.pixels)["embedding"]
    caches = cache_items(on.model.scorer, shown.pixels)
    rows, holds = [], True
    for items in (on.items // 10, on.items):
        twin, coop, cross = np.median(
            [_query_seconds(on.model, text, encoded[:items], caches[:items]) for text in shown.captions[:20]], axis=0
        )
        rows.append(
            f"N = {items:,}: {1000 * twin:.1f}, {1000 * coop:.1f}, {1000 * cross:.0f} ms, {cross / coop:.1f} times"
        )
        holds = items < on.items or 0.5 <= (cross / coop) / (items / 20) <= 2
    said = f"twin, 20 candidates, all pairs, their ratio at {'; '.join(rows)} (N / K is {on.items / 20:.0f})"
    return Finding("RR6", verdict(holds), said, note="item vectors and caches are there beforehand, as in the pipeline")


def _query_seconds(
    model: Checkpoint, text: str, vectors: np.ndarray, caches: torch.Tensor
) -> tuple[float, float, float]:
    """One query by vectors alone, with its 20 best reranked, and against every item."""
    started = time.perf_counter()
    query = model.encoder.encode_text([text])["embedding"][0]
    best = nearest_rows(vectors, query, 20)
    retrieved = time.perf_counter()
    model.scorer.score([text] * len(best), caches[torch.from_numpy(best)])
    done = time.perf_counter()
    score_pairs(model.scorer, (text,), caches)
    return retrieved - started, done - started, time.perf_counter() - done


def rr7(on: Measured) -> Finding:
    """What reranking gains among 200 items and among ten times as many."""
    gains: dict[int, list[float]] = {}
    few = on.items // 10
    for items in (few, on.items):
        some = [one.among(items) for one in on.scores]
        texts = [one.targets < few for one in some]  # the same texts in both galleries
        gains[items] = [
            float(
                hits(reranked(one.fast, one.slow, one.targets, 20))[ask].mean()
                - hits(ranks(one.fast, one.targets))[ask].mean()
            )
            for one, ask in zip(some, texts, strict=True)
        ]
    small, large = np.mean(gains[few]), np.mean(gains[on.items])
    said = f"reranking gains {small:+.1f} among {few:,} items, {large:+.1f} among {on.items:,}"
    holds = bool(large >= 0.5 * small > 0)
    return Finding("RR7", verdict(holds), said, rounded(gains[on.items]), tuple(on.seeds))


# HiVLP


def hv1(on: Measured) -> Finding:
    """Coarse to fine against flat, in a gallery of distractors; every item of the gallery is asked for."""
    shown = gallery.draw(on.seeds[0], images=on.items, texts=on.items, size=on.model.size)
    on.tell(f"{on.distractors:,} distractors are painted and embedded")
    more = gallery.distractors(
        on.seeds[0], images=on.distractors - on.items, size=on.model.size, said=frozenset(shown.captions)
    )
    texts = on.model.encoder.encode_text(shown.captions)
    near, far = (encode_items(on.model.encoder, pixels) for pixels in (shown.pixels, more))
    items = {name: np.concatenate([near[name], far[name]]) for name in far}
    found, kept = _coarse_to_fine(texts, items, _coarsest(on))
    own = ranks(texts["embedding"] @ items["embedding"].T, shown.targets)
    said, differences = [], []
    for k in (1, 10):
        ours = 100 * float((found[:, :k] == shown.targets[:, None]).any(axis=1).mean())
        theirs = recall(own, k)
        differences.append(ours - theirs)
        said.append(f"R@{k} coarse to fine {ours:.1f}, flat {theirs:.1f}: {ours - theirs:+.1f}")
    missed = 100 - recall(ranks(texts[_coarsest(on)] @ items[_coarsest(on)].T, shown.targets), kept[0])
    return Finding(
        "HV1",
        verdict(min(differences) >= -0.5),
        f"of {on.distractors:,} items {'; '.join(said)}",
        rounded(differences[:1]),
        (on.seeds[0],),
        note=f"{on.items:,} texts, K_1 = {kept[0]:,}; the coarse level misses {missed:.1f} % of the targets there",
        facts={"items": on.distractors, "shortlist": list(kept)},
    )


def hv3(on: Measured) -> Finding:
    """The coarsest level against the finest."""
    column = _coarsest(on)
    names = ("finest", column)
    return on.compare("HV3", on.fast_hits(), on.fast_hits(column), lambda d: d > 0, names)


def hv5(on: Measured) -> Finding:
    """What coarse to fine loses, against what the coarse level does not find."""
    column = _coarsest(on)
    lost, bounds = [], []
    for one in on.scores:
        found, kept = _coarse_to_fine(one.texts, one.items, column, share=50)
        own = np.array([row[0] for row in found]) == one.targets
        lost.append(float(hits(ranks(one.fast, one.targets)).mean() - 100 * own.mean()))
        bounds.append(float(100 * (~_within(one.by(column), one.targets, kept[0])).mean()))
    said = f"lost {np.mean(lost):.1f}, not found by the coarse level {np.mean(bounds):.1f}"
    holds = all(a <= b + 1e-6 for a, b in zip(lost, bounds, strict=True))
    note = f"with a shortlist of {on.items // 50}, short enough to lose something"
    return Finding("HV5", verdict(holds), said, rounded(lost), tuple(on.seeds), note=note)


def hv6(on: Measured) -> Finding:
    """Pair evaluations counted while a gallery is searched."""
    one = on.scores[0]
    before = on.model.scorer.pair_evaluations
    _coarse_to_fine(one.texts, one.items, _coarsest(on))
    spent = on.model.scorer.pair_evaluations - before
    said = f"{spent} pair evaluations a query, against {on.items:,} of a fusion model"
    return Finding("HV6", verdict(spent == 0), said, note="counted by the scorer itself")


def _coarsest(on: Measured) -> str:
    """The narrowest vectors."""
    dims: Mapping[str, int] = on.model.encoder.dims
    return min(dims, key=lambda name: dims[name])


def _coarse_to_fine(
    texts: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray], column: str, *, share: int | None = None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The search of the index stage, its first level exhaustive: best items int64 (Q, 10), and the K_m."""
    columns = sorted(items, key=lambda name: items[name].shape[1])
    coarse, ids = items[column], np.arange(len(items[column]))
    kept = default_shortlist(len(ids), len(columns))
    if share is not None:
        kept = tuple(max(1, len(ids) // share) for _ in kept)

    def first(queries: np.ndarray, count: int) -> np.ndarray:
        return np.stack([nearest_rows(coarse, query, count) for query in queries])

    search = CoarseToFine(first, Levels(ids, tuple(items[name] for name in columns[1:])), kept)
    return search.search([texts[name] for name in columns], 10)[1], kept


def _within(scores: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """Whether each text's item is among the k best, bool (Q,)."""
    return ranks(scores, targets) <= k


# LoopITR


def lp4(on: Measured) -> Finding:
    """K = 16 against all pairs."""
    names = (f"16 of {on.items:,}", "all pairs")
    return on.compare("LP4", on.hits_at(16), on.slow_hits(), lambda d: abs(d) <= 0.5, names, fewer_pairs=on.items / 16)


def lp6(on: Measured) -> Finding:
    """Cross over all pairs against dual."""
    return on.compare("LP6", on.slow_hits(), on.fast_hits(), lambda d: d > 0, ("cross", "dual"))


MEASURES: dict[str, Callable[[Measured], Finding]] = {
    name.upper(): globals()[name]
    for name in (
        *("fs1", "fs4", "fs5", "vd1", "vd3", "rr1", "rr2", "rr3", "rr5", "rr6", "rr7"),
        *("hv1", "hv3", "hv5", "hv6", "lp4", "lp6"),
    )
}
"""Claim -> its measure."""
