"""Training: many centroids in two steps against k-means over all of them, the same bytes on any number of threads."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.index import training
from tests.pipelines.index.conftest import unit


def clustered(rows: int, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, dim))
    return unit(centres[rng.integers(0, 300, rows)] + 0.6 * rng.normal(size=(rows, dim)))


def parameters(**settings: int) -> faiss.ClusteringParameters:
    found = faiss.ClusteringParameters()
    found.niter, found.spherical, found.seed, found.min_points_per_centroid = 10, True, 1, 1
    for name, value in settings.items():
        setattr(found, name, value)
    return found


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(sum), share=st.floats(0.01, 1))
def test_every_centroid_is_dealt_and_no_region_gets_more_than_it_has_points(sizes, share):
    points = np.array(sizes, np.int64)
    count = max(1, int(points.sum() * share))
    shares = training.deal(points, count)
    assert shares.sum() == count
    assert (shares >= 0).all()
    assert (shares <= points).all()
    assert (np.abs(shares - points * count / points.sum()) < 1 + 1e-9).all()


def test_two_steps_lose_little_against_k_means_over_all():
    vectors, count = clustered(40_000), training.TWO_STEPS_FROM

    def inertia(centroids: np.ndarray) -> float:
        """Mean cosine to the nearest centroid; what spherical k-means maximises."""
        assert centroids.shape == (count, 16)
        flat = faiss.IndexFlatIP(16)
        flat.add(np.ascontiguousarray(centroids))
        return float(flat.search(vectors, 1)[0].mean())

    ours = inertia(training.find_centroids(vectors, count, parameters(), faiss.METRIC_INNER_PRODUCT))
    whole = faiss.Clustering(16, count, parameters())
    whole.train(vectors, faiss.IndexFlatIP(16))
    theirs = inertia(faiss.vector_to_array(whole.centroids).reshape(count, 16))
    drawn = inertia(vectors[:count])
    assert ours > drawn
    assert theirs - ours < 0.1 * (theirs - drawn)


@pytest.mark.parametrize("key", ["IVF1024,Flat", pytest.param("OPQ4_16,IVF1024_HNSW8,PQ4x4", marks=pytest.mark.slow)])
def test_the_same_bytes_on_one_thread_and_two(key):
    vectors, found = clustered(12_000), []
    for count in (1, 2):
        index = faiss.index_factory(16, key, faiss.METRIC_INNER_PRODUCT)
        with training.threads(count):
            training.train(index, vectors, key=key, seed=0)
        found.append(faiss.serialize_index(index).tobytes())
    assert found[0] == found[1]


def test_the_quantization_error_is_the_distance_to_what_is_stored():
    vectors = clustered(2_000)
    index = faiss.index_factory(16, "OPQ4_16,IVF8,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    training.train(index, vectors, key="key", seed=0)
    index.add(vectors)
    faiss.extract_index_ivf(index).make_direct_map()
    stored = np.stack([index.reconstruct(row) for row in range(100)])
    expected = ((stored - vectors[:100]) ** 2).sum(axis=1).mean()
    assert training.quantization_error(index, vectors[:100]) == pytest.approx(expected, abs=1e-5)
    whole = faiss.index_factory(16, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    training.train(whole, vectors, key="key", seed=0)
    assert training.quantization_error(whole, vectors[:100]) == 0
