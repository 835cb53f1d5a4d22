"""Claims that one trained model can answer: each a function of what both sides say of every pair of a few galleries.

Galleries are drawn by the bench, one a seed; R@k are in percent, differences in points.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.claims.bench import Size
from pipelines.claims.findings import Finding, difference, rounded, verdict
from pipelines.claims.gallery import Gallery
from pipelines.claims.ranks import hits, pair_recalls, ranks, recall, reranked
from pipelines.claims.scores import Checkpoint, Scores, cache_items, encode_items, encode_texts, score_pairs
from pipelines.claims.trained import Trained, all_known
from pipelines.index.coarse_to_fine import CoarseToFine, Levels, default_shortlist
from pipelines.index.exact import nearest_rows

LAMBDAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Of RR5: (1 - lambda) sigmoid(score) + lambda cosine."""


@dataclass
class Measured:
    """What the model of a system says of the galleries of some seeds; scored when first asked for.

    Attributes:
      on: bench, seeds, and the models of its trainings.
      name: the training of each seed, or the `builtin:<name>` of all.
    """

    on: Trained
    name: str
    _models: dict[int, Checkpoint] = field(default_factory=dict)

    @property
    def seeds(self) -> Sequence[int]:
        """Of the galleries, and of the model where it was trained for the claims."""
        return self.on.seeds

    @property
    def items(self) -> int:
        """N."""
        return self.on.bench.measured.items

    def model(self, seed: int) -> Checkpoint:
        """Both sides.

        Raises:
          ModelError, ConfigError: it cannot be loaded.
        """
        if seed not in self._models:
            self._models[seed] = self.on.checkpoint(self.name, seed)
        return self._models[seed]

    def gallery(self, seed: int) -> Gallery:
        """Items and texts of which all pairs are scored."""
        return self.on.bench.draw(seed, self.on.bench.measured, self.model(seed).pixels)

    @cached_property
    def scores(self) -> list[Scores]:
        """All pairs of each gallery."""
        return [self.on.scores(self.name, seed, slow=True, size=self.on.bench.measured) for seed in self.seeds]

    @cached_property
    def squares(self) -> list[Scores]:
        """All pairs of the gallery that the bench has for both ways."""
        size = self.on.bench.squares or self.on.bench.measured
        return [self.on.scores(self.name, seed, slow=True, size=size) for seed in self.seeds]

    @cached_property
    def asked(self) -> list[Scores]:
        """Vectors alone, of as many texts as the bench has for them; none where these are those of `scores`."""
        bench = self.on.bench
        if bench.asked is bench.draw:
            return self.scores
        return [self.on.scores(self.name, seed, slow=False, size=bench.measured) for seed in self.seeds]

    def fast_hits(self) -> list[np.ndarray]:
        """Of the fast side, by seed."""
        return [hits(ranks(one.fast, one.targets)) for one in self.scores]

    def slow_hits(self) -> list[np.ndarray]:
        """Of the slow side over all pairs, by seed."""
        return [hits(ranks(one.slow, one.targets)) for one in self.scores]

    def hits_at(self, depth: int, *, betas: Sequence[float] | None = None) -> list[np.ndarray]:
        """Of the best K by the fast side, reranked, by seed; `betas` by seed, None: 0."""
        weights = betas or [0.0] * len(self.scores)
        return [
            hits(reranked(one.fast, one.slow, one.targets, depth, beta=beta))
            for one, beta in zip(self.scores, weights, strict=True)
        ]

    def compare(
        self,
        claim: str,
        ours: list[np.ndarray],
        theirs: list[np.ndarray],
        holds: Callable[[float], bool],
        names: tuple[str, str],
        *,
        subjects: list[np.ndarray] | None = None,
        note: str = "",
        **facts: Any,
    ) -> Finding:
        """See `findings.difference`; `subjects` are those of `scores` unless given."""
        return difference(
            claim,
            ours,
            theirs,
            holds=holds,
            names=names,
            seeds=self.seeds,
            subjects=subjects or all_known([one.subjects for one in self.scores]),
            note=note,
            facts={"items": self.items} | facts,
        )


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
    betas, slow, fast = [on.model(seed).beta for seed in on.seeds], on.hits_at(10), on.fast_hits()
    better = slow if np.mean(slow) >= np.mean(fast) else fast
    said = ", ".join(dict.fromkeys(f"{beta:.2g}" for beta in betas))
    names = (f"sum, beta {said}", "slow alone" if better is slow else "fast alone")
    return on.compare("FS5", on.hits_at(10, betas=betas), better, lambda d: d >= 0, names, betas=betas)


