"""One shard -> its embedding table, its rejects and the manifest that commits both."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encoders.base import DualEncoder
from pipelines import progress
from pipelines.embed.batches import compose, in_order
from pipelines.embed.encoding import BatchEncoder, Row
from pipelines.embed.known import Known
from pipelines.embed.lanes import Lanes
from pipelines.embed.plan import PlannedShard, Recipe
from pipelines.webdataset.samples import ReadCounts, read_samples
from schemas import rejects
from schemas.commits import exists, staging
from schemas.embeddings import refuse_bad_vectors, schema
from schemas.errors import StaleError
from schemas.ids import item_id
from schemas.manifests import Counts, EmbeddingManifest, FileEntry
from schemas.parquet import TableWriter
from schemas.rejects import Reject
from schemas.samples import Sample

GROUP_ROWS = 1024
"""Rows of a Parquet row group: 1 MB of 512-d float16, and what is held in memory before it is written."""

DATA, REJECTS = "data.parquet", "rejects.parquet"

ROW_COLUMNS = tuple(field.name for field in fields(Row) if field.name != "vectors")


class Embedded(NamedTuple):
    """A finished shard.

    Attributes:
      manifest: its own, or, where an attempt to take in what was refused has failed again, the earlier one.
      reused: rows whose vectors were taken over; 0 where it was there already.
    """

    manifest: EmbeddingManifest
    reused: int = 0


def embed_shard(shard: PlannedShard, encoder: DualEncoder, recipe: Recipe, *, lanes: Lanes) -> Embedded:
    """Embeds a shard and commits it, or returns the manifest that is already there.

    Rows and rejects are in the order of the samples. Data and rejects are published under names made from the
    shard's content, then the manifest is created if absent: killed in between, the next run writes the same again.

    Args:
      encoder: the one `recipe.encoder` names.
      lanes: what the batches are worked on by; their number changes no byte.

    Raises:
      StaleError: the encoder is not the recipe's, or another worker committed other bytes at the same moment.
      InputError: the shard cannot be opened.
      ModelError: the model fails whatever the picture.
    """
    if exists(shard.paths.manifest):
        return Embedded(EmbeddingManifest.read(shard.paths.manifest))
    if encoder.fingerprint != recipe.encoder:
        raise StaleError(
            f"{shard.url}: planned for encoder {recipe.encoder}, got {encoder.fingerprint}; were the model's files "
            "changed during the run? Run again"
        )
    with staging() as folder:
        manifest, reused = _write(shard, encoder, recipe, lanes, folder)
        if shard.again and shard.earlier is not None:
            before = EmbeddingManifest.read(shard.earlier)
            if manifest.counts.rejected >= before.counts.rejected:
                return Embedded(before)
        files = {folder / DATA: shard.paths.data, folder / REJECTS: shard.paths.rejects}
        return Embedded(manifest.commit_unit(shard.paths.manifest, files, subject=shard.url), reused)


class _Tables:
    """The two tables of a shard while they grow; rows and rejects arrive in the order of the samples."""

    def __init__(self, folder: Path, encoder: DualEncoder, dataset: str) -> None:
        self.data = TableWriter(folder / DATA, schema(encoder.dims, encoder=encoder.fingerprint))
        self.rejects = TableWriter(folder / REJECTS, rejects.SCHEMA)
        self.modalities: Counter[str] = Counter()
        self._dataset = dataset
        self._rows: list[Row] = []
        self._refused: list[Reject] = []

    def add(self, item: Row | Reject) -> None:
        """Takes one item; full groups go to disk."""
        if isinstance(item, Row):
            self.modalities[item.modality] += 1
            self._rows.append(item)
        else:
            self._refused.append(item)
        if max(len(self._rows), len(self._refused)) >= GROUP_ROWS:
            self.flush(full_only=True)

    def flush(self, *, full_only: bool = False) -> None:
        """Writes what is waiting; with `full_only` only what fills a group, so that groups do not depend on rejects."""
        least = GROUP_ROWS if full_only else 1
        if len(self._rows) >= least:
            self.data.write(_columns(self._rows, self._dataset))
            self._rows = []
        if len(self._refused) >= least:
            table = rejects.to_table(self._refused)
            self.rejects.write({name: table.column(name).combine_chunks() for name in table.column_names})
            self._refused = []

    def close(self) -> None:
        """Writes the footers."""
        self.data.close()
        self.rejects.close()


def _write(shard: PlannedShard, encoder: DualEncoder, recipe: Recipe, lanes: Lanes, folder: Path) -> Embedded:
    """Writes the two tables into `folder` and says what they hold."""
    read, known = ReadCounts(), Known.of(shard, recipe)
    work = BatchEncoder(encoder, recipe.embed, known)
    reused = 0
    with closing(_Tables(folder, encoder, recipe.dataset)) as tables, closing(_read(shard, recipe, read)) as samples:
        batches = compose(samples, batch_size=recipe.embed.batch_size, frames=work.frames)
        with closing(lanes.map(work, batches, weigh=lambda batch: batch.size_bytes)) as results:
            for item in _counted(in_order(results), shard.size_bytes):
                tables.add(item)
                reused += isinstance(item, Row) and item.content_sha256 in known.items
        tables.flush()
    embedded = tables.modalities.total()
    counts = Counts(
        seen=read.samples + read.rejects,
        embedded=embedded,
        rejected=tables.rejects.rows,
        images=tables.modalities["image"],
        videos=tables.modalities["video"],
        caption_errors=read.caption_errors,
        ignored_members=read.ignored_members,
    )
    manifest = EmbeddingManifest(
        dataset=recipe.dataset,
        shard=shard.url,
        shard_digest=shard.digest,
        encoder=encoder.fingerprint,
        config_digest=recipe.settings_digest,
        vectors_digest=recipe.vectors_digest,
        dims=dict(encoder.dims),
        counts=counts,
        data=FileEntry.of(folder / DATA, shard.paths.data, tables.data.rows),
        rejects=FileEntry.of(folder / REJECTS, shard.paths.rejects, tables.rejects.rows),
    )
    return Embedded(manifest, reused)


def _read(shard: PlannedShard, recipe: Recipe, counts: ReadCounts) -> Generator[Sample | Reject, None, None]:
    yield from read_samples(
        shard.url,
        shard=shard.url.rsplit("/", 1)[-1],
        captions=recipe.captions,
        key_scope=recipe.key_scope,
        embed=recipe.embed,
        counts=counts,
    )


def _counted(items: Iterable[Row | Reject], total_bytes: int) -> Iterator[Row | Reject]:
    """The items as they are, while progress is told how far into the shard they reach."""
    reached = 0
    for item in items:
        end = min(item.offset + item.size, total_bytes)  # a compressed shard is longer inside than outside
        progress.advance(1, max(0, end - reached))
        reached = max(reached, end)
        yield item
    progress.advance(0, total_bytes - reached)


def _columns(rows: Sequence[Row], dataset: str) -> dict[str, object]:
    plain = {name: [getattr(row, name) for row in rows] for name in ROW_COLUMNS}
    levels = {name: np.stack([row.vectors[name] for row in rows]) for name in rows[0].vectors}
    for name, values in levels.items():
        refuse_bad_vectors(values, plain["key"], column=name)
    return {"item_id": [item_id(dataset, row.key) for row in rows], **plain, **levels}
