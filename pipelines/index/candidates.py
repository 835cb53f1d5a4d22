"""The candidates stage: the fast side's best items for every query of the log, with exact scores."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.index.plan import LEVEL
from schemas.commits import exists
from schemas.digests import digest_value
from schemas.errors import StaleError
from schemas.jobs import Job
from schemas.manifests import (
    CandidatesManifest,
    EmbeddingManifest,
    IndexManifest,
    QueriesManifest,
    embedding_set_digest,
)

log = logging.getLogger(__name__)

RECIPE = 1

LEAST_DEPTH = 10
"""Recall@10 is reported whatever the rerank depth."""

OVERFETCH = 4
"""Compressed kinds are asked for this many times the depth; exact scores then decide."""

QUERIES_AT_ONCE = 4096
"""Rows of one row group of the table."""


class CandidatesPlan(NamedTuple):
    """What would be made: where, and how deep."""

    digest: str
    folder: str
    manifest_url: str
    depth: int
    built: IndexManifest
    queries: QueriesManifest


def plan_candidates(
    job: Job, embed: Sequence[str], index_manifest_url: str, queries_manifest_url: str
) -> CandidatesPlan:
    """Plans from manifests alone.

    Raises:
      StaleError: the index was built of other parts, or queries and items come from different encoders.
    """
    index, queries = IndexManifest.read(index_manifest_url), QueriesManifest.read(queries_manifest_url)
    if embedding_set_digest(EmbeddingManifest.read_all(embed)) != index.embeddings:
        raise StaleError(f"{index_manifest_url}: built of other embedding parts than those given; index again")
    if queries.encoder != index.encoder:
        raise StaleError(
            f"{queries_manifest_url}: made by encoder {queries.encoder[:16]}, the index by {index.encoder[:16]}; "
            "encode the queries again"
        )
    depth = max(job.dataset.rerank.depth, LEAST_DEPTH)
    digest = digest_value(
        {
            "index": index.model_dump(mode="json"),
            "queries": queries.data.sha256,
            "depth": depth,
            "recipe": RECIPE,
        }
    )
    folder = job.layout.candidates(digest)
    return CandidatesPlan(digest, folder, f"{folder}/manifest.json", depth, index, queries)


def pending(plan: CandidatesPlan) -> bool:
    """Whether the candidates are still to be found."""
    return not exists(plan.manifest_url)


def run(job: Job, embed: Sequence[str], index_manifest_url: str, queries_manifest_url: str) -> str:
    """The best `rerank.depth` items (10 at least, all when there are fewer) for every query, unless they are there.

    `fast_score` is the exact inner product with the stored vector of the finest level (`exact`), whatever the index
    approximates;
    ranks follow it, equal scores by smaller item id. Rows are in the order of the query table, then by rank.

    Args:
      embed: manifests of the embedding parts the index was built of, in any order.

    Returns:
      URL of the candidates manifest; `candidates.parquet` beside it has the schema `rankings.CANDIDATES`.

    Raises:
      StaleError: inputs that do not belong together.
      InputError: a file is missing or damaged.
    """
    plan = plan_candidates(job, embed, index_manifest_url, queries_manifest_url)
    if not pending(plan):
        log.debug("candidates %s are there", plan.manifest_url)
        return plan.manifest_url
    from schemas.parquet import entry, read_table, vectors

    folder = queries_manifest_url.rsplit("/", 1)[0]
    levels = plan.built.levels.columns if plan.built.levels else (LEVEL,)
    table = read_table(f"{folder}/{plan.queries.data.name}", ["query_id", *dict.fromkeys(levels)])
    queries = [vectors(table.column(level)) for level in levels]
    scores, ids = best_items(index_manifest_url, embed, queries, plan.depth)
    url = f"{plan.folder}/candidates.parquet"
    _write(url, table.column("query_id").to_pylist(), scores, ids)
    CandidatesManifest(
        dataset=job.layout.dataset,
        index=plan.built.digest,
        queries=plan.queries.data.sha256,
        depth=plan.depth,
        data=entry(url),
    ).commit(plan.manifest_url)
    log.info("candidates %s: %d queries, depth %d", plan.manifest_url, len(ids), plan.depth)
    return plan.manifest_url


def best_items(
    index_manifest_url: str, embed: Sequence[str], queries: Sequence[np.ndarray], depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best items of an index for some queries.

    Args:
      embed: manifests of the embedding parts it was built of.
      queries: float32 (Q, d_m) of each level searched through, coarse to fine.
      depth: items for each.

    Returns:
      Exact scores float32 (Q, min(depth, items)), falling, and ids int64; equal scores by smaller id.

    Raises:
      InputError: a file is missing or damaged, or the queries are of another width.
    """
    from pipelines.index.exact import rescore
    from pipelines.index.levels import open_coarse_to_fine
    from pipelines.index.parts import Parts
    from pipelines.index.search import open_index

    searcher = open_index(index_manifest_url)
    through = open_coarse_to_fine(index_manifest_url, searcher)
    if through is not None:
        return through.search(queries, depth)
    _, ids = searcher.search(queries[0], depth * (1 if searcher.keeps_whole_vectors else OVERFETCH))
    scores, ids = rescore(Parts(tuple(sorted(embed))), queries[0], ids)
    return scores[:, :depth], ids[:, :depth]


def _write(url: str, query_ids: list[str], scores: np.ndarray, ids: np.ndarray) -> None:
    from schemas.parquet import write_table
    from schemas.rankings import CANDIDATES

    width = ids.shape[1]
    ranks = np.arange(1, width + 1, dtype=np.int32)
    with write_table(url, CANDIDATES) as writer:
        for start in range(0, len(query_ids), QUERIES_AT_ONCE):
            some = query_ids[start : start + QUERIES_AT_ONCE]
            stop = start + len(some)
            writer.write(
                {
                    "query_id": [name for name in some for _ in range(width)],
                    "item_id": ids[start:stop].reshape(-1),
                    "rank": np.tile(ranks, len(some)),
                    "fast_score": scores[start:stop].reshape(-1),
                }
            )
