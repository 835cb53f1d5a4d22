"""The kind of index, and the errors autofaiss does not raise."""

import re

import autofaiss.external.optimize
import faiss
import numpy as np
import pytest

from pipelines.index.build import fill, train, with_ids, write
from pipelines.index.parts import Block
from pipelines.index.proposal import empty_index, estimated_bytes, human, parse_bytes, propose
from schemas.configs import Index
from schemas.errors import ConfigError, IndexBuildError


@pytest.mark.parametrize(
    ("rows", "memory", "key"),
    [
        (500, "4GB", "IVF1,Flat"),
        (2240, "4GB", "IVF256,Flat"),
        (100_000, "4GB", "IVF1024,Flat"),
        (100_000, "10MB", "OPQ64_320,IVF1024_HNSW32,PQ64x8"),
    ],
)
def test_autofaiss_proposes_and_the_whole_of_it_fits(rows, memory, key):
    proposal = propose(rows, 256, Index(max_memory=memory))
    assert proposal.estimated_bytes <= parse_bytes(memory, what="test")
    assert re.sub(r"PQ?\d+.*", "", proposal.key) == re.sub(r"PQ?\d+.*", "", key)
    assert f"{rows} vectors of width 256" in proposal.reason


@pytest.mark.parametrize(("rows", "memory"), [(100_000, "1MB"), (5000, "100KB")])
def test_too_little_memory_names_the_least_that_would_do(rows, memory):
    with pytest.raises(IndexBuildError, match="the least that would do is") as caught:
        propose(rows, 64, Index(max_memory=memory))
    least = re.search(r"would do is (\S+)$", str(caught.value))[1]
    assert propose(rows, 64, Index(max_memory=least)).estimated_bytes <= parse_bytes(least, what="test")
    less = f"{int(parse_bytes(least, what='test') * 0.9)}B"
    with pytest.raises(IndexBuildError):
        propose(rows, 64, Index(max_memory=less))


def test_a_key_from_the_config_is_checked_too():
    assert propose(1000, 16, Index(key="IVF8,SQ8")).key == "IVF8,SQ8"
    with pytest.raises(ConfigError, match="'Flt' is no FAISS factory string"):
        propose(1000, 16, Index(key="Flt"))
    with pytest.raises(ConfigError, match="IndexNSGFlat is a kind that is not supported"):
        propose(1000, 16, Index(key="NSG16"))
    with pytest.raises(IndexBuildError, match="'Flat' needs about .* raise it to"):
        propose(100_000, 256, Index(key="Flat", max_memory="1MB"))
    with pytest.raises(ConfigError, match="expected a size like 4GB, got 'much'"):
        propose(1000, 16, Index(max_memory="much"))


def test_autofaiss_failing_becomes_our_error(monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(autofaiss.external.optimize, "get_optimal_index_keys_v2", fail)
    with pytest.raises(IndexBuildError, match="autofaiss cannot propose .* ZeroDivisionError: deep inside"):
        propose(1000, 16, Index())
    monkeypatch.setattr(autofaiss.external.optimize, "get_optimal_index_keys_v2", lambda *a, **k: None)
    with pytest.raises(IndexBuildError, match="no index of 1000 vectors"):
        propose(1000, 16, Index())


@pytest.mark.parametrize(
    "key",
    ["Flat", "IVF16,Flat", "HNSW16", "IVF16,PQ8x4", "IVF16_HNSW8,PQ8x4", "SQ8", "PCA16,IVF8,SQ8", "IVF8,PQ8x4,RFlat"],
)
def test_the_estimate_is_near_the_size_of_the_file(key, tmp_path):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(4000, 64)).astype(np.float32)
    index = empty_index(key, 64)
    train(index, items[:1000], key=key, seed=0)
    index = with_ids(index)
    fill(index, [Block(np.arange(4000), items)])
    write(index, tmp_path / "index.faiss")
    assert estimated_bytes(key, 4000, 64) == pytest.approx((tmp_path / "index.faiss").stat().st_size, rel=0.06)


def test_keys_that_only_look_like_autofaiss_ones_are_built_whole():
    assert isinstance(empty_index("IVF16_HNSW32,PQ8", 64), faiss.IndexIVFPQ)  # autofaiss alone: a plain HNSW
    assert isinstance(empty_index("IVF4,Flat,RFlat", 64), faiss.IndexRefineFlat)


@pytest.mark.parametrize("size", [1, 1023, 1024, 5_000_001, 3 * 2**40 + 7])
def test_sizes_for_people_are_never_too_small(size):
    assert parse_bytes(human(size), what="test") >= size
