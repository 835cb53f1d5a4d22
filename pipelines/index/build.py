"""Builds one index in one process: train on a fair sample, fill with explicit ids, write; the same bytes again.

Memory: the index, the training sample, and one part at a time.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.index.parts import Parts, sample
from pipelines.index.plan import IndexPlan
from pipelines.index.proposal import Proposal, empty_index, estimated_bytes, human, parse_bytes, quiet_autofaiss
from pipelines.index.training import layers, threads, train
from schemas.configs import Index
from schemas.errors import IndexBuildError, LedgerError

CODEBOOK_ROWS = 10_000
"""Least sample for a quantizer: 256 centroids x 39 points, below which FAISS warns."""

POINTS_A_LIST = 39
"""FAISS's `min_points_per_centroid`."""

PROCESS_BYTES = 400 << 20
"""Of a process before it holds any vector: Python, Arrow, Beam, FAISS."""

TRAINING_BYTES = 10
"""Of a number of the sample: itself, its transformed copy, scratch."""

MAX_ROWS_WITHOUT_LISTS = 65_536
"""Sample for kinds without inverted lists: FAISS uses at most 256 points for each of 256 centroids."""


def training_rows(proposal: Proposal, rows: int, dim: int, config: Index) -> int:
    """Vectors to train on: `config.train_rows`, else autofaiss's heuristic (100 for each list).

    The heuristic gives way where the sample does not fit into `config.build_memory` beside the index, down to the 39
    for each list below which FAISS warns.
    """
    if config.train_rows is not None:
        return min(config.train_rows, rows)
    advised = min(rows, _advised(proposal.key, rows))
    room = parse_bytes(config.build_memory, what="index.build_memory") - PROCESS_BYTES - held_bytes(proposal, dim)
    lists = re.search(r"IVF(\d+)", proposal.key)
    least = max(CODEBOOK_ROWS, POINTS_A_LIST * int(lists[1]) if lists else 0)
    return min(advised, max(least, int(room // (TRAINING_BYTES * dim))))


def _advised(key: str, rows: int) -> int:
    from autofaiss.external.optimize import get_optimal_train_size

    if "IVF" not in key and "IMI" not in key:
        return MAX_ROWS_WITHOUT_LISTS
    with quiet_autofaiss():
        # No memory is passed: the result must not depend on the machine.
        return max(int(get_optimal_train_size(rows, key, None, None)), CODEBOOK_ROWS)


class BuildBytes(NamedTuple):
    """Memory of a build: what is held of the index, and the larger of the training sample and one part."""

    held: int
    training: int
    part: int

    @property
    def total(self) -> int:
        """At most in use at once."""
        return PROCESS_BYTES + self.held + max(self.training, self.part)


def held_bytes(proposal: Proposal, dim: int) -> int:
    """What a build holds of the index: its lists are files, kinds without any are held whole."""
    from pipelines.index.partial import can_be_partial

    in_lists = can_be_partial(empty_index(proposal.key, dim))
    return estimated_bytes(proposal.key, 0, dim) if in_lists else proposal.estimated_bytes


def build_bytes(proposal: Proposal, dim: int, *, train_rows: int, part_rows: int) -> BuildBytes:
    """What a build takes.

    Args:
      part_rows: of the largest part.
    """
    return BuildBytes(
        held=held_bytes(proposal, dim),
        training=train_rows * dim * TRAINING_BYTES,
        part=part_rows * dim * (2 + 4 + 4),  # float16 as read, float32 as used, at most as much again in lists
    )


def refuse(needed: BuildBytes, proposal: Proposal, rows: int, dim: int, config: Index) -> None:
    """Holds a build against `config.build_memory`, before any long work.

    Raises:
      IndexBuildError: says what the build would need.
    """
    cap = parse_bytes(config.build_memory, what="index.build_memory")
    if needed.total > cap:
        raise IndexBuildError(
            f"building {proposal.key!r} over {rows} vectors of width {dim} needs about {human(needed.total)} "
            f"(programs {human(PROCESS_BYTES)}, index {human(needed.held)}, training sample {human(needed.training)}, "
            f"part {human(needed.part)}): index.build_memory is {human(cap)}; raise it, lower index.train_rows or "
            "index.max_memory, or make smaller shards"
        )


def build(plan: IndexPlan, proposal: Proposal, *, train_rows: int, seed: int) -> Any:
    """A trained and filled FAISS index.

    Args:
      plan: its parts have been checked (`parts.check`).
      train_rows: size of the training sample.
      seed: of the sample and of clustering.

    Raises:
      IndexBuildError: FAISS cannot train this kind on these rows.
      LedgerError: it does not hold as many vectors as the manifests say.
    """
    index = empty_index(proposal.key, plan.dim)
    if not index.is_trained:
        drawn = sample(plan.part_urls, train_rows, seed=seed, level=plan.levels[0])
        train(index, drawn.vectors, key=proposal.key, seed=seed)
    index = with_ids(index)
    fill(index, Parts(plan.part_urls, plan.levels[0]))
    if index.ntotal != plan.rows:
        raise LedgerError(f"the index holds {index.ntotal} vectors, the manifests say {plan.rows}")
    return index


def with_ids(index: Any) -> Any:
    """The index itself where it stores ids, else wrapped in a map that does."""
    import faiss

    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if isinstance(inner, (faiss.IndexIVF, faiss.IndexIDMap)):
        return index
    return faiss.IndexIDMap2(index)


def fill(index: Any, parts: Parts) -> None:
    """Adds all vectors under their item ids, in the order of the parts."""
    with threads(1 if _has_graph_of_items(index) else None):
        for block in parts:
            index.add_with_ids(np.ascontiguousarray(block.vectors), block.ids)


def write(index: Any, path: Path) -> None:
    """Writes the file that `faiss.read_index` opens."""
    import faiss

    faiss.write_index(index, str(path))


def _has_graph_of_items(index: Any) -> bool:
    import faiss

    graphs = (faiss.IndexHNSW, faiss.IndexNSG, faiss.IndexNNDescent)
    return any(isinstance(layer, graphs) for layer in layers(index))
