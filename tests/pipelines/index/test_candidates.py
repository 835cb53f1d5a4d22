"""The candidates stage against a whole sort."""

import numpy as np
import pytest

from pipelines.index import candidates
from pipelines.index.job import run
from schemas.errors import StaleError
from schemas.manifests import CandidatesManifest
from schemas.parquet import read_table
from schemas.rankings import CANDIDATES


def table_of(url):
    return read_table(url.replace("manifest.json", "candidates.parquet"))


def test_exhaustive_candidates_are_the_whole_sort_in_order(world, oracle):
    job = world.with_index(key="Flat")
    index = run(job, world.parts, world.queries_url)
    url = candidates.run(job, world.parts, index, world.queries_url)
    table = table_of(url)
    scores, ids = oracle(world.ids, world.vectors, world.queries, 12)
    assert table.schema.equals(CANDIDATES)
    assert table["item_id"].to_pylist() == ids.reshape(-1).tolist()
    np.testing.assert_array_equal(table["fast_score"].to_numpy(), scores.reshape(-1))
    assert table["rank"].to_pylist() == list(range(1, 13)) * 200
    assert table["query_id"].to_pylist() == [f"q{i}" for i in range(200) for _ in range(12)]
    manifest = CandidatesManifest.read(url)
    assert (manifest.depth, manifest.data.rows) == (12, 2400)


def test_compressed_kinds_still_give_exact_scores_in_exact_order(world):
    job = world.with_index(key="IVF8,PQ8x4", recall_target=0.3)
    index = run(job, world.parts, world.queries_url)
    table = table_of(candidates.run(job, world.parts[::-1], index, world.queries_url))
    where = {number: row for row, number in enumerate(world.ids.tolist())}
    rows = [where[number] for number in table["item_id"].to_pylist()]
    queries = np.repeat(world.queries, 12, axis=0).astype(np.float64)
    expected = (queries * world.vectors[rows]).sum(axis=1)
    np.testing.assert_allclose(table["fast_score"].to_numpy(), expected, atol=1e-6)
    assert (np.diff(table["fast_score"].to_numpy().reshape(200, 12), axis=1) <= 0).all()


def test_a_rerun_finds_them_there_and_fewer_items_than_depth_are_all_given(make):
    world = make(rows=6, queries=60, key="Flat")
    index = run(world.job, world.parts, world.queries_url)
    url = candidates.run(world.job, world.parts, index, world.queries_url)
    assert table_of(url).num_rows == 60 * 6
    path = url.replace("manifest.json", "candidates.parquet")
    __import__("os").unlink(path)
    assert candidates.run(world.job, world.parts, index, world.queries_url) == url
    assert not __import__("os").path.exists(path)


def test_an_index_of_other_parts_is_stale(world):
    index = run(world.job, world.parts, world.queries_url)
    with pytest.raises(StaleError, match="built of other embedding parts"):
        candidates.run(world.job, world.parts[:2], index, world.queries_url)
