"""What an index would be and cost, from numbers alone: kind, memory, disk, rows and seconds of training.

Bytes are those of FAISS's own structures. Seconds are the multiply-adds of k-means, of whole vectors and of the short
pieces that codebooks are made of, divided by what this machine does of either in a fifth of a second: to choose by and
not to promise.
"""

import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from pipelines.index.build import build_bytes, refuse, training_rows
from pipelines.index.proposal import ID_BYTES, Proposal, empty_index, propose
from pipelines.index.training import REGIONS_SEARCHED, ROTATION_POINTS, STEPS_ACROSS, TWO_STEPS_FROM
from schemas.configs import Index

CALIBRATION_S = 0.2
"""For each width."""

PART_ROWS = 10_000
"""Of the largest part, where there are none yet."""


class Estimate(NamedTuple):
    """An index that has not been built.

    Attributes:
      rows, dim: of the vectors.
      key, reason: the kind and why.
      train_rows: drawn from all of them.
      serving_bytes: of the index in memory.
      build_bytes: of the process that trains and fills it, at most.
      disk_bytes: of the index, its parts and its ids, and of whole vectors where it is refined; all stay.
      train_macs: multiply-adds of k-means.
      train_seconds: on this machine, by all its threads.
    """

    rows: int
    dim: int
    key: str
    reason: str
    train_rows: int
    serving_bytes: int
    build_bytes: int
    disk_bytes: int
    train_macs: int
    train_seconds: float


def estimate(rows: int, dim: int, config: Index, *, part_rows: int) -> Estimate:
    """The index of `rows` vectors of width `dim`.

    Args:
      part_rows: of the largest embedding part.

    Raises:
      ConfigError: the key or a size in the config cannot be understood.
      IndexBuildError: nothing fits into `max_memory` or `build_memory`; says how much would do.
    """
    proposal = propose(rows, dim, config)
    train_rows = training_rows(proposal, rows, dim, config)
    needed = build_bytes(proposal, dim, train_rows=train_rows, part_rows=part_rows)
    refuse(needed, proposal, rows, dim, config)
    work = train_work(proposal.key, dim, train_rows)
    return Estimate(
        rows=rows,
        dim=dim,
        key=proposal.key,
        reason=proposal.reason,
        train_rows=train_rows,
        serving_bytes=proposal.estimated_bytes,
        build_bytes=needed.total,
        disk_bytes=disk_bytes(proposal) + rows * (ID_BYTES + (2 * dim if config.refine else 0)),
        train_macs=sum(work.values()),
        train_seconds=sum(macs / macs_a_second(width) for width, macs in work.items()),
    )


def disk_bytes(proposal: Proposal) -> int:
    """Of the index and, where it is filled part by part, of the parts, which hold the same codes and ids again."""
    return proposal.estimated_bytes * (2 if "IVF" in proposal.key else 1)


def train_work(key: str, dim: int, rows: int) -> Counter[int]:
    """Multiply-adds of the distances that training computes, by the width of what is compared.

    iterations x rows x centroids x width. Source: FAISS's defaults, `ClusteringParameters.niter` of each part;
    `OPQMatrix.niter` rotations, each followed by `niter_pq` iterations (`niter_pq_0` the first time),
    https://github.com/facebookresearch/faiss; and `training`, for what is done otherwise there.

    Raises:
      ConfigError: FAISS does not know the key.
    """
    return +_work_of(empty_index(key, dim), rows)


def _work_of(index: Any, rows: int) -> Counter[int]:
    import faiss

    whole = faiss.downcast_index(index)
    if isinstance(whole, faiss.IndexIDMap):
        return _work_of(whole.index, rows)
    work: Counter[int] = Counter()
    if isinstance(whole, faiss.IndexPreTransform):
        for number in range(whole.chain.size()):
            work += _rotation_work(faiss.downcast_VectorTransform(whole.chain.at(number)), rows)
        return work + _work_of(whole.index, rows)
    if isinstance(whole, faiss.IndexIVF):
        work[whole.d] += whole.d * _distances(whole.nlist, rows, whole.cp)
    quantizer = getattr(whole, "pq", None)
    if quantizer is not None:
        used = min(rows, quantizer.ksub * 256)
        work[quantizer.dsub] += quantizer.cp.niter * used * quantizer.ksub * quantizer.d
    return work


def _distances(lists: int, rows: int, parameters: Any) -> int:
    """Between points and centroids, of `training.find_centroids`."""
    most: int = parameters.max_points_per_centroid
    steps: int = parameters.niter
    if lists < TWO_STEPS_FROM:
        return steps * min(rows, lists * most) * lists
    regions = round(lists**0.5)
    of_regions = (steps * min(rows, regions * most) + rows) * regions
    used = min(rows, lists * most)
    near = regions + REGIONS_SEARCHED * lists // regions
    found: int = of_regions + steps * used * lists // regions + STEPS_ACROSS * used * near
    return found


def _rotation_work(link: Any, rows: int) -> Counter[int]:
    import faiss

    if not isinstance(link, faiss.OPQMatrix):
        return Counter()
    iterations = link.niter_pq_0 + (link.niter - 1) * link.niter_pq
    used, width = min(rows, link.max_train_points, ROTATION_POINTS), link.d_out
    work = Counter({width // link.M: iterations * used * 256 * width})
    work[link.d_in] += link.niter * 2 * used * link.d_in * width
    return work


def macs_a_second(width: int) -> float:
    """Of FAISS's assignment to centroids of this width, on this machine, by all its threads."""
    import faiss

    rng = np.random.default_rng(0)
    rows, centroids = rng.random((4096, width), np.float32), rng.random((256, width), np.float32)
    index = faiss.IndexFlatL2(width)
    index.add(centroids)
    index.search(rows, 1)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < CALIBRATION_S:
        index.search(rows, 1)
        rounds += 1
    return rounds * len(rows) * len(centroids) * width / (time.perf_counter() - started)
