"""What a generation must satisfy before it is served; a refused one stays on disk and the old one is served on.

ledger    every sample seen is embedded or rejected, and the index holds what was embedded
rejects   no shard has more rejects than `publish.max_shard_rejects` allows
shards    no more than `publish.max_broken_shards` break off before their end
recall    of the index on text queries, `index.recall_target`
quality   R@K and nDCG of the queries judged before and now have not fallen by more than `publish.max_drop`
size      of the index, `publish.max_index_size`
latency   of a query at the operating point, on the machine that built the index, `publish.max_latency_ms`
canaries  `publish.canaries`: each query finds its item among the first k
"""

import logging
from collections.abc import Iterator, Sequence

from pipelines.evaluate.published import Published, published
from pipelines.evaluate.rejects import rejects_of
from pipelines.runners.apart import run_apart
from schemas.commits import exists, read_json
from schemas.errors import ConfigError, GateError, InputError
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest, GateResult, GateResults, Generation
from schemas.parquet import read_table

log = logging.getLogger(__name__)

FEW_REJECTS = 2
"""Of one shard: so many are never a reason to refuse, however small it is."""

WORST = 5
"""Examples given of each gate."""


def judge(layout: Layout, number: int) -> None:
    """Judges a generation against the one it was planned on, and writes what the gates say beside it, once."""
    url = layout.gates(number)
    if exists(url):
        return
    now = published(layout, Generation.read(layout.generation(number)))
    before = _parent(layout, now.generation)
    found = [
        *_ledger(now),
        *_rejects(now),
        *_shards(now),
        *_recall(now),
        *_quality(before, now),
        *_size(now),
        *_latency(now),
        *_canaries(now),
    ]
    GateResults(dataset=layout.dataset, number=number, gates=tuple(found)).commit(url)


def _parent(layout: Layout, generation: Generation) -> Published | None:
    """The generation it is compared with; None for the first, and where this program cannot read it any more."""
    if generation.parent is None:
        return None
    try:
        return published(layout, Generation.read(layout.generation(generation.parent)))
    except (ConfigError, InputError) as error:
        log.warning("generation %d is not compared with %d: %s", generation.number, generation.parent, error)
        return None


def read_results(layout: Layout, number: int) -> GateResults | None:
    """What the gates said of a generation; None where it was never judged."""
    url = layout.gates(number)
    return GateResults.read(url) if exists(url) else None


def refuse(results: GateResults, report: str) -> None:
    """Passes silently where all gates do.

    Args:
      report: the page to look at.

    Raises:
      GateError: which gates, the figures, the limits, and what to do.
    """
    refused = [one for one in results.gates if not one.passed]
    if not refused:
        return
    said = "; ".join(f"{one.gate}: {one.said}" for one in refused)
    raise GateError(
        f"generation {results.number} of {results.dataset} is refused, the old one is still served. {said}. Examples "
        f"and all gates: {report}. Repair the data, or raise the limit in the `publish` part of the config to accept it"
    )


def _ledger(now: Published) -> Iterator[GateResult]:
    counts, rows = now.generation.counts, now.index.rows
    sum_up = counts.seen == counts.embedded + counts.rejected and rows == counts.embedded > 0
    yield GateResult(
        gate="ledger",
        passed=sum_up,
        value=rows,
        limit=counts.embedded,
        said=f"{counts.seen:,} samples = {counts.embedded:,} embedded + {counts.rejected:,} rejected; the index holds "
        f"{rows:,}",
    )


def _rejects(now: Published) -> Iterator[GateResult]:
    urls = [now.url(part) for part in now.generation.embeddings]
    parts = [(EmbeddingManifest.read(url), url) for url in urls]
    allowed = now.config.publish.max_shard_rejects
    bad = [(part, url) for part, url in parts if _share(part) > allowed and part.counts.rejected > FEW_REJECTS]
    bad.sort(key=lambda pair: (-_share(pair[0]), pair[1]))
    worst = max((_share(part) for part, _ in parts), default=0.0)
    said = f"at most {worst:.1%} of a shard's samples are refused"
    if bad:
        first = bad[0][0]
        said = (
            f"{first.counts.rejected:,} of {first.counts.seen:,} samples of {_name(first)} are refused ({worst:.1%})"
            f"{f', and too many of {len(bad) - 1} shards more' if len(bad) > 1 else ''}; publish.max_shard_rejects is "
            f"{allowed:g}"
        )
    examples = []
    for part, url in bad[:WORST]:
        reason = rejects_of([url], [part], examples_each=1)[0]
        sample = reason.examples[0]
        examples.append(f"{_name(part)}: {reason.count:,} {reason.error}, as {sample.key}: {sample.message}")
    yield GateResult(
        gate="rejects", passed=not bad, value=round(worst, 6), limit=allowed, said=said, examples=tuple(examples)
    )


