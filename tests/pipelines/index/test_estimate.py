"""What an index would cost, against counts by hand and against the index that is really built."""

import faiss
import numpy as np
import pytest

from pipelines.index import build
from pipelines.index.estimate import estimate, train_work
from pipelines.index.proposal import propose
from pipelines.index.training import train
from schemas.configs import Index
from schemas.errors import IndexBuildError


@pytest.mark.parametrize(
    ("key", "rows", "macs"),
    [
        ("Flat", 1000, {}),
        ("IVF16,Flat", 1000, {32: 10 * 1000 * 16 * 32}),
        ("IVF16,Flat", 10_000, {32: 10 * 4096 * 16 * 32}),  # no more than 256 for each list
        ("IVF1024,Flat", 40_000, {32: 32 * ((10 * 8192 + 40_000) * 32 + 40_000 * (10 * 32 + 6 * (32 + 128)))}),
        ("PQ4", 1000, {8: 25 * 1000 * 256 * 32}),
        ("IVF16,PQ4", 1000, {32: 10 * 1000 * 16 * 32, 8: 25 * 1000 * 256 * 32}),
        (
            "OPQ4_16,IVF16,PQ4",
            1000,
            {
                4: 1000 * 16 * 256 * (40 + 49 * 4 + 25),
                32: 1000 * 16 * 50 * 2 * 32,
                16: 1000 * 16 * 10 * 16,
            },
        ),
    ],
)
def test_the_work_of_k_means_is_counted(key, rows, macs):
    assert train_work(key, 32, rows) == macs


@pytest.mark.parametrize(
    ("rows", "width", "memory", "kind"),
    [(5000, 8, "220KB", "IVF"), pytest.param(20_000, 64, "2MB", "OPQ", marks=pytest.mark.slow)],  # two minutes
)
def test_an_estimate_is_near_the_index_that_is_built(rows, width, memory, kind):
    vectors = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    found = estimate(rows, width, Index(max_memory=memory), part_rows=1000)
    assert found.key.startswith(kind)
    index = faiss.index_factory(width, found.key, faiss.METRIC_INNER_PRODUCT)
    train(index, vectors[: found.train_rows], key=found.key, seed=0)
    index.add(vectors)
    assert len(faiss.serialize_index(index)) == pytest.approx(found.serving_bytes, rel=0.1)
    assert found.disk_bytes == 2 * found.serving_bytes + 8 * rows
    assert found.train_seconds > 0


def test_the_sample_is_what_the_builder_has_room_for():
    config = Index(max_memory="4GB", build_memory="16GB")
    found = estimate(100_000_000, 512, config, part_rows=10_000)
    assert found.build_bytes <= 16 << 30
    assert (
        39 * 65_536
        < found.train_rows
        < build.training_rows(
            propose(100_000_000, 512, config), 100_000_000, 512, config.model_copy(update={"build_memory": "1TB"})
        )
    )
    with pytest.raises(IndexBuildError, match=r"index.build_memory is 12GB; raise it"):
        estimate(100_000_000, 512, config.model_copy(update={"build_memory": "12GB"}), part_rows=10_000)
