"""What index would be built of which parts, and whether it is there already; light, so that a rerun takes no time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.commits import exists
from schemas.configs import Index
from schemas.digests import digest_value
from schemas.errors import InputError, StaleError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest, QueriesManifest, embedding_set_digest

LEVEL = "embedding"
"""The vector column that is indexed."""

RECIPE = 1
"""Of everything below that changes an index's bytes or its operating point; raise it when it changes."""


class IndexPlan(NamedTuple):
    """One index to be made.

    Attributes:
      digest: of inputs, config and recipe; names the folder.
      folder: where the index goes.
      manifest_url: exists when the index is finished.
      part_urls: embedding manifests, in the order they are filled in: by content, so that neither the order
        of the arguments nor a file name changes a byte.
      parts: the manifests themselves, in the same order.
      queries_url: manifest of the encoded query log.
      queries: that manifest.
      rows: vectors to index.
      dim: their width.
    """

    digest: str
    folder: str
    manifest_url: str
    part_urls: tuple[str, ...]
    parts: tuple[EmbeddingManifest, ...]
    queries_url: str
    queries: QueriesManifest
    rows: int
    dim: int

    @property
    def embeddings_digest(self) -> str:
        """The name of the set of parts."""
        return embedding_set_digest(list(self.parts))


def plan_index(job: Job, embedding_manifest_urls: Sequence[str], queries_manifest_url: str) -> IndexPlan:
    """Plans an index from manifests alone; nothing else is read.

    Raises:
      InputError: no parts, no rows, no queries, a part given twice, or vectors of different widths.
      StaleError: parts or queries come from different encoders.
    """
    read = [(EmbeddingManifest.read(url), url) for url in embedding_manifest_urls]
    read.sort(key=lambda pair: (pair[0].data.sha256, pair[0].shard_digest, pair[1]))
    parts, urls = tuple(m for m, _ in read), tuple(url for _, url in read)
    queries = QueriesManifest.read(queries_manifest_url)
    _refuse_what_does_not_fit(parts, urls, queries, queries_manifest_url)
    digest = digest_value(
        {
            "embeddings": embedding_set_digest(list(parts)),
            "queries": queries.data.sha256,
            "index": promise(job.dataset.index),
            "level": LEVEL,
            "recipe": RECIPE,
        }
    )
    folder = job.layout.index(digest)
    rows = sum(m.data.rows for m in parts)
    return IndexPlan(
        digest,
        folder,
        f"{folder}/manifest.json",
        urls,
        parts,
        queries_manifest_url,
        queries,
        rows,
        parts[0].dims[LEVEL],
    )


def promise(config: Index) -> dict[str, Any]:
    """What of the index config can change a byte; `build_memory` only refuses."""
    return config.model_dump(mode="json", exclude={"build_memory"})


def pending(plan: IndexPlan) -> bool:
    """Whether the index is still to be made."""
    return not exists(plan.manifest_url)


def _refuse_what_does_not_fit(
    parts: Sequence[EmbeddingManifest], urls: Sequence[str], queries: QueriesManifest, queries_url: str
) -> None:
    if not parts or not any(m.data.rows for m in parts):
        raise InputError(f"nothing to index: {len(parts)} embedding parts hold no rows; embed some shards first")
    if len(set(urls)) != len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise InputError(f"{twice}: given twice; every part may be indexed once")
    first, first_url = parts[0], urls[0]
    for part, url in zip(parts, urls, strict=True):
        if part.encoder != first.encoder:
            raise StaleError(
                f"{url}: made by encoder {part.encoder[:16]}, {first_url} by {first.encoder[:16]}; "
                "embed all shards with one encoder"
            )
        if part.dims.get(LEVEL) != first.dims.get(LEVEL) or LEVEL not in part.dims:
            raise InputError(
                f"{url}: column {LEVEL}: width {part.dims.get(LEVEL)}, but {first.dims.get(LEVEL)} in {first_url}"
            )
    if queries.encoder != first.encoder:
        raise StaleError(
            f"{queries_url}: made by encoder {queries.encoder[:16]}, the parts by {first.encoder[:16]}; encode the "
            "queries again with the parts' encoder"
        )
    if queries.dims.get(LEVEL) != first.dims[LEVEL]:
        raise InputError(
            f"{queries_url}: column {LEVEL}: width {queries.dims.get(LEVEL)}, but {first.dims[LEVEL]} in {first_url}"
        )
    if queries.distinct == 0:
        raise InputError(
            f"{queries_url}: no queries: recall is promised on text queries and cannot be measured without them; "
            "set queries.log in the dataset config"
        )
