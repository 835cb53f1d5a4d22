"""Partial indexes: what one embedding part adds to a trained index, kept as sorted lists; merged, they are the index.

For kinds with inverted lists only: their entries depend on the trained index and the vector alone. Merged in the
order of the parts, they are the lists that one process would have filled, byte for byte.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.index.lists import write_lists
from pipelines.index.parts import Parts
from pipelines.index.training import quantization_error
from schemas.commits import exists, staging
from schemas.digests import digest_value
from schemas.errors import LedgerError
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest, FileEntry, PartialManifest

RECIPE = 2

ERROR_ROWS = 512
"""Of a part, at least where it has so many, whose quantization error is measured."""


class PlannedPartial(NamedTuple):
    """One partial index to be made; what a worker is sent.

    Attributes:
      part: manifest of the embedding part.
      level: vector column.
      trained: digest of the trained index.
      data, manifest: URLs of the lists, and of the commit record.
    """

    part: str
    level: str
    trained: str
    data: str
    manifest: str


def can_be_partial(index: Any) -> bool:
    """Whether all a kind keeps of its items is inverted lists, so that they can be filled apart."""
    import faiss

    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    return isinstance(inner, faiss.IndexIVF) and not isinstance(inner, faiss.IndexIVFPQR)


def plan_partials(layout: Layout, trained: str, parts: Sequence[str], level: str) -> list[PlannedPartial]:
    """The partial indexes of embedding parts, in their order, named by content."""
    planned = []
    for url in parts:
        digest = digest_value({"part": EmbeddingManifest.read(url).data.sha256, "level": level, "recipe": RECIPE})
        stem = layout.partial(trained, digest)
        planned.append(PlannedPartial(url, level, trained, f"{stem}.lists", f"{stem}.json"))
    return planned


def fill_partial(planned: PlannedPartial, empty: Any) -> PartialManifest:
    """Fills one partial index and commits it, unless that was done.

    Args:
      empty: the trained index; used as a workbench, and empty again afterwards.

    Raises:
      LedgerError: it does not hold as many vectors as the part's manifest says.
    """
    import faiss

    if exists(planned.manifest):
        return PartialManifest.read(planned.manifest)
    lists = faiss.extract_index_ivf(empty)
    rows = EmbeddingManifest.read(planned.part).data.rows
    step, errors = max(1, rows // ERROR_ROWS), []
    try:
        for block in Parts((planned.part,), planned.level):
            vectors = np.ascontiguousarray(block.vectors)
            errors.append(quantization_error(empty, vectors[::step]))
            empty.add_with_ids(vectors, block.ids)
        if lists.ntotal != rows:
            raise LedgerError(f"{planned.part}: {lists.ntotal} vectors went into its partial index, it holds {rows}")
        with staging() as folder:
            local = folder / "lists"
            write_lists(lists.invlists, local)
            return PartialManifest(
                part=EmbeddingManifest.read(planned.part).data.sha256,
                trained=planned.trained,
                error=round(float(np.mean(errors)), 6) if errors else 0.0,
                data=FileEntry.of(local, planned.data, rows),
            ).commit_unit(planned.manifest, {local: planned.data}, subject=f"partial index of {planned.part}")
    finally:
        empty.reset()


def data_of(planned: PlannedPartial, cache: Path | None = None) -> Path:
    """Where a finished partial index lies on this machine; a remote one is fetched once and checked."""
    from pipelines.index.search import local_file

    return local_file(planned.data, PartialManifest.read(planned.manifest).data, cache)