# VLDeformer


def vd1(on: Measured) -> Finding:
    """MR of all pairs by the interaction, less that of the vectors it became."""
    squares = [one.paired() for one in on.squares]
    count = squares[0].count
    return on.compare(
        "VD1",
        [pair_recalls(one.slow) for one in squares],
        [pair_recalls(one.fast) for one in squares],
        lambda d: d <= 3,
        ("all pairs", "decomposed"),
        subjects=all_known([one.subjects for one in squares]),
        note=f"mR over {count} texts and their {count} items, both ways",
        items=count,
    )


def vd3(on: Measured) -> Finding:
    """Passes counted, and seconds of both ways to rank all items for all texts."""
    texts, items = len(on.squares[0].targets), on.squares[0].count
    counted = texts * items / (texts + items)
    timed = [one.seconds["pairs"] / (one.seconds["texts"] + one.seconds["items"]) for one in on.squares]
    ratio = float(np.median(timed))
    coco = 25_000 * 5_000 / (25_000 + 5_000)
    said = f"{counted:.0f} times by count, {ratio:.0f} times in seconds; by count {coco:,.0f} times at COCO's 5K size"
    size = f"{texts:,} texts x {items:,} items"
    note = f"{size}; seconds of the vectors include the convolutions over pixels, those of the pairs do not"
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
    late = np.mean(by_lambda[0.9]) - alone
    names = (f"lambda {best:g}", "cross alone")
    one = on.compare("RR5", by_lambda[best], by_lambda[0.0], lambda added: added <= 1 and late <= 0, names)
    said = f"cross alone {alone:.1f}, best lambda {best:g}: {np.mean(by_lambda[best]) - alone:+.1f}"
    return replace(one, ours=f"{said}, lambda 0.9: {late:+.1f}")


def rr6(on: Measured) -> Finding:
    """Seconds of one text: vectors, 20 candidates, all; at two sizes of the gallery."""
    sizes = on.items // 10, on.items
    by_seed = [_seconds_at(on, seed, sizes) for seed in on.seeds]  # (seeds, sizes, 3)
    rows = []
    for items, (twin, coop, cross) in zip(sizes, np.mean(by_seed, axis=0), strict=True):
        ms = f"{1000 * twin:.1f}, {1000 * coop:.1f}, {1000 * cross:.0f} ms"
        rows.append(f"N = {items:,}: {ms}, {cross / coop:.1f} times")
    ratios = [float(one[-1][2] / one[-1][1]) for one in by_seed]
    said = f"twin, 20 candidates, all pairs, their ratio at {'; '.join(rows)} (N / K is {on.items / 20:.0f})"
    holds = 0.5 <= float(np.mean(ratios)) / (on.items / 20) <= 2
    note = "item vectors and caches are there beforehand, as in the pipeline"
    return Finding("RR6", verdict(holds), said, rounded(ratios), tuple(on.seeds), note=note)


def _seconds_at(on: Measured, seed: int, sizes: Sequence[int]) -> list[np.ndarray]:
    """Median seconds of 20 texts by `_query_seconds`, float64 (3,) each, for a size each."""
    model, shown = on.model(seed), on.gallery(seed)
    encoded, caches = encode_items(model.encoder, shown.pixels)["embedding"], cache_items(model.scorer, shown.pixels)
    return [
        np.median([_query_seconds(model, text, encoded[:n], caches[:n]) for text in shown.captions[:20]], axis=0)
        for n in sizes
    ]


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
    """What reranking gains among a few items and among ten times as many."""
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
    """Coarse to fine against flat, in a gallery of distractors, on the fast side alone."""
    bench = on.on.bench
    found = [_among_distractors(on, seed) for seed in on.seeds[: bench.large_seeds]]
    seeds, items, kept = on.seeds[: len(found)], found[0].items, found[0].kept
    said, means = [], []
    for k in (1, 10):
        ours, theirs = (
            np.concatenate([hits(one, k) for one in some])
            for some in zip(*((f.ours, f.flat) for f in found), strict=True)
        )
        means.append(float(ours.mean() - theirs.mean()))
        said.append(f"R@{k} coarse to fine {ours.mean():.1f}, flat {theirs.mean():.1f}: {means[-1]:+.1f}")
    missed = float(np.mean([one.missed for one in found]))
    one = difference(
        "HV1",
        [hits(one.ours) for one in found],
        [hits(one.flat) for one in found],
        holds=lambda _: min(means) >= -0.5,
        names=("coarse to fine", "flat"),
        seeds=seeds,
        subjects=all_known([one.subjects for one in found]),
        note=f"{len(found[0].ours):,} texts, K_1 = {kept[0]:,}; the coarse level misses {missed:.1f} % of the targets "
        f"there; {bench.large_note}",
        facts={"items": items, "shortlist": list(kept)},
    )
    return replace(one, ours=f"of {items:,} items {'; '.join(said)}")


