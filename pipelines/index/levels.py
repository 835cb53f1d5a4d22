"""The vectors of the levels above the index, one file a level, row-addressable: written beside it, opened mapped.

NumPy files: `ids.npy`, int64, rising; `<column>.npy` (N, d_m), rows in that order. float32 and not the float16 of the
parts where a shortlist is long: 10,000 rows of width 64 are gathered in 0.1 ms, from float16 they take 1.4 ms (one
thread, numpy 1.26). Behind compressed vectors it is short, and float16 half the disk for the same numbers.
"""

from pathlib import Path

import numpy as np

from pipelines.index.coarse_to_fine import CoarseToFine, Levels
from pipelines.index.parts import Parts
from pipelines.index.plan import IndexPlan
from pipelines.index.search import Point, Searcher, local_file
from schemas.errors import InputError
from schemas.manifests import FileEntry, IndexManifest

IDS = "ids.npy"


def write_levels(plan: IndexPlan, folder: Path) -> tuple[FileEntry, tuple[FileEntry, ...]]:
    """Writes all levels above the first into a local folder; the same bytes whatever the order of the parts.

    Memory: the ids, and one part.

    Returns:
      Entries of the ids and of each level, coarse to fine.
    """
    ids = np.sort(np.concatenate([block.ids for block in Parts(plan.part_urls, plan.levels[-1])]))
    np.save(folder / IDS, ids)
    dtype = np.float16 if plan.refined else np.float32
    for column in plan.levels[1:]:
        path = folder / f"{column}.npy"
        shape = (len(ids), plan.parts[0].dims[column])
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
        for block in Parts(plan.part_urls, column):
            rows[np.searchsorted(ids, block.ids)] = block.vectors
        rows.flush()
    names = [IDS, *(f"{column}.npy" for column in plan.levels[1:])]
    first, *others = (FileEntry.of(folder / name, name, len(ids)) for name in names)
    return first, tuple(others)


def read_levels(ids: Path, vectors: tuple[Path, ...]) -> Levels:
    """Opens local files, the vectors memory-mapped.

    Raises:
      InputError: one is missing, is no NumPy file, or has other rows than the ids.
    """
    try:
        numbers = np.load(ids)
        # A plain view: indexing through np.memmap itself costs more than small gathers do.
        arrays = tuple(np.asarray(np.load(path, mmap_mode="r")) for path in vectors)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"levels beside the index: {error}; remove its manifest to have it made again") from error
    for path, array in zip(vectors, arrays, strict=True):
        if array.ndim != 2 or len(array) != len(numbers) or array.dtype not in (np.float32, np.float16):
            raise InputError(
                f"{path}: expected float32 or float16 ({len(numbers)}, width), got {array.dtype} {array.shape}"
            )
    return Levels(numbers, arrays)


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
    folder = url.rsplit("/", 1)[0] if url.endswith(".json") else url.rstrip("/")
    entries = (manifest.levels.ids, *manifest.levels.vectors)
    ids, *vectors = (local_file(f"{folder}/{entry.name}", entry, cache) for entry in entries)
    levels = read_levels(ids, tuple(vectors))
    factor = -(-manifest.levels.shortlist[0] // manifest.recall_k) if manifest.levels.refined else 1
    return through(searcher, levels, manifest.levels.shortlist, factor=factor)


def through(
    searcher: Searcher, levels: Levels, shortlist: tuple[int, ...], point: Point | None = None, *, factor: int = 1
) -> CoarseToFine:
    """A search whose first level is a FAISS index, at its tuned operating point or another."""
    return CoarseToFine(lambda queries, k: searcher.search(queries, k, point=point)[1], levels, shortlist, factor)
