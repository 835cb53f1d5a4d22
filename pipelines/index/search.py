"""Opens an index and searches it: memory-mapped, at its tuned operating point, from any number of threads."""

import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.index.exact import sort_hits
from pipelines.index.segments import Segments, open_segments
from schemas.cache import cache_folder
from schemas.digests import digest_file
from schemas.errors import InputError
from schemas.manifests import FileEntry, IndexManifest
from schemas.stores import is_local, open_store

log = logging.getLogger(__name__)

_FETCHED = re.compile(r"[0-9a-f]{64}(\.[A-Za-z0-9]+)*")  # whole ones, and what a killed process left

EXTRA = 16
"""Hits fetched beyond k, so that ties at the k-th place are cut by id and not by chance."""

CACHED_S = 7 * 24 * 3600.0
"""Fetched files that were not opened for so long are removed when another is fetched."""

Point = Mapping[str, int]
"""Operating point: FAISS's names (`faiss.ParameterSpace` understands the same) and values."""


@dataclass(frozen=True)
class Searcher:
    """An open index. Searching changes nothing in it, so one Searcher serves all threads.

    Attributes:
      index: the FAISS index; of several segments the first.
      point: operating point used when `search` is given none.
      manifest: what the index was built from and promises; None for a bare file.
      segments: all of them, where there are several or some items are deleted.
    """

    index: Any
    point: Point
    manifest: IndexManifest | None = None
    segments: Segments | None = None

    @property
    def items(self) -> int:
        """Items that may be answers."""
        return self.segments.live if self.segments else int(self.index.ntotal)

    @property
    def deleted(self) -> list[np.ndarray] | None:
        """Ids that are no answers, of each segment; None where all is one."""
        return [segment.deleted for segment in self.segments.segments] if self.segments else None

    @property
    def keeps_whole_vectors(self) -> bool:
        """Whether the index's scores are inner products with the vectors themselves."""
        import faiss

        inner = faiss.downcast_index(self.index)
        while isinstance(inner, faiss.IndexIDMap):
            inner = faiss.downcast_index(inner.index)
        return isinstance(inner, (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat, faiss.IndexRefineFlat))

    def search(self, vectors: np.ndarray, k: int, *, point: Point | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items by the index's own scores.

        For kinds that keep vectors whole a score is the inner product up to float32 rounding; for compressed
        kinds it is an approximation: `exact.rescore` gives the exact ones where the embedding parts are at hand.

        Args:
          vectors: float32 (Q, width).
          k: 1 or more.
          point: overrides the tuned one.

        Returns:
          scores float32 (Q, K), falling, and ids int64 (Q, K), equal scores by smaller id, K = min(k, items).
          Every place is filled: where the lists probed hold fewer than K items, more are probed.

        Raises:
          InputError: k below 1, vectors of another width, or not finite.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if k < 1:
            raise InputError(f"k: expected 1 or more, got {k}")
        if vectors.ndim != 2 or vectors.shape[1] != self.index.d:
            raise InputError(f"queries: expected shape (Q, {self.index.d}), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise InputError("queries: expected finite numbers; one of the vectors holds NaN or infinity")
        width = min(k, self.items)
        scores, ids = np.empty((len(vectors), width), np.float32), np.empty((len(vectors), width), np.int64)
        todo = np.arange(len(vectors))
        chosen, fetch = dict(self.point if point is None else point), min(k + EXTRA, self.items)
        while todo.size and width:
            found_scores, found = sort_hits(*self._raw(vectors[todo], fetch, chosen))
            short = (found[:, width - 1] < 0) & (fetch <= self.items)
            # A tie that reaches the end of what was fetched may go on behind it.
            tied = (found_scores[:, width - 1] == found_scores[:, -1]) & (fetch < self.items) & ~short
            done = ~(short | tied)
            scores[todo[done]], ids[todo[done]] = found_scores[done, :width], found[done, :width]
            if tied.any():
                done_ids = np.flatnonzero(tied)
                more = min(fetch * 4, self.items)
                s, i = self._until_no_tie(vectors[todo[done_ids]], width, more, chosen)
                scores[todo[done_ids]], ids[todo[done_ids]] = s, i
            todo = todo[short]
            if todo.size:
                wider = widen(self.index, chosen)
                if wider == chosen:
                    scores[todo], ids[todo] = self._exhaustive(vectors[todo], width)
                    break
                chosen = wider
        return scores, ids

    def hits(self, vectors: np.ndarray, k: int, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """What the lists probed hold, and no more; else as `search`.

        Returns:
          scores float32 (Q, k), falling, and ids int64 (Q, k), equal scores by smaller id; -inf and -1 for none.
        """
        return sort_hits(*self._raw(np.ascontiguousarray(vectors, dtype=np.float32), k, point))

    def _raw(self, vectors: np.ndarray, fetch: int, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """FAISS's answer; empty places have id -1 and score -inf."""
        if self.segments:
            return self.segments.search(vectors, fetch, point)
        scores, ids = self.index.search(vectors, fetch, params=search_parameters(self.index, point))
        scores[ids < 0] = -np.inf
        return scores, ids

    def _until_no_tie(self, vectors: np.ndarray, width: int, fetch: int, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Fetches more until the last hit is worse than the one at `width`, or nothing is left."""
        scores, ids = sort_hits(*self._raw(vectors, fetch, point))
        tied = scores[:, width - 1] == scores[:, -1]
        if fetch < self.items and tied.any():
            more = min(fetch * 4, self.items)
            scores[tied, :width], ids[tied, :width] = self._until_no_tie(vectors[tied], width, more, point)
        return scores[:, :width], ids[:, :width]

    def _exhaustive(self, vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """For graphs that do not reach every item: all items are looked at."""
        import faiss

        outer = faiss.downcast_index(self.index)
        inner = faiss.downcast_index(outer.index) if isinstance(outer, faiss.IndexIDMap) else outer
        if not isinstance(outer, faiss.IndexIDMap) or not hasattr(inner, "storage"):
            raise InputError(f"{type(inner).__name__}: gave fewer than {width} of {self.index.ntotal} items")
        scores, places = inner.storage.search(vectors, self.index.ntotal)
        scores, ids = sort_hits(scores, faiss.vector_to_array(outer.id_map)[places])
        return scores[:, :width], ids[:, :width]


def open_index(url: str, *, cache: Path | None = None) -> Searcher:
    """Opens a finished index, memory-mapped where its kind allows.

    Args:
      url: its folder or manifest, anywhere fsspec reads. A remote file is fetched once and checked.
      cache: folder for fetched files; default: `indexes` in `schemas.cache.cache_folder()`. They are named
        by their digest; those that were not opened for a week are removed when another is fetched.

    Raises:
      InputError: no manifest, no file, or a file that is not what the manifest says.
    """
    manifest_url = url if url.endswith(".json") else f"{url.rstrip('/')}/manifest.json"
    manifest = IndexManifest.read(manifest_url)
    files = [local_file(segment.lists.url(manifest_url), segment.lists, cache) for segment in manifest.segments]
    deleted = open_tombstones(manifest, manifest_url)
    searcher = open_files(files, deleted, parse_point(manifest.parameters), manifest)
    if searcher.items != manifest.rows or searcher.index.d != manifest.dim:
        raise InputError(
            f"{manifest_url}: {searcher.items} vectors of width {searcher.index.d} in its files, it says "
            f"{manifest.rows} x {manifest.dim}"
        )
    return searcher


def open_files(
    files: Sequence[Path], deleted: Sequence[np.ndarray], point: Point, manifest: IndexManifest | None = None
) -> Searcher:
    """Opens local files.

    Args:
      files: of each segment, the first a FAISS file.
      deleted: ids that are no answers, of each segment.

    Raises:
      InputError: FAISS cannot read a file.
    """
    whole = read_file(files[0])
    several = len(files) > 1 or any(len(gone) for gone in deleted)
    return Searcher(whole, point, manifest, open_segments(whole, files[0], files[1:], deleted) if several else None)


def open_tombstones(manifest: IndexManifest, manifest_url: str) -> list[np.ndarray]:
    """Ids that are no answers, of each segment, int64.

    Raises:
      InputError: their table is missing or damaged.
    """
    if manifest.tombstones is None:
        return [np.empty(0, np.int64)] * len(manifest.segments)
    from schemas.parquet import read_table

    table = read_table(manifest.tombstones.url(manifest_url), ["segment", "item_id"])
    segment, ids = (table.column(name).to_numpy() for name in table.column_names)
    return [ids[segment == number] for number in range(len(manifest.segments))]


def read_file(path: Path) -> Any:
    """A FAISS file, its inverted lists memory-mapped.

    Raises:
      InputError: FAISS cannot read it.
    """
    import faiss

    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise InputError(f"{path}: not a FAISS index: {str(error).strip().splitlines()[-1]}") from error


def local_file(url: str, entry: FileEntry, cache: Path | None = None) -> Path:
    """Where a committed file lies on this machine; a remote one is fetched once and checked.

    Args:
      entry: what its manifest says.
      cache: see `open_index`.

    Raises:
      InputError: it is not there, or not what the manifest says.
    """
    fs, path = open_store(url)
    if not fs.exists(path):
        raise InputError(f"{url}: not found, though its manifest is there; remove the manifest to have it made again")
    if is_local(fs):
        local = Path(path)
    else:
        base = cache or cache_folder() / "indexes"
        local = base / f"{entry.sha256}{Path(entry.name).suffix}"
        if local.exists():
            os.utime(local)  # opened now
        else:
            _fetch(fs, path, local, sha256=entry.sha256, url=url)
    size = local.stat().st_size
    if size != entry.size_bytes:
        raise InputError(f"{local}: {size} bytes, its manifest says {entry.size_bytes}; remove it")
    return local


def _fetch(fs: Any, path: str, local: Path, *, sha256: str, url: str) -> None:
    """Copies a remote file; it appears under its name only when its digest is right."""
    log.info("fetching %s", url)
    local.parent.mkdir(parents=True, exist_ok=True)
    _forget(local.parent)
    half = local.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        fs.get_file(path, str(half))
        if digest_file(str(half)) != sha256:
            raise InputError(f"{url}: content differs from its manifest (sha256 {sha256[:16]}...)")
        half.replace(local)
    finally:
        half.unlink(missing_ok=True)


def _forget(cache: Path) -> None:
    """Removes fetched files that were not opened for long; who has one mapped keeps it, the system frees it after."""
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes too
            if _FETCHED.fullmatch(path.name) and path.stat().st_mtime < time.time() - CACHED_S:
                path.unlink()


def format_point(point: Point) -> str:
    """An operating point as text, as FAISS's ParameterSpace takes it.

    >>> format_point({"nprobe": 8, "quantizer_efSearch": 16})
    'nprobe=8,quantizer_efSearch=16'
    """
    return ",".join(f"{name}={value}" for name, value in point.items())


def parse_point(text: str) -> dict[str, int]:
    """The inverse of `format_point`.

    >>> parse_point("nprobe=8")
    {'nprobe': 8}

    Raises:
      InputError: not of that form.
    """
    try:
        return {name: int(value) for name, value in (item.split("=") for item in text.split(",") if item)}
    except ValueError:
        raise InputError(f"operating point: expected name=number,name=number, got {text!r}") from None


def search_parameters(index: Any, point: Point) -> Any:
    """FAISS's SearchParameters for an operating point, through maps, transforms and refinement; None for none.

    They are passed with each search, so that the index is never changed.
    """
    import faiss

    whole = faiss.downcast_index(index)  # not rebound: the caller may hold no other reference
    if isinstance(whole, faiss.IndexIDMap):
        return search_parameters(whole.index, point)
    if isinstance(whole, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=search_parameters(whole.index, point))
    if isinstance(whole, faiss.IndexRefine):
        inner = search_parameters(whole.base_index, point)
        return faiss.IndexRefineSearchParameters(k_factor=float(point["k_factor_rf"]), base_index_params=inner)
    if isinstance(whole, faiss.IndexIVF):
        if "quantizer_efSearch" in point:
            graph = faiss.SearchParametersHNSW(efSearch=point["quantizer_efSearch"])
            return faiss.SearchParametersIVF(nprobe=point["nprobe"], quantizer_params=graph)
        return faiss.SearchParametersIVF(nprobe=point["nprobe"])
    if isinstance(whole, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=point["efSearch"])
    return None


def limits(index: Any) -> dict[str, int]:
    """What can be tuned, with the value beyond which nothing more is looked at; empty for exhaustive kinds."""
    import faiss

    rows = int(index.ntotal)
    whole = faiss.downcast_index(index)  # not rebound: the caller may hold no other reference
    if isinstance(whole, (faiss.IndexIDMap, faiss.IndexPreTransform)):
        return limits(whole.index)
    if isinstance(whole, faiss.IndexRefine):
        return {**limits(whole.base_index), "k_factor_rf": max(1, rows)}
    if isinstance(whole, faiss.IndexIVF):
        graph = isinstance(faiss.downcast_index(whole.quantizer), faiss.IndexHNSW)
        return {"nprobe": whole.nlist, **({"quantizer_efSearch": 2 * whole.nlist} if graph else {})}
    if isinstance(whole, faiss.IndexHNSW):
        return {"efSearch": max(1, rows)}
    return {}


def widen(index: Any, point: Point) -> dict[str, int]:
    """The point with everything doubled, up to the limits."""
    most = limits(index)
    return {name: min(2 * value, max(value, most.get(name, value))) for name, value in point.items()}
