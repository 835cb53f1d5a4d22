"""Removes what no kept generation names: never a file that one of them does, nor one that was written a moment ago."""

import logging
import time
from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from pipelines.reindex import publish
from pipelines.reindex.lock import locked
from pipelines.reindex.named import named
from schemas.errors import ConfigError
from schemas.layout import Layout
from schemas.manifests import (
    CandidatesManifest,
    EmbeddingManifest,
    Generation,
    IndexManifest,
    PartialManifest,
    ScoresManifest,
)
from schemas.stores import list_files, open_store

log = logging.getLogger(__name__)

LEAST_AGE_S = 24 * 3600.0
"""Younger files are left: a run that was killed may go on from them."""


class Collected(NamedTuple):
    """What was, or would be, removed.

    Attributes:
      kept: generations.
      removed: files.
      bytes: of them.
    """

    kept: tuple[int, ...]
    removed: tuple[str, ...]
    bytes: int


def collect(layout: Layout, keep: int, *, least_age_s: float = LEAST_AGE_S, dry_run: bool = False) -> Collected:
    """Keeps the newest generations, the one that is served and the one before it; removes the files of the others.

    Args:
      keep: how many of the newest, 1 or more.
      least_age_s: files written later than so many seconds ago stay, whatever they are.

    Raises:
      ConfigError: keep below 1.
      InputError: a manifest of a kept generation is gone; nothing is removed then.
      BusyError: a run is at work on the dataset.
    """
    if keep < 1:
        raise ConfigError(f"keep: expected 1 or more, got {keep}")
    with locked(layout, "fastslow gc"):
        kept = _kept(layout, keep)
        written, now = _written(layout), time.time()
        needed = _needed(layout, kept, written)
        removed = sorted(url for url, file in written.items() if url not in needed and now - file.at >= least_age_s)
        removed.sort(key=lambda url: f"/generations/{layout.dataset}/" not in url)  # nobody finds the others after that
        size = 0
        for url in removed:
            size += written[url].bytes
            if not dry_run:
                fs, path = open_store(url)
                fs.rm_file(path)
        log.info("%s: %d files, %.1f MB%s", layout.dataset, len(removed), size / 1e6, " would go" if dry_run else "")
    return Collected(kept, tuple(removed), size)


def _kept(layout: Layout, keep: int) -> tuple[int, ...]:
    numbers = publish.numbers(layout)
    served = publish.served(layout)
    also = {served.number, served.parent} if served is not None else set()
    return tuple(sorted({*numbers[-keep:], *(number for number in also if number in numbers)}))


def _needed(layout: Layout, kept: tuple[int, ...], there: Collection[str]) -> set[str]:
    """Every file that kept generations name, and what of those that are there the next run reuses."""
    needed: set[str] = set()
    parts, trained, candidates = set(), set(), set()
    for number in kept:
        generation = Generation.read(layout.generation(number))
        needed |= named(layout, generation)
        needed |= {layout.report(number), layout.gates(number)}
        urls = [f"{layout.root}/{part}" for part in generation.embeddings]
        parts |= {part.data.sha256 for part in EmbeddingManifest.read_all(urls)}
        built = IndexManifest.read(f"{layout.root}/{generation.index}")
        if built.lineage is not None:
            trained.add(built.lineage.trained)
        if generation.candidates is not None:
            candidates.add(CandidatesManifest.read(f"{layout.root}/{generation.candidates}").digest)
        if generation.rankings is not None:
            folder = f"{layout.root}/{generation.rankings}".rsplit("/", 1)[0]
            needed |= {url for url in there if url.startswith(f"{folder}/")}
    return needed | _reused(layout, there, parts, trained, candidates)


def _reused(
    layout: Layout, there: Collection[str], parts: set[str], trained: set[str], candidates: set[str]
) -> set[str]:
    """Partial indexes of kept parts, and pair scores of kept candidates."""
    needed: set[str] = set()
    for url in (url for url in there if url.endswith(".json")):
        if f"/trained/{layout.dataset}/" in url and not url.endswith("/manifest.json"):
            partial = PartialManifest.read(url)
            if partial.trained in trained and partial.part in parts:
                needed |= {url, partial.data.url(url)}
        elif f"/scores/{layout.dataset}/" in url:
            scores = ScoresManifest.read(url)
            if scores.candidates in candidates:
                stem = url.removesuffix(".json")
                needed |= {url, scores.data.url(url), scores.rejects.url(url), f"{stem}.pairs.parquet"}
    return needed


class _File(NamedTuple):
    """When a file was written, in seconds since 1970, and its size."""

    at: float
    bytes: int


def _written(layout: Layout) -> dict[str, _File]:
    """All files of the dataset below the root that runs have made.

    Prepared shards and small memos are not among them: they belong to no generation.
    """
    kinds = (
        "cache/truth",
        "embeddings",
        "queries",
        "trained",
        "indexes",
        "candidates",
        "scores",
        "rankings",
        "generations",
        "reports",
    )
    found: dict[str, _File] = {}
    for kind in kinds:
        for url, facts in list_files(f"{layout.root}/{kind}/{layout.dataset}").items():
            found[url] = _File(_time_of(facts), int(facts.get("size") or 0))
    return found


def _time_of(facts: dict[str, object]) -> float:
    """When a file was written, in seconds since 1970; 0 where the store does not say."""
    value = facts.get("mtime") or facts.get("LastModified") or facts.get("updated") or facts.get("created") or 0.0
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(str(value))
