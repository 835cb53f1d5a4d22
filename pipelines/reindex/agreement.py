"""What the manifests of a generation say of the same thing: rows, digests, encoders, widths."""

from collections.abc import Mapping

from pipelines.reindex.named import of_kind
from schemas.embeddings import VECTOR
from schemas.manifests import (
    CandidatesManifest,
    Counts,
    EmbeddingManifest,
    Generation,
    IndexManifest,
    Manifest,
    QueriesManifest,
    RankingsManifest,
    TrainedManifest,
    embedding_set_digest,
)

Fact = tuple[str, object, object]
"""Manifest and field, what is said there, and what follows from the others."""


def facts(generation: Generation, found: Mapping[str, Manifest]) -> list[Fact]:
    """What every manifest says that others say, too.

    Args:
      found: the manifests that the generation names, by URL, all of them.
    """
    parts = [part for _, part in of_kind(found, EmbeddingManifest)]
    [(at_queries, queries)], [(at_index, index)] = of_kind(found, QueriesManifest), of_kind(found, IndexManifest)
    columns = index.levels.columns if index.levels else (VECTOR,)
    rows, digest = sum(part.data.rows for part in parts), embedding_set_digest(parts)
    indexed = {part for segment in index.segments for part in segment.parts}
    said: list[Fact] = [
        ("generation: parts", len(generation.embeddings), len(parts)),
        ("generation: counts", generation.counts, sum((part.counts for part in parts), Counts.zero())),
        ("generation: embeddings_digest", generation.embeddings_digest, digest),
        (f"{at_queries}: distinct", queries.distinct, queries.data.rows),
        (f"{at_index}: embeddings", index.embeddings, digest),
        (f"{at_index}: queries", index.queries, queries.data.sha256),
        (f"{at_index}: encoder", index.encoder, queries.encoder),
        (f"{at_index}: rows", index.rows, rows),
        (f"{at_index}: live items of its segments", sum(segment.live for segment in index.segments), rows),
        (f"{at_index}: dim", index.dim, queries.dims.get(columns[0])),
        (f"{at_index}: parts that it or the generation lacks", len(indexed ^ {part.data.sha256 for part in parts}), 0),
        (
            f"{at_index}: tombstones",
            index.tombstones.rows if index.tombstones else 0,
            sum(segment.deleted for segment in index.segments),
        ),
    ]
    for url, part in of_kind(found, EmbeddingManifest):
        said += [
            (f"{url}: dataset", part.dataset, generation.dataset),
            (f"{url}: encoder", part.encoder, queries.encoder),
            (f"{url}: dims", part.dims, queries.dims),
            (f"{url}: rows", part.data.rows, part.counts.embedded),
            (f"{url}: rejects", part.rejects.rows, part.counts.rejected),
        ]
    for number, segment in enumerate(index.segments):
        for file in segment.vectors:
            said.append((f"{at_index}: segment {number}: rows of {file.name}", file.rows, segment.ids.rows))
    for url, trained in of_kind(found, TrainedManifest):
        said += [(f"{url}: key", trained.key, index.key), (f"{url}: dim", trained.dim, index.dim)]
    for url, candidates in of_kind(found, CandidatesManifest):
        said += [
            (f"{url}: index", candidates.index, index.digest),
            (f"{url}: queries", candidates.queries, queries.data.sha256),
            (f"{url}: rows", candidates.data.rows, queries.distinct * min(candidates.depth, index.rows)),
        ]
        for at_rankings, rankings in of_kind(found, RankingsManifest):
            said += [
                (f"{at_rankings}: candidates", rankings.candidates, candidates.digest),
                (f"{at_rankings}: encoder", rankings.encoder, queries.encoder),
                (f"{at_rankings}: queries", rankings.queries, queries.distinct),
                (f"{at_rankings}: rows", rankings.data.rows, candidates.data.rows),
            ]
    return said