class _Large(NamedTuple):
    """Ranks int64 (Q,) by coarse to fine (beyond the answers: 11) and flat, of so many items; see `hv1`."""

    ours: np.ndarray
    flat: np.ndarray
    items: int
    kept: tuple[int, ...]
    missed: float
    subjects: np.ndarray | None


def _among_distractors(on: Measured, seed: int) -> _Large:
    """A gallery, with a text or more of every item, and the bench's distractors."""
    bench, model, column = on.on.bench, on.model(seed), _coarsest(on)
    shown = bench.asked(seed, Size(on.items, on.items), model.pixels)
    on.on.tell(f"seed {seed}: distractors up to {bench.large:,} items are embedded")
    more = bench.distractors(seed, shown, bench.large - len(shown.pixels), model.pixels)
    texts = encode_texts(model.encoder, shown.captions)
    near, far = (encode_items(model.encoder, pixels) for pixels in (shown.pixels, more))
    items = {name: np.concatenate([near[name], far[name]]) for name in far}
    answers, kept = _coarse_to_fine(texts, items, column)
    hit = answers == shown.targets[:, None]
    ours = np.where(hit.any(1), hit.argmax(1) + 1, answers.shape[1] + 1)
    flat = ranks(texts["embedding"] @ items["embedding"].T, shown.targets)
    missed = 100 - recall(ranks(texts[column] @ items[column].T, shown.targets), kept[0])
    return _Large(ours, flat, len(items[column]), kept, missed, shown.subjects)


def hv3(on: Measured) -> Finding:
    """The coarsest level against the finest."""
    column = _coarsest(on)
    finest, coarsest = ([hits(ranks(one.by(name), one.targets)) for one in on.asked] for name in ("embedding", column))
    subjects = all_known([one.subjects for one in on.asked])
    return on.compare("HV3", finest, coarsest, lambda d: d > 0, ("finest", column), subjects=subjects)


def hv5(on: Measured) -> Finding:
    """What coarse to fine loses, against what the coarse level does not find."""
    column = _coarsest(on)
    lost, bounds = [], []
    for one in on.asked:
        found, kept = _coarse_to_fine(one.texts, one.items, column, share=50)
        own = np.array([row[0] for row in found]) == one.targets
        lost.append(float(hits(ranks(one.fast, one.targets)).mean() - 100 * own.mean()))
        bounds.append(float(100 * (~_within(one.by(column), one.targets, kept[0])).mean()))
    said = f"lost {np.mean(lost):.1f}, not found by the coarse level {np.mean(bounds):.1f}"
    holds = all(a <= b + 1e-6 for a, b in zip(lost, bounds, strict=True))
    note = f"with a shortlist of {on.items // 50}, short enough to lose something"
    facts = {"queries": len(on.asked[0].targets)}
    return Finding("HV5", verdict(holds), said, rounded(lost), tuple(on.seeds), note=note, facts=facts)


def hv6(on: Measured) -> Finding:
    """Pair evaluations counted while a gallery is searched."""
    spent = []
    for seed, one in zip(on.seeds, on.asked, strict=True):
        before = on.model(seed).scorer.pair_evaluations
        _coarse_to_fine(one.texts, one.items, _coarsest(on))
        spent.append(on.model(seed).scorer.pair_evaluations - before)
    said = f"{max(spent)} pair evaluations a query, against {on.items:,} of a fusion model"
    return Finding("HV6", verdict(max(spent) == 0), said, spent, tuple(on.seeds), note="counted by the scorer itself")


def _coarsest(on: Measured) -> str:
    """The narrowest vectors."""
    dims: Mapping[str, int] = on.model(on.seeds[0]).encoder.dims
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
