"""The query log (or, without one, the captions of the items) -> distinct queries with their vectors."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines import progress
from pipelines.embed.plan import EmbedPlan
from schemas.commits import exists
from schemas.digests import digest_file, digest_value
from schemas.embeddings import part_url, refuse_bad_vectors
from schemas.errors import InputError
from schemas.jobs import Job
from schemas.manifests import SCHEMA_VERSION, EmbeddingManifest, QueriesManifest, embedding_set_digest
from schemas.parquet import entry, read_table, write_table
from schemas.query_logs import Query, distinct, normalise, read_rows, table_schema

if TYPE_CHECKING:
    from encoders.base import DualEncoder

logger = logging.getLogger(__name__)

BATCH_TEXTS = 64
"""Texts encoded together. Part of what decides the last bit of a vector, so a constant."""

CODE_VERSION = 1
"""Raised when the same log and settings would give another table."""


def run(job: Job, embedded: EmbedPlan, log_url: str | None) -> str:
    """Encodes the distinct queries of a log, or finds that this was done.

    Args:
      embedded: what `pipelines.embed.job.run` returned.
      log_url: .tsv, .jsonl or .parquet; None: the captions of the embedded items are the queries.

    Returns:
      URL of the `QueriesManifest`.

    Raises:
      InputError: the log is missing or cannot be read, or there is no query in it.
    """
    table_url, manifest_url, source, manifests = _target(job, embedded, log_url)
    if exists(manifest_url):
        return manifest_url

    settings = job.dataset.queries
    name = log_url or f"captions of {job.dataset.name}"
    rows = list(_captions(embedded, manifests) if log_url is None else read_rows(log_url))
    queries = most_frequent(distinct(rows, source=name, fit_fraction=settings.fit_fraction), settings.max_queries)
    if not queries:
        raise InputError(f"{name}: no query in it; set queries.log in the dataset config to a log of queries")

    from encoders.precision import pinned
    from encoders.registry import load_dual

    encoder = load_dual(pinned(job.encoder, job.layout), layout=job.layout)
    with progress.watch(f"encode queries of {job.dataset.name}", total=len(queries), unit="queries"):
        vectors = encode_texts(encoder, [query.text for query in queries])
    for column, values in vectors.items():
        refuse_bad_vectors(values, [query.query_id for query in queries], column=column)
    with write_table(table_url, table_schema(encoder.dims, encoder=encoder.fingerprint)) as table:
        table.write(
            {
                "query_id": [query.query_id for query in queries],
                "text": [query.text for query in queries],
                "count": [query.count for query in queries],
                "clicked": [list(query.clicked) for query in queries],
                "split": [query.split for query in queries],
                **vectors,
            }
        )
    QueriesManifest(
        dataset=job.dataset.name,
        source=source,
        encoder=encoder.fingerprint,
        dims=dict(encoder.dims),
        logged=len(rows),
        distinct=len(queries),
        fit=sum(query.split == "fit" for query in queries),
        data=entry(table_url),
    ).commit(manifest_url)
    return manifest_url


def pending(job: Job, embedded: EmbedPlan, log_url: str | None) -> bool:
    """Whether `run` would encode anything; arguments as there, but only the manifests of the parts are needed."""
    return not exists(_target(job, embedded, log_url)[1])


def _target(job: Job, embedded: EmbedPlan, log_url: str | None) -> tuple[str, str, str, list[EmbeddingManifest]]:
    """Where the table and its manifest go, the digest of the log, and the manifests its captions come from."""
    settings = job.dataset.queries
    manifests = EmbeddingManifest.read_all(embedded.manifests) if log_url is None else []
    source = embedding_set_digest(manifests) if log_url is None else digest_file_of_log(log_url)
    digest = digest_value(
        {
            "code": CODE_VERSION,
            "encoder": embedded.recipe.encoder,
            "fit_fraction": settings.fit_fraction,
            "kind": "captions" if log_url is None else log_url.rsplit(".", 1)[-1],
            "max_queries": settings.max_queries,
            "schema": SCHEMA_VERSION,
            "source": source,
        }
    )
    return *job.layout.queries(digest), source, manifests


def digest_file_of_log(url: str) -> str:
    """The digest of a log's content.

    Raises:
      InputError: it is not there.
    """
    try:
        return digest_file(url)
    except FileNotFoundError:
        raise InputError(
            f"{url}: query log not found; set queries.log in the dataset config or pass --queries"
        ) from None


def _captions(embedded: EmbedPlan, manifests: Sequence[EmbeddingManifest]) -> Iterator[Mapping[str, object]]:
    """One row a caption; blank ones are none."""
    for url, manifest in zip(embedded.manifests, manifests, strict=True):
        table = read_table(part_url(url, manifest), ["captions"])
        for captions in table.column("captions").to_pylist():
            yield from ({"text": text} for text in captions if normalise(text))


def most_frequent(queries: Sequence[Query], limit: int | None) -> list[Query]:
    """The `limit` most frequent queries (of equal ones the earlier), in the order given."""
    kept = sorted(range(len(queries)), key=lambda n: (-queries[n].count, n))[:limit]
    return [queries[n] for n in sorted(kept)]


def encode_texts(encoder: "DualEncoder", texts: Sequence[str], *, lanes: int | None = None) -> dict[str, np.ndarray]:
    """Vectors of texts, each batch padded to its own longest: texts of like length go together.

    Args:
      lanes: threads; None: one per core. Their number changes no bit.

    Returns:
      Column -> float32 (len(texts), width), L2 norm 1, in the order of `texts`.
    """
    from pipelines.embed.lanes import Lanes

    order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
    batches = [order[start : start + BATCH_TEXTS] for start in range(0, len(order), BATCH_TEXTS)]
    vectors = {name: np.empty((len(texts), width), np.float32) for name, width in encoder.dims.items()}
    # An accelerator is one queue: a single lane keeps it busy.
    with Lanes(lanes if encoder.device.type == "cpu" else 1) as workers:
        encoded = workers.map(lambda batch: encoder.encode_text([texts[n] for n in batch]), batches)
        for batch, found in zip(batches, encoded, strict=True):
            for name, values in found.items():
                vectors[name][batch] = values
            progress.advance(len(batch))
    return vectors
