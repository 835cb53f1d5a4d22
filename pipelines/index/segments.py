"""An index in several segments that share one trained index: searched as one, without the items that are gone.

Rotation and the choice of lists are done once for a query; every segment is then searched in those lists, and the best
of all are the answer. A changed item is deleted in one segment and live in a later one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.index.exact import sort_hits
from pipelines.index.lists import map_lists
from schemas.errors import InputError

TABLE = "tombstones.parquet"
"""Columns `segment` (int32, place in the manifest) and `item_id` (int64)."""


def tombstones_schema() -> pa.Schema:
    """Arrow schema of the table of items that are no answers."""
    fields = [pa.field("segment", pa.int32(), nullable=False), pa.field("item_id", pa.int64(), nullable=False)]
    return pa.schema(fields)


class Segment(NamedTuple):
    """Some of the items.

    Attributes:
      index: FAISS's inverted file over their lists; its quantizer is that of the first segment.
      owner: what it is a part of, kept for as long.
      deleted: ids in it that are no answers, int64, rising.
      parameters: FAISS's selector of the others, and all it refers to.
    """

    index: Any
    owner: Any
    deleted: np.ndarray
    parameters: tuple[Any, ...]

    @property
    def live(self) -> int:
        """Items that may be answers."""
        return int(self.index.ntotal) - len(self.deleted)


@dataclass(frozen=True)
class Segments:
    """Several segments as one index. Searching changes nothing in it, so one serves all threads.

    Attributes:
      whole: the file of the first segment as FAISS opened it: its transforms and its quantizer serve all.
      segments: the first among them.
    """

    whole: Any
    segments: tuple[Segment, ...]

    @property
    def live(self) -> int:
        """Items that may be answers."""
        return sum(segment.live for segment in self.segments)

    def search(self, vectors: np.ndarray, k: int, point: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """The k best of all segments by the index's own scores.

        Args:
          vectors: float32 (Q, width), contiguous.
          point: operating point.

        Returns:
          scores float32, falling, and ids int64 (Q, k), equal scores by smaller id; -inf and -1 for none.
        """
        import faiss

        first = self.segments[0].index
        turned = vectors
        if isinstance(faiss.downcast_index(self.whole), faiss.IndexPreTransform):
            for number in range(self.whole.chain.size()):
                turned = self.whole.chain.at(number).apply(turned)
        nprobe = min(point["nprobe"], first.nlist)
        beam = None
        if "quantizer_efSearch" in point:
            beam = faiss.SearchParametersHNSW(efSearch=point["quantizer_efSearch"])
        near, lists = first.quantizer.search(turned, nprobe, params=beam)
        found = [_search(segment, turned, k, near, lists) for segment in self.segments]
        scores, ids = (np.concatenate([one[axis] for one in found], axis=1) for axis in (0, 1))
        scores[ids < 0] = -np.inf
        scores, ids = sort_hits(scores, ids)
        return scores[:, :k], ids[:, :k]


def _search(
    segment: Segment, vectors: np.ndarray, k: int, near: np.ndarray, lists: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    count = len(vectors)
    scores, ids = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    chosen = faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=segment.parameters[0] if segment.parameters else None)
    arrays = (faiss.swig_ptr(array) for array in (vectors, lists, near, scores, ids))
    x, assigned, distances, out_scores, out_ids = arrays
    segment.index.search_preassigned_c(count, x, k, assigned, distances, out_scores, out_ids, False, chosen)
    return scores, ids


def open_segments(whole: Any, path: Path, others: Sequence[Path], deleted: Sequence[np.ndarray]) -> Segments:
    """Opens the segments of an index.

    Args:
      whole: the first one, opened from `path`.
      others: files of the lists of the others.
      deleted: ids that are no answers, of each segment, int64.

    Raises:
      InputError: a file is damaged, or of another trained index.
    """
    import faiss

    first = faiss.extract_index_ivf(whole)
    segments = [_segment(first, whole, deleted[0])]
    for file, gone in zip(others, deleted[1:], strict=True):
        lists = map_lists(file)
        if lists.nlist != first.nlist or lists.code_size != first.code_size:
            raise InputError(f"{file}: not of the trained index in {path}; remove its manifest to have it made again")
        bare = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        inner = faiss.extract_index_ivf(bare)
        spare = faiss.IndexPreTransform(faiss.downcast_index(inner.quantizer))
        inner.own_fields, inner.quantizer, spare.own_fields = False, first.quantizer, True
        del spare  # frees it: there is one quantizer for all
        inner.replace_invlists(lists, True)
        inner.ntotal = lists.compute_ntotal()
        segments.append(_segment(inner, bare, gone))
    return Segments(whole, tuple(segments))


def _segment(index: Any, owner: Any, deleted: np.ndarray) -> Segment:
    import faiss

    gone = np.sort(deleted)
    if not len(gone):
        return Segment(index, owner, gone, ())
    listed = faiss.IDSelectorBatch(gone)
    return Segment(index, owner, gone, (faiss.IDSelectorNot(listed), listed))
