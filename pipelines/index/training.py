"""Trains an index on a sample: rotation, centroids, codebooks; the same bytes for a seed, on any number of threads.

Two things differ from `index.train` of FAISS, whose time they would take most of:

- Many centroids are found in two steps, those of sqrt(lists) regions first and then each region's own, as
  `faiss.contrib.clustering.two_level_clustering` does; then a few steps of k-means over all, in which the nearest
  centroid is looked for in the nearest regions. The distances computed grow with lists^1.5 and not with lists^2.
- The rotation of OPQ is learnt from 64 points a centroid and not 256.

docs/index.md has what either costs in recall. Measured with FAISS 1.13.2: k-means, PQ training and filling give the
same bytes with one and two threads; building an HNSW graph does not promise that, so graphs are built on one thread.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from schemas.errors import IndexBuildError

log = logging.getLogger(__name__)

TWO_STEPS_FROM = 1024
"""Lists from which centroids are found in two steps."""

REGIONS_SEARCHED = 4
"""For the nearest centroid of a point, in the steps that let it cross from its region into another."""

STEPS_ACROSS = 6

ROTATION_POINTS = 64 * 256
"""For the rotation of OPQ: 64 for each of 256 centroids, 25 above the number below which FAISS warns."""


def train(index: Any, vectors: np.ndarray, *, key: str, seed: int) -> None:
    """Trains in place.

    Args:
      vectors: float32 (rows, width).

    Raises:
      IndexBuildError: too few rows for the key, or a kind FAISS cannot train.
    """
    log.info("training %s on %d vectors", key, len(vectors))
    _seed(index, seed)
    try:
        _train_rotation_and_centroids(index, vectors)
        index.train(vectors)  # finds those ready and trains the rest
    except RuntimeError as error:
        raise IndexBuildError(
            f"FAISS cannot train {key!r} on {len(vectors)} vectors of width {vectors.shape[1]}: "
            f"{str(error).strip().splitlines()[-1]}; choose a smaller index.key or auto"
        ) from error


def quantization_error(index: Any, vectors: np.ndarray) -> float:
    """Mean squared distance, of vectors of norm 1, between what is stored of them and themselves, 0 to 4.

    For kinds with inverted lists; nothing is added.

    Args:
      vectors: float32 (rows, width).
    """
    stored = index.sa_decode(index.sa_encode(vectors))
    return round(float(((stored - vectors) ** 2).sum(axis=1).mean()), 6)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """FAISS's threads within the block; None leaves them as they are."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def layers(index: Any) -> Sequence[Any]:
    """The index and all it is made of, from the outside in."""
    import faiss

    whole = faiss.downcast_index(index)  # not rebound: the caller may hold no other reference
    inner = []
    if isinstance(whole, (faiss.IndexIDMap, faiss.IndexPreTransform)):
        inner = [whole.index]
    elif isinstance(whole, faiss.IndexRefine):
        inner = [whole.base_index, whole.refine_index]
    return [whole, *(layer for each in inner for layer in layers(each))]


def _seed(index: Any, seed: int) -> None:
    for layer in layers(index):
        for owner in (layer, getattr(layer, "pq", None)):
            clustering = getattr(owner, "cp", None)
            if clustering is not None:
                clustering.seed = seed + 1  # FAISS takes any int; 0 is ours to use
                clustering.min_points_per_centroid = 1  # else it writes to stderr; the sample's size is recorded


