"""Which pictures of which shard are wanted by which queries, and what is done already; light, nothing heavy imported.

Candidates come by query; pictures lie by shard. The plan turns the one into the other: for every shard one small
table of the pairs to score, so that a worker opens its shard once and needs nothing but that table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rerank.fusion import Pairs
from schemas.commits import exists
from schemas.digests import digest_value
from schemas.embeddings import part_url
from schemas.errors import InputError, StaleError
from schemas.jobs import Job
from schemas.layout import ScorePaths
from schemas.manifests import CandidatesManifest, EmbeddingManifest, QueriesManifest, list_manifests
from schemas.parquet import read_table, write_table

CODE_VERSION = 1
"""Raised when the same candidates and settings would give other scores or another order."""

Shards = Sequence[tuple[str, str]]
"""(shard URL, URL of its embedding manifest), in the order of the plan."""

PAIRS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
    ]
)
"""The pairs of one shard, by position in the shard, then query: the order in which scores are written."""

PAIRS_AT_ONCE = 1 << 20
"""Rows of one row group of a shard's pairs, and of what is picked from the texts at once."""

_PLACE = ("item_id", "key", "position", "offset", "size", "content_sha256", "modality")


class Places(NamedTuple):
    """Where the candidate items are.

    Attributes:
      item_id: distinct items, rising, int64 (N,).
      shard: number of the shard in the plan, int64 (N,).
      table: their columns of the embedding rows, in the same order; strings are large ones, since together they may be
        more than 2 GiB.
    """

    item_id: np.ndarray
    shard: np.ndarray
    table: pa.Table


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to score: what a worker is told.

    Attributes:
      url: of the shard.
      dataset: its dataset.
      candidates: digest of the candidates the pairs come from.
      paths: where the pairs are and the scores go.
      pairs: how many there are.
      settings: digest of what decides the score of a given text and picture.
      earlier: scores of an earlier set of candidates that may hold the same pairs; None: all are scored.
    """

    url: str
    dataset: str
    candidates: str
    paths: ScorePaths
    pairs: int
    settings: str
    earlier: ScorePaths | None = None


def settings_digest(job: Job, scorer: str) -> str:
    """The name of all that decides the score of a given text and picture.

    Args:
      scorer: fingerprint.
    """
    decoding = job.dataset.embed.model_dump(mode="json", include={"frames", "jpeg_scaling"})
    return digest_value({"code": CODE_VERSION, "scorer": scorer, "decoding": decoding})


def scores_digest(job: Job, candidates: str, queries: str, scorer: str) -> str:
    """The name of a set of pair scores: everything that can change one of them.

    Args:
      candidates, queries: digests of the manifests.
      scorer: fingerprint.
    """
    return digest_value(
        {
            "code": CODE_VERSION,
            "candidates": candidates,
            "queries": queries,
            "scorer": scorer,
            "rerank": job.dataset.rerank.model_dump(mode="json", exclude={"beta"}),
            "decoding": job.dataset.embed.model_dump(mode="json", exclude={"batch_size", "max_reject_fraction"}),
        }
    )


def rankings_digest(job: Job, candidates: str, queries: str, *, scores: str | None, beta: float | str) -> str:
    """The name of the final rankings.

    Args:
      scores: digest of the pair scores; None without a slow side.
      beta: a number, or "fit".
    """
    return digest_value(
        {
            "code": CODE_VERSION,
            "candidates": candidates,
            "queries": queries,
            "scores": scores,
            "beta": beta,
            "ground_truth": job.dataset.queries.ground_truth,
        }
    )


def read_candidates(url: str, manifest: CandidatesManifest, query_ids: pa.Array) -> Pairs:
    """The candidates of all queries as columns, in file order; slow scores still missing.

    Args:
      url: of the manifest.
      query_ids: of the query table.

    Raises:
      StaleError: a candidate is of a query that is not in the table.
    """
    table = read_table(f"{url.rsplit('/', 1)[0]}/{manifest.data.name}")
    if table.num_rows != manifest.data.rows:
        raise InputError(f"{url}: its table has {table.num_rows} rows, the manifest says {manifest.data.rows}")
    # chunk by chunk: all ids in one array may be more than its offsets can address
    query = pc.index_in(table.column("query_id"), value_set=query_ids)
    if query.null_count:
        raise StaleError(
            f"{url}: {query.null_count} candidates are of queries that are not in the query table; search again"
        )
    return Pairs(
        query=query.to_numpy().astype(np.int64),
        item_id=table.column("item_id").to_numpy(),
        fast_rank=table.column("rank").to_numpy(),
        fast=table.column("fast_score").to_numpy(),
        slow=np.full(table.num_rows, np.nan, np.float32),
    )


def read_queries(url: str) -> tuple[QueriesManifest, pa.Table]:
    """The query log's manifest and its table without vectors."""
    manifest = QueriesManifest.read(url)
    columns = ["query_id", "text", "count", "clicked", "split"]
    return manifest, read_table(f"{url.rsplit('/', 1)[0]}/{manifest.data.name}", columns)


