"""The report stage: gathers what a generation's files say and writes its page."""

import logging
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from pipelines.evaluate.page import render
from pipelines.evaluate.published import Published, published
from pipelines.evaluate.rejects import rejects_of
from pipelines.evaluate.report_data import (
    Curve,
    CurvePoint,
    Estimate,
    GateLine,
    Headline,
    IndexFacts,
    LevelFacts,
    Loss,
    Measure,
    ModelName,
    ReportData,
    ShardLedger,
    StageQuality,
)
from pipelines.evaluate.samples import sample_queries
from schemas.commits import exists, publish_bytes
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest, GateResults, Generation, LevelsEntry

logger = logging.getLogger(__name__)

CUTOFFS = (1, 5, 10)

LIBRARIES = (
    "fastslow",
    "torch",
    "transformers",
    "faiss-cpu",
    "autofaiss",
    "apache-beam",
    "pyarrow",
    "numpy",
    "av",
    "pillow",
)


def run(layout: Layout, generation: Generation) -> str:
    """Writes the page of a generation, replacing one that is there.

    Returns:
      URL of the page.

    Raises:
      InputError, StaleError: a file the generation names is missing, damaged or does not belong to it.
    """
    url = layout.report(generation.number)
    page = render(gather(published(layout, generation))).encode("utf-8", "replace")
    publish_bytes(page, url)
    logger.info("report %s: %d kB", url, len(page) // 1000)
    return url


def gather(state: Published) -> ReportData:
    """Everything the page shows, from the files of a generation.

    Raises:
      InputError, StaleError: see `run`.
    """
    generation, metrics = state.generation, state.generation.metrics
    manifests = EmbeddingManifest.read_all(state.url(name) for name in generation.embeddings)
    samples, notes = sample_queries(state)
    rankings = state.rankings
    return ReportData(
        dataset=generation.dataset,
        number=generation.number,
        parent=generation.parent,
        created=generation.created,
        encoder=ModelName(state.encoder.path, state.index.encoder),
        scorer=ModelName(state.scorer.path, rankings.scorer) if state.scorer and rankings and rankings.scorer else None,
        images=generation.counts.images,
        videos=generation.counts.videos,
        seen=generation.counts.seen,
        rejected=generation.counts.rejected,
        headlines=tuple(_headlines(metrics.get("text_to_image", {}))),
        stages=tuple(_stage(row) for row in metrics.get("stages", ())),
        losses=tuple(
            Loss(row["where"], row["note"], row["queries"], row["share"]) for row in metrics.get("losses", ())
        ),
        measures=tuple(_measures(metrics)),
        queries=state.queries.distinct,
        measured=int(metrics.get("measured", 0)),
        measured_on=str(metrics.get("measured_on", "all")),
        depth=int(metrics.get("depth", state.config.rerank.depth)),
        beta=state.beta,
        beta_source=rankings.beta_source if rankings else "none",
        pair_evaluations=rankings.pair_evaluations if rankings else 0,
        reused_pairs=rankings.reused_pairs if rankings else 0,
        items_encoded=rankings.items_encoded if rankings else 0,
        index=_index(state),
        shards=tuple(_ledger(manifest) for manifest in manifests),
        rejects=tuple(rejects_of([state.url(name) for name in generation.embeddings], manifests)),
        samples=samples,
        seconds=dict(generation.seconds),
        config=dict(generation.config),
        digests=_digests(state),
        versions=dict(_versions()),
        gates=tuple(_gates(state)),
        notes=notes,
    )


def _headlines(found: dict[str, Any]) -> Iterable[Headline]:
    """R@1, R@5, R@10 of all measured queries (keys as in pipelines/evaluate/job.py)."""
    fast, reranked, gain = found.get("fast"), found.get("reranked"), found.get("gain", {})
    for name in (f"R@{k}" for k in CUTOFFS):
        if fast is not None:
            yield Headline(
                name,
                fast[name],
                reranked[name] if reranked else None,
                _estimate(gain[name]) if name in gain else None,
            )


def _estimate(found: dict[str, float]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"])


def _stage(row: dict[str, Any]) -> StageQuality:
    return StageQuality(
        name=row["name"],
        note=row["note"],
        recalls={k: _estimate(row[f"R@{k}"]) for k in CUTOFFS},
        median_rank=row["median_rank"],
        ndcg=_estimate(row["nDCG@10"]),
    )


def _measures(metrics: dict[str, Any]) -> Iterable[Measure]:
    """What else was measured, in words."""
    main = metrics.get("text_to_image", {})
    for name, title in (("RR", "Mean reciprocal rank"), ("nDCG@10", "nDCG@10"), ("median_rank", "Median rank")):
        if name in main.get("fast", {}):
            yield Measure(
                f"{title}, all queries", _plain(main["fast"][name]), _plain(main.get("reranked", {}).get(name))
            )
    for kind in ("image", "video"):
        found = (metrics.get("modalities") or {}).get(kind)
        if found and found["queries"]:
            title = f"R@1 of queries for {kind}s ({found['queries']:,})"
            yield Measure(title, _share(found["fast"]["R@1"]), _share(found.get("reranked", {}).get("R@1")))
    if "upper_bound" in metrics:
        yield Measure(
            "A relevant item among the candidates, which no reranking can exceed", _share(metrics["upper_bound"])
        )
    back = metrics.get("image_to_text")
    if back:
        recalls = ", ".join(_share(back[f"R@{k}"]) for k in CUTOFFS)
        yield Measure(f"Image to text R@1, R@5, R@10 ({back['items']:,} items, {back['gallery']:,} texts)", recalls)
    if "moved" in metrics:
        won, lost = metrics["moved"]["won"], metrics["moved"]["lost"]
        yield Measure(
            "Queries that reranking brought to the first place, and took from it", "", f"{won:,} and {lost:,}"
        )
    if metrics.get("unscored_pairs"):
        yield Measure("Pairs without a slow score (picture gone or unreadable)", "", f"{metrics['unscored_pairs']:,}")


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _index(state: Published) -> IndexFacts:
    from pipelines.index.tune import read_tuning

    manifest = state.index
    tuning, times = read_tuning(state.url(state.generation.index))
    chosen = tuning.chosen_label or tuning.chosen
    text = tuple(CurvePoint(p.label, p.recall, times[p.label]) for p in tuning.curve)
    image = tuple(
        CurvePoint(p.label, p.image_recall, times[p.label]) for p in tuning.curve if p.image_recall is not None
    )
    return IndexFacts(
        key=manifest.key,
        parameters=manifest.parameters,
        rows=manifest.rows,
        dim=manifest.dim,
        recall=manifest.recall,
        recall_k=manifest.recall_k,
        recall_target=manifest.recall_target,
        size_bytes=manifest.size_bytes,
        curves=(Curve("text queries", text, chosen), Curve("image queries", image, chosen)),
        levels=_levels(manifest.levels, manifest.beside_bytes) if manifest.levels else None,
    )


def _levels(levels: LevelsEntry, size_bytes: int) -> LevelFacts:
    return LevelFacts(
        refined=levels.refined,
        dims=levels.dims,
        shortlist=levels.shortlist,
        coarse_recall=levels.coarse_recall,
        size_bytes=size_bytes,
        saved=levels.flat_macs / levels.macs,
    )


def _ledger(manifest: EmbeddingManifest) -> ShardLedger:
    counts = manifest.counts
    return ShardLedger(
        shard=manifest.shard.rsplit("/", 1)[-1],
        seen=counts.seen,
        images=counts.images,
        videos=counts.videos,
        rejected=counts.rejected,
        caption_errors=counts.caption_errors,
        ignored_members=counts.ignored_members,
    )


def _gates(state: Published) -> Iterable[GateLine]:
    url = state.layout.gates(state.generation.number)
    if exists(url):
        for one in GateResults.read(url).gates:
            yield GateLine(one.gate, one.passed, one.said, one.examples)


def _digests(state: Published) -> dict[str, str]:
    """What the page's numbers stand on, by content."""
    found = {
        "generation": state.generation.content,
        "embeddings": state.generation.embeddings_digest,
        "encoder": state.index.encoder,
        "index": state.index.content,
        "queries": state.queries.data.sha256,
    }
    if state.rankings:
        found |= {"scorer": state.rankings.scorer or "none", "rankings": state.rankings.data.sha256}
    return found


def _versions() -> Iterable[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a checkout, or with fewer extras
