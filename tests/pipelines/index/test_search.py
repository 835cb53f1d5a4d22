"""Opening and searching a finished index."""

import threading

import faiss
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.index.build import fill, train, with_ids
from pipelines.index.job import run
from pipelines.index.parts import Block
from pipelines.index.proposal import empty_index
from pipelines.index.search import Searcher, open_index, read_file
from schemas.commits import read_json
from schemas.errors import InputError


def test_the_file_opens_in_plain_faiss_with_the_same_answers(world):
    url = run(world.job, world.parts, world.queries_url)
    searcher = open_index(url)
    path = url.replace("manifest.json", "index.faiss")
    for flags in (0, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY):
        plain = faiss.read_index(path, flags)
        faiss.ParameterSpace().set_index_parameters(plain, read_json(url)["parameters"])
        scores, ids = plain.search(world.queries, 10)
        ours = searcher.search(world.queries, 10)
        np.testing.assert_array_equal(ours[1], ids)
        np.testing.assert_allclose(ours[0], scores, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["Flat", "IVF4,Flat", "HNSW4"]), st.integers(1, 60))
def test_ties_go_to_the_smaller_id_and_no_place_is_empty(seed, key, k):
    rng = np.random.default_rng(seed)
    items = rng.integers(-1, 2, (50, 3)).astype(np.float32)
    ids = rng.permutation(50).astype(np.int64)
    asked = rng.integers(-1, 2, (4, 3)).astype(np.float32)
    index = empty_index(key, 3)
    if not index.is_trained:
        train(index, items, key=key, seed=0)
    index = with_ids(index)
    fill(index, [Block(ids, items)])
    point = {"Flat": {}, "IVF4,Flat": {"nprobe": 4}, "HNSW4": {"efSearch": 64}}[key]
    scores, found = Searcher(index, point).search(asked, k)
    assert found.shape == (4, min(k, 50))
    assert (found >= 0).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())
    if key == "HNSW4":  # a graph may miss an item; what it gives is in order
        assert (np.diff(scores, axis=1) <= 0).all()
        return
    full = asked @ items.T
    for query in range(4):
        expected = sorted(zip(-full[query], ids.tolist(), strict=True))[:k]
        assert found[query].tolist() == [number for _, number in expected]


def test_one_list_probed_is_widened_until_every_place_is_filled(world):
    url = run(world.job, world.parts, world.queries_url)
    searcher = open_index(url)
    scores, ids = searcher.search(world.queries, 600, point={"nprobe": 1})
    assert ids.shape == (200, 600)
    assert (np.sort(ids, axis=1) == np.sort(world.ids)).all()
    assert np.isfinite(scores).all()


def test_threads_search_one_index_at_different_points_without_disturbing_each_other(world):
    searcher = open_index(run(world.job, world.parts, world.queries_url))
    points = [{"nprobe": 1}, {"nprobe": 16}] * 2
    expected = [searcher.search(world.queries, 5, point=point)[1] for point in points]
    wrong = []

    def work(number):
        for _ in range(20):
            if not (searcher.search(world.queries, 5, point=points[number])[1] == expected[number]).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert not (expected[0] == expected[1]).all()


def test_a_remote_index_is_fetched_once_and_checked(world, tmp_path):
    url = run(world.job, world.parts, world.queries_url)
    remote = fsspec.filesystem("memory")
    for name in ("manifest.json", "index.faiss"):
        remote.put_file(url.replace("manifest.json", name), f"/bucket/{name}")
    searcher = open_index("memory://bucket", cache=tmp_path / "cache")
    np.testing.assert_array_equal(searcher.search(world.queries, 5)[1], open_index(url).search(world.queries, 5)[1])
    remote.pipe_file("/bucket/index.faiss", b"broken")
    assert open_index("memory://bucket/manifest.json", cache=tmp_path / "cache").index.ntotal == 600
    with pytest.raises(InputError, match="content differs from its manifest"):
        open_index("memory://bucket", cache=tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_queries_and_files_that_make_no_sense_are_refused(world, tmp_path):
    url = run(world.job, world.parts, world.queries_url)
    searcher = open_index(url)
    with pytest.raises(InputError, match="k: expected 1 or more"):
        searcher.search(world.queries, 0)
    with pytest.raises(InputError, match=r"expected shape \(Q, 16\), got \(1, 3\)"):
        searcher.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(InputError, match="NaN"):
        searcher.search(np.full((1, 16), np.nan, np.float32), 1)
    assert searcher.search(world.queries[:0], 3)[1].shape == (0, 3)
    (tmp_path / "junk").write_bytes(b"version https://git-lfs")
    with pytest.raises(InputError, match="not a FAISS index"):
        read_file(tmp_path / "junk")
    path = url.replace("manifest.json", "index.faiss")
    with open(path, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputError, match="bytes, its manifest says"):
        open_index(url)
