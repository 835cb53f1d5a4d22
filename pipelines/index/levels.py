"""Item ids and the vectors of the levels above the index, row-addressable: written beside it, opened mapped.

NumPy files: `ids.npy`, int64, rising; `<column>.npy` (N, d_m), rows in that order. float32 and not the float16 of the
parts where a shortlist is long: 10,000 rows of width 64 are gathered in 0.1 ms, from float16 they take 1.4 ms (one
thread, numpy 1.26). Behind compressed vectors it is short, and float16 half the disk for the same numbers.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.index.coarse_to_fine import CoarseToFine, Levels, Stacked
from pipelines.index.parts import Parts, ids_of
from pipelines.index.search import Point, Searcher, local_file
from schemas.errors import InputError
from schemas.manifests import EmbeddingManifest, FileEntry, IndexManifest

IDS = "ids.npy"


def write_levels(
    parts: Sequence[str], columns: Sequence[str], folder: Path, *, refined: bool
) -> tuple[FileEntry, tuple[FileEntry, ...]]:
    """Writes ids and levels of the items of some parts; the same bytes whatever the order of the parts.

    Memory: the ids, and one part.

    Args:
      parts: embedding manifests.
      columns: levels above the first, coarse to fine.
      folder: local, empty of them.
      refined: their vectors stand behind compressed ones.

    Returns:
      Entries of the ids and of each level.
    """
    ids = ids_of(parts)
    np.save(folder / IDS, ids)
    dtype = np.float16 if refined else np.float32
    for column in columns:
        path = folder / f"{column}.npy"
        shape = (len(ids), EmbeddingManifest.read(parts[0]).dims[column])
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
        for block in Parts(tuple(parts), column):
            rows[np.searchsorted(ids, block.ids)] = block.vectors
        rows.flush()
    names = [IDS, *(f"{column}.npy" for column in columns)]
    first, *others = (FileEntry.of(folder / name, name, len(ids)) for name in names)
    return first, tuple(others)


def read_ids(path: Path) -> np.ndarray:
    """Item ids of a segment, int64, rising; memory-mapped.

    Raises:
      InputError: not such a file.
    """
    return _opened(path)


def read_levels(files: Sequence[tuple[Path, Sequence[Path]]], deleted: Sequence[np.ndarray] | None = None) -> Levels:
    """Opens local files, the vectors memory-mapped.

    Args:
      files: ids and vectors of each segment.
      deleted: ids in it that are no answers, likewise; None for none.

    Raises:
      InputError: one is missing, is no NumPy file, or has other rows than the ids.
    """
    numbers = [np.asarray(read_ids(ids)) for ids, _ in files]
    columns = [[_rows(path, len(ids)) for path in paths] for ids, (_, paths) in zip(numbers, files, strict=True)]
    if len(files) == 1 and (deleted is None or not len(deleted[0])):
        return Levels(numbers[0], tuple(columns[0]))
    gone = deleted or [np.empty(0, np.int64)] * len(files)
    starts = np.cumsum([0, *(len(ids) for ids in numbers)])
    live = [np.flatnonzero(~np.isin(ids, some)) for ids, some in zip(numbers, gone, strict=True)]
    ids = np.concatenate([ids[rows] for ids, rows in zip(numbers, live, strict=True)])
    places = np.concatenate([rows + start for rows, start in zip(live, starts[:-1], strict=True)])
    order = np.argsort(ids, kind="stable")
    stacked = tuple(Stacked(tuple(level), starts) for level in zip(*columns, strict=True))
    return Levels(ids[order], stacked, places[order])


def _rows(path: Path, count: int) -> np.ndarray:
    # A plain view: indexing through np.memmap itself costs more than small gathers do.
    array = np.asarray(_opened(path))
    if array.ndim != 2 or len(array) != count or array.dtype not in (np.float32, np.float16):
        raise InputError(f"{path}: expected float32 or float16 ({count}, width), got {array.dtype} {array.shape}")
    return array


def _opened(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: beside the index: {error}; remove its manifest to have it made again") from error
    return array


def open_coarse_to_fine(url: str, searcher: Searcher, *, cache: Path | None = None) -> CoarseToFine | None:
    """The search through all levels of an open index; None where the index is of the finest level already.

    Args:
      url: folder or manifest of the index, as given to `open_index`; remote files are fetched once and checked.
      searcher: that index.
      cache: see `open_index`.

    Raises:
      InputError: a file is missing or is not what the manifest says.
    """
    manifest: IndexManifest | None = searcher.manifest
    if manifest is None or manifest.levels is None:
        return None
    manifest_url = url if url.endswith(".json") else f"{url.rstrip('/')}/manifest.json"

    def local(entry: FileEntry) -> Path:
        return local_file(entry.url(manifest_url), entry, cache)

    files = [(local(one.ids), [local(entry) for entry in one.vectors]) for one in manifest.segments]
    levels = read_levels(files, searcher.deleted)
    factor = -(-manifest.levels.shortlist[0] // manifest.recall_k) if manifest.levels.refined else 1
    return through(searcher, levels, manifest.levels.shortlist, factor=factor)


def through(
    searcher: Searcher, levels: Levels, shortlist: tuple[int, ...], point: Point | None = None, *, factor: int = 1
) -> CoarseToFine:
    """A search whose first level is a FAISS index, at its tuned operating point or another."""
    return CoarseToFine(lambda queries, k: searcher.search(queries, k, point=point)[1], levels, shortlist, factor)