def locate(shards: Shards, items: np.ndarray) -> Places:
    """Finds items in the embedded shards; reads no vectors, and keeps of each shard only the rows asked for.

    Args:
      items: distinct item ids, rising.

    Raises:
      StaleError: an item is in no shard of the plan.
    """
    found: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    tables: list[pa.Table] = []
    for number, (_, url) in enumerate(shards):
        part = read_table(part_url(url, EmbeddingManifest.read(url)), _PLACE)
        ids = part.column("item_id").to_numpy()
        rows = rows_among(ids, items)
        found.append(ids[rows])
        numbers.append(np.full(rows.size, number))
        tables.append(_large(part.take(pa.array(rows))))
    ids = np.concatenate(found) if found else np.empty(0, np.int64)
    order = np.argsort(ids)
    missing = np.setdiff1d(items, ids)
    if missing.size:
        raise StaleError(
            f"{missing.size} candidates (item {missing[0]} is one) are in no shard of the plan; build the index again"
        )
    if not tables:
        return Places(ids, np.empty(0, np.int64), pa.table({name: [] for name in _PLACE}))
    return Places(ids[order], np.concatenate(numbers)[order], pa.concat_tables(tables).take(pa.array(order)))


def rows_among(ids: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Rows of ids that are among some items, rising, int64: by search, so that the items are never sorted again.

    Args:
      ids: int64, in any order.
      items: int64, rising.

    >>> rows_among(np.array([7, 1, 5, 7]), np.array([5, 7, 9])).tolist()
    [0, 2, 3]
    """
    if not items.size:
        return np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(items, ids), items.size - 1)
    return np.flatnonzero(items[place] == ids)


def to_score(pairs: Pairs, depth: int) -> Pairs:
    """The pairs the slow side looks at: the first `depth` of each query (there may be more candidates)."""
    near = pairs.fast_rank <= depth
    return Pairs(*(column[near] for column in pairs))


def fill_scores(pairs: Pairs, urls: Sequence[str], query_ids: pa.Array) -> Pairs:
    """The pairs with their slow scores; NaN where there is none.

    Args:
      urls: tables of `rankings.SCORES`.
      query_ids: of the query table.
    """
    items = np.unique(pairs.item_id)
    name = pairs.query * items.size + np.searchsorted(items, pairs.item_id)
    order = np.argsort(name)
    slow = np.full(len(name), np.nan, np.float32)
    for url in urls:
        table = read_table(url)
        query = pc.index_in(table.column("query_id"), value_set=query_ids).to_numpy().astype(np.int64)
        scored = query * items.size + np.searchsorted(items, table.column("item_id").to_numpy())
        slow[order[np.searchsorted(name, scored, sorter=order)]] = table.column("slow_score").to_numpy()
    return pairs._replace(slow=slow)


def plan_shards(
    job: Job,
    digest: str,
    candidates: str,
    shards: Shards,
    *,
    places: Places,
    pairs: Pairs,
    queries: pa.Table,
    settings: str,
    earlier: str | None = None,
) -> list[ShardTask]:
    """One task for every shard that holds a candidate; writes the pairs of those not scored yet.

    Args:
      digest: name of the set of scores.
      candidates: digest of the candidates.
      queries: the query table, for the texts.
      settings: see `settings_digest`.
      earlier: digest that names the scores being served, None without any; a shard takes over from the one of its name.
    """
    asked = _large(queries.select(["query_id", "text"])).combine_chunks()
    before = {scores_stem(url): url for url in list_manifests(job.layout.scores(earlier))} if earlier else {}
    item = np.searchsorted(places.item_id, pairs.item_id)
    tasks = []
    for number, rows in _by_shard(item, pairs.query, places):
        url, manifest_url = shards[number]
        paths = job.layout.score_part(digest, url, EmbeddingManifest.read(manifest_url).shard_digest)
        if not exists(paths.manifest) and not exists(paths.pairs):
            _write_pairs(paths.pairs, places.table, item[rows], asked, pairs.query[rows])
        old = before.get(scores_stem(paths.manifest))
        known = ScorePaths.of(old) if old is not None and old != paths.manifest else None
        tasks.append(ShardTask(url, job.dataset.name, candidates, paths, rows.size, settings, known))
    return tasks


def scores_stem(manifest_url: str) -> str:
    """Of a shard's scores: the shard's name, whatever its content was."""
    return manifest_url.rsplit("/", 1)[-1].rpartition("-")[0]


def _by_shard(item: np.ndarray, query: np.ndarray, places: Places) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a shard, its pairs by position, then query)."""
    shard = places.shard[item]
    position = places.table.column("position").to_numpy()[item]
    order = np.lexsort((query, position, shard))
    numbers, starts = np.unique(shard[order], return_index=True)
    for number, begin, end in zip(numbers, starts, [*starts[1:], order.size], strict=True):
        yield int(number), order[begin:end]


def _large(table: pa.Table) -> pa.Table:
    """The same with strings of 64-bit offsets: beyond 2 GiB of the others Arrow's take returns a damaged array."""
    fields = [f.with_type(pa.large_string()) if pa.types.is_string(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _write_pairs(url: str, items: pa.Table, item: np.ndarray, asked: pa.Table, query: np.ndarray) -> None:
    """Strings of both tables are large ones."""
    with write_table(url, PAIRS) as writer:
        for begin in range(0, len(item), PAIRS_AT_ONCE):
            piece = slice(begin, begin + PAIRS_AT_ONCE)
            wanted, texts = items.take(pa.array(item[piece])), asked.take(pa.array(query[piece]))
            columns = {name: wanted.column(name) for name in _PLACE}
            columns |= {name: texts.column(name) for name in ("query_id", "text")}
            writer.write({name: columns[name].cast(PAIRS.field(name).type).combine_chunks() for name in PAIRS.names})
