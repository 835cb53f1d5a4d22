"""Tar shards with the same bytes every time, and the folder that is finished when its manifest is there."""

import io
import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.commits import exists, publish_bytes, publish_file, staging
from schemas.digests import digest_bytes, digest_file, digest_value, short
from schemas.errors import LedgerError
from schemas.layout import Layout
from schemas.manifests import FileEntry, PreparedManifest
from schemas.stores import open_store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Part of every prepared folder's name; to be raised when the same config begins to give other bytes."""

Progress = Callable[[int], None]
"""Called with the number of items finished since the last call."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One sample: a key without a dot, and its members as (suffix, bytes)."""

    key: str
    members: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be: its file name, how many samples it will hold, and what makes them when they are wanted."""

    name: str
    samples: int
    make: Callable[[], Iterable[Packed]]


def prepared_folder(layout: Layout, config: dict[str, Any]) -> str:
    """Where the shards of a `prepare` config go: below the dataset's shards, named by the config.

    Another config gets another folder, so that generations made of the old shards can still show their pictures.
    """
    return f"{layout.shards()}/{short(digest_value({'format': FORMAT_VERSION, 'prepare': config}))}"


def manifest_url(folder: str) -> str:
    """The manifest that says the folder is finished."""
    return f"{folder}/prepared.json"


def write_folder(
    folder: str,
    plans: Sequence[ShardPlan],
    *,
    dataset: str,
    config: dict[str, Any],
    queries: bytes,
    query_rows: int,
    counts: dict[str, int],
    missing: tuple[str, ...] = (),
    progress: Progress,
) -> PreparedManifest:
    """Writes the shards that are not there yet, then the query log, then the manifest.

    A shard appears whole under a name that its config decides, so one that is there is done: a killed run goes on
    behind its last shard and ends with the same bytes.

    Raises:
      LedgerError: a plan made more or fewer samples than it said.
    """
    entries = []
    for plan in plans:
        url = f"{folder}/{plan.name}"
        if exists(url):
            progress(plan.samples)
            entries.append(_entry(url, plan.name, plan.samples))
        else:
            entries.append(_write_shard(url, plan, progress))
    publish_bytes(queries, f"{folder}/queries.tsv")
    log = FileEntry(name="queries.tsv", rows=query_rows, size_bytes=len(queries), sha256=digest_bytes(queries))
    manifest = PreparedManifest(
        dataset=dataset, config=config, shards=tuple(entries), queries=log, counts=counts, missing=missing
    )
    manifest.commit(manifest_url(folder))
    logger.info("%s: %d shards, %s", folder, len(entries), counts)
    return PreparedManifest.read(manifest_url(folder))


def _write_shard(url: str, plan: ShardPlan, progress: Progress) -> FileEntry:
    with staging() as scratch:
        local = scratch / plan.name
        written = write_tar(local, _counted(plan.make(), progress))
        if written != plan.samples:
            raise LedgerError(f"{url}: expected {plan.samples} samples, got {written}")
        entry = FileEntry.of(local, url, plan.samples)
        publish_file(local, url)
    return entry


def _counted(samples: Iterable[Packed], progress: Progress) -> Iterator[Packed]:
    for sample in samples:
        yield sample
        progress(1)


def write_tar(path: Path, samples: Iterable[Packed]) -> int:
    """Writes an uncompressed tar; no names, times or numbers of this machine get into it.

    Returns:
      Number of samples.
    """
    count = 0
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sample.members:
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")  # mtime, uid and gid are 0, owner names empty
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
            count += 1
    return count


def _entry(url: str, name: str, rows: int) -> FileEntry:
    fs, path = open_store(url)
    return FileEntry(name=name, rows=rows, size_bytes=int(fs.size(path)), sha256=digest_file(url))