def _shards(now: Published) -> Iterator[GateResult]:
    """A shard that breaks off is one reject however much of it is lost, so no share of rejects shows it."""
    allowed = now.config.publish.max_broken_shards
    broken = []
    for url in (now.url(part) for part in now.generation.embeddings):
        part = EmbeddingManifest.read(url)
        if part.counts.rejected:
            table = read_table(part.rejects.url(url), ["position", "message"])
            broken += [row["message"] for row in table.to_pylist() if row["position"] < 0]
    yield GateResult(
        gate="shards",
        passed=len(broken) <= allowed,
        value=len(broken),
        limit=allowed,
        said=f"{len(broken)} shards break off before their end; publish.max_broken_shards is {allowed}",
        examples=tuple(broken[:WORST]),
    )


def _share(part: EmbeddingManifest) -> float:
    return part.counts.rejected / part.counts.seen if part.counts.seen else 0.0


def _name(part: EmbeddingManifest) -> str:
    return part.shard.rsplit("/", 1)[-1]


def _recall(now: Published) -> Iterator[GateResult]:
    index, target = now.index, now.config.index.recall_target
    yield GateResult(
        gate="recall",
        passed=index.recall >= target,
        value=index.recall,
        limit=target,
        said=f"recall@{index.recall_k} of the index is {index.recall:.4f}, index.recall_target is {target:g}",
    )


def _quality(before: Published | None, now: Published) -> Iterator[GateResult]:
    """Refuses only what is both more than allowed and no chance: the whole interval below zero."""
    if before is None:
        return
    from pipelines.evaluate.compare import compare_generations

    found = compare_generations(before, now)
    if found is None:
        return
    allowed = now.config.publish.max_drop
    texts = [f"“{one.text}”: rank {one.before} -> {one.now or 'not found'}" for one in found.fallen[:WORST]]
    for name, gap in found.differences.items():
        passed = gap.value >= -allowed or gap.high >= 0
        yield GateResult(
            gate=f"quality {name}",
            passed=passed,
            value=round(gap.value, 6),
            limit=-allowed,
            said=f"{name} changed by {100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}) "
            f"over {found.queries:,} queries since generation {before.generation.number}, publish.max_drop is "
            f"{allowed:g}",
            examples=() if passed else tuple(texts),
        )


def _size(now: Published) -> Iterator[GateResult]:
    from pipelines.index.proposal import human, parse_bytes

    cap = now.config.publish.max_index_size
    if cap is not None:
        size, limit = now.index.size_bytes, parse_bytes(cap, what="publish.max_index_size")
        said = f"the index is {human(size)}, publish.max_index_size is {cap}"
        yield GateResult(gate="size", passed=size <= limit, value=size, limit=limit, said=said)


def _latency(now: Published) -> Iterator[GateResult]:
    from pipelines.index.tune import read_tuning

    cap = now.config.publish.max_latency_ms
    if cap is not None:
        url = now.url(now.generation.index)
        tuning, _ = read_tuning(url)
        spent = read_json(f"{url.rsplit('/', 1)[0]}/timings.json")["ms_alone"][tuning.chosen_label or tuning.chosen]
        said = f"a query alone takes {spent:g} ms, publish.max_latency_ms is {cap:g}"
        yield GateResult(gate="latency", passed=spent <= cap, value=spent, limit=cap, said=said)


def _canaries(now: Published) -> Iterator[GateResult]:
    canaries = now.config.publish.canaries
    if not canaries:
        return
    asked = [(canary.query, canary.k) for canary in canaries]
    lost = []
    for canary, keys in zip(canaries, run_apart(answer, now.layout, now.generation.number, asked), strict=True):
        if canary.key not in keys:
            lost.append(f"“{canary.query}”: {canary.key} is not among the first {canary.k}: {', '.join(keys[:3])}, ...")
    yield GateResult(
        gate="canaries",
        passed=not lost,
        value=len(canaries) - len(lost),
        limit=len(canaries),
        said=f"{len(canaries) - len(lost)} of {len(canaries)} canary queries find their item",
        examples=tuple(lost[:WORST]),
    )


def answer(layout: Layout, number: int, asked: Sequence[tuple[str, int]]) -> list[list[str]]:
    """Keys of the k best items of each text, as a search of the generation has them."""
    from pipelines.search import open_generation

    snapshot = open_generation(layout, number)
    return [[found.key for found in snapshot.answer(text, k)] for text, k in asked]