def _train_rotation_and_centroids(index: Any, vectors: np.ndarray) -> None:
    """What `index.train` would begin with; the graph of an `IVF<n>_HNSW<m>` kind on one thread."""
    import faiss

    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        for number in range(inner.chain.size()):
            link = faiss.downcast_VectorTransform(inner.chain.at(number))
            if isinstance(link, faiss.OPQMatrix):
                link.max_train_points = min(link.max_train_points, ROTATION_POINTS)
            if not link.is_trained:
                link.train(vectors)
            vectors = link.apply(vectors)
        inner = faiss.downcast_index(inner.index)
    if not isinstance(inner, faiss.IndexIVF):
        return
    quantizer = faiss.downcast_index(inner.quantizer)
    graph = isinstance(quantizer, faiss.IndexHNSWFlat)
    if not (graph or isinstance(quantizer, faiss.IndexFlat)) or quantizer.ntotal:
        return
    centroids = find_centroids(vectors, inner.nlist, inner.cp, inner.metric_type)
    with threads(1 if graph else None):
        quantizer.add(centroids)
    quantizer.is_trained = True


def find_centroids(vectors: np.ndarray, count: int, parameters: Any, metric: int) -> np.ndarray:
    """k-means, in two steps from `TWO_STEPS_FROM` centroids on; float32 (count, width).

    Args:
      vectors: float32 (rows, width).
      parameters: FAISS's ClusteringParameters.
      metric: FAISS's metric type.

    Raises:
      RuntimeError: fewer vectors than centroids.
    """
    if count < TWO_STEPS_FROM or len(vectors) < count:
        return _k_means(vectors, count, parameters, metric)[0]
    regions, assigner = _k_means(vectors, round(count**0.5), parameters, metric)
    owner = assigner.search(vectors, 1)[1][:, 0]
    order, sizes = np.argsort(owner, kind="stable"), np.bincount(owner, minlength=len(regions))
    found, start = [], 0
    for size, share in zip(sizes.tolist(), deal(sizes, count).tolist(), strict=True):
        if share:
            found.append(_k_means(vectors[order[start : start + size]], share, parameters, metric)[0])
        start += size
    return _across_borders(np.concatenate(found), vectors, regions, parameters, metric)


def _across_borders(
    centroids: np.ndarray, vectors: np.ndarray, regions: np.ndarray, parameters: Any, metric: int
) -> np.ndarray:
    """Further steps of k-means, in which a point may go to a centroid of any region near it."""
    import faiss

    width = vectors.shape[1]
    quantizer = faiss.IndexFlat(width, metric)
    quantizer.add(regions)
    near = faiss.IndexIVFFlat(quantizer, width, len(regions), metric)
    near.nprobe = REGIONS_SEARCHED
    few = faiss.ClusteringParameters()
    few.niter, few.spherical, few.seed = STEPS_ACROSS, parameters.spherical, parameters.seed
    few.min_points_per_centroid, few.max_points_per_centroid = 1, parameters.max_points_per_centroid
    clustering = faiss.Clustering(width, len(centroids), few)
    faiss.copy_array_to_vector(centroids.reshape(-1), clustering.centroids)
    clustering.train(vectors, near)
    return np.asarray(faiss.vector_to_array(clustering.centroids).reshape(centroids.shape))


def deal(sizes: np.ndarray, count: int) -> np.ndarray:
    """Centroids for each region, in proportion to its points, by largest remainders; never more than points.

    >>> deal(np.array([6, 0, 3, 1]), 5).tolist()
    [3, 0, 2, 0]

    Args:
      sizes: int64, points of each region, `count` at least in all.
    """
    exact = sizes * (count / sizes.sum())
    shares: np.ndarray = np.floor(exact).astype(np.int64)
    left = count - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    return shares


def _k_means(vectors: np.ndarray, count: int, parameters: Any, metric: int) -> tuple[np.ndarray, Any]:
    """Centroids float32 (count, width), and a flat index of them."""
    import faiss

    flat = faiss.IndexFlat(vectors.shape[1], metric)
    if faiss.get_num_gpus():  # of a FAISS built for GPUs; faiss-cpu has none
        flat = faiss.index_cpu_to_all_gpus(flat)
    clustering = faiss.Clustering(vectors.shape[1], count, parameters)
    clustering.train(vectors, flat)
    return np.asarray(faiss.vector_to_array(clustering.centroids).reshape(count, -1)), flat
