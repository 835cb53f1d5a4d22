"""Inverted lists as files: written, opened memory-mapped, merged on disk into one file that holds all it needs.

The merged file has the bytes that `faiss.write_index` gives an index filled in one process, so nobody sees how it was
made. FAISS lays the lists of a merge out on disk as they lie in that file; only what stands before them is added here.
"""

import ctypes
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from schemas.errors import IndexBuildError, InputError


def write_lists(lists: Any, path: Path) -> None:
    """Writes inverted lists alone: the quantizer is in the trained index."""
    import faiss

    writer = faiss.FileIOWriter(str(path))
    faiss.write_InvertedLists(lists, writer)
    del writer  # closes the file


def open_lists(path: Path) -> Any:
    """Inverted lists as `write_lists` or `merge_lists` wrote them, memory-mapped, read-only; unmapped when dropped.

    Raises:
      InputError: not such a file.
    """
    import faiss

    lists = map_lists(path)
    # Only an index frees lists. (Python could be told to own them, but SWIG 4 then counts its types down, to nothing.)
    lists.owner = faiss.IndexIVFFlat(faiss.IndexFlat(1), 1, lists.nlist)
    lists.owner.code_size = lists.code_size
    lists.owner.replace_invlists(lists, True)
    return lists


def map_lists(path: Path) -> Any:
    """As `open_lists`, for an index that will own them: as they are, nobody frees them.

    Raises:
      InputError: not such a file.
    """
    import faiss

    try:
        return faiss.read_InvertedLists(faiss.FileIOReader(str(path)), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise InputError(f"{path}: not inverted lists: {str(error).strip().splitlines()[-1]}") from error


def sizes_of(lists: Any) -> np.ndarray:
    """Items in each list, int64."""
    return np.fromiter((lists.list_size(number) for number in range(lists.nlist)), np.int64, lists.nlist)


def merge_lists(files: Sequence[Path], out: Path, *, index: Any, whole: bool) -> np.ndarray:
    """Merges the lists of partial indexes, each list in the order of the files.

    Memory: none that the system cannot take back; every file is mapped.

    Args:
      files: one or more, as `write_lists` wrote them.
      out: local file to be written. Beside it, for a while, one of the same size.
      index: the trained index they belong to, empty; empty again afterwards.
      whole: write the index with the lists in it; else the lists alone.

    Returns:
      Items in each list, int64.

    Raises:
      InputError: a file is damaged, or of another trained index.
      IndexBuildError: FAISS no longer writes lists the way that is known here.
    """
    import faiss

    inner = faiss.extract_index_ivf(index)
    opened = [_checked(path, inner) for path in files]
    pointers = faiss.InvertedListsPtrVector()
    for lists in opened:
        pointers.push_back(lists)
    sizes = np.sum([sizes_of(lists) for lists in opened], axis=0)
    body = out.with_name(f"{out.name}.body")
    try:
        if sizes.sum():
            merged = faiss.OnDiskInvertedLists(inner.nlist, inner.code_size, str(body))
            with _without_stdout():  # FAISS says there how far the file grows
                merged.merge_from_multiple(pointers.data(), pointers.size(), False, False)
            del merged  # unmaps it
        else:
            body.touch()
        with out.open("wb") as stream:
            if whole:
                stream.write(_before_lists(index, int(sizes.sum())))
            _write_sizes(stream, sizes, inner.code_size)
            with body.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 22)
    finally:
        body.unlink(missing_ok=True)
    return np.asarray(sizes)


def _checked(path: Path, inner: Any) -> Any:
    lists = open_lists(path)
    if lists.nlist != inner.nlist or lists.code_size != inner.code_size:
        raise InputError(
            f"{path}: {lists.nlist} lists of {lists.code_size} bytes an item, expected {inner.nlist} of "
            f"{inner.code_size}; remove it to have it made again"
        )
    return lists


def _before_lists(index: Any, rows: int) -> bytes:
    """The file of an index up to its lists, which come last in it."""
    import faiss

    inner = faiss.extract_index_ivf(index)
    try:
        index.ntotal = inner.ntotal = rows
        data: bytes = faiss.serialize_index(index).tobytes()
    finally:
        index.ntotal = inner.ntotal = 0
    empty = struct.pack("<4sQQ4sQ", b"ilar", inner.nlist, inner.code_size, b"sprs", 0)
    if not data.endswith(empty):
        raise IndexBuildError(
            f"FAISS {faiss.__version__} writes empty lists of {type(inner).__name__} in another way than is known here"
        )
    return data[: -len(empty)]


def _write_sizes(stream: BinaryIO, sizes: np.ndarray, code_size: int) -> None:
    """As FAISS does: all sizes, or where most lists are empty, number and size of the others."""
    stream.write(struct.pack("<4sQQ", b"ilar", len(sizes), code_size))
    filled = np.flatnonzero(sizes)
    if len(filled) > len(sizes) / 2:
        listed, kind = sizes, b"full"
    else:
        listed, kind = np.stack([filled, sizes[filled]], axis=1).reshape(-1), b"sprs"
    stream.write(struct.pack("<4sQ", kind, len(listed)))
    stream.write(listed.astype("<u8").tobytes())


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Nothing that C writes gets out; it writes what it has kept back when the program asks."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
        libc.fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
