"""Regrouping candidates by shard: every pair once, with the text and place it needs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rerank import plan
from pipelines.rerank.plan import (
    fill_scores,
    locate,
    plan_shards,
    read_candidates,
    read_queries,
    rows_among,
    scores_digest,
    to_score,
)
from schemas.errors import StaleError
from schemas.manifests import CandidatesManifest
from schemas.parquet import read_table, write_table
from schemas.rankings import SCORES


@pytest.fixture
def parts(world):
    _, queries = read_queries(world.queries)
    pairs = read_candidates(
        world.candidates, CandidatesManifest.read(world.candidates), queries["query_id"].combine_chunks()
    )
    shards = [(shard.url, shard.paths.manifest) for shard in world.plan.shards]
    return queries, pairs, shards


def test_every_pair_is_planned_once_in_the_shard_of_its_picture(world, parts):
    queries, pairs, shards = parts
    places = locate(shards, np.unique(pairs.item_id))
    tasks = plan_shards(world.job, "d" * 64, "c", shards, places=places, pairs=pairs, queries=queries, settings="s")
    found = []
    for task in tasks:
        table = read_table(task.paths.pairs)
        assert table.num_rows == task.pairs
        rows = table.to_pylist()
        assert [r["position"] for r in rows] == sorted(r["position"] for r in rows)
        data = Path(task.url).read_bytes()
        for row in rows:
            assert data[row["offset"] : row["offset"] + 3] in (b"\xff\xd8\xff", b"GIF")
            found.append((row["query_id"], row["item_id"], row["text"]))
    texts = queries["text"].to_pylist()
    ids = queries["query_id"].to_pylist()
    wanted = {(ids[q], i, texts[q]) for q, i in zip(pairs.query.tolist(), pairs.item_id.tolist(), strict=True)}
    assert len(found) == len(pairs.item_id)
    assert set(found) == wanted


small = st.integers(-5, 12)
any_id = small | st.integers(-(2**63), 2**63 - 1)


@given(st.lists(any_id), st.lists(any_id))
def test_a_shards_candidates_are_those_that_numpy_finds(ids, items):
    rising = np.unique(np.array(items, np.int64))
    shard = np.array(ids, np.int64)
    np.testing.assert_array_equal(rows_among(shard, rising), np.flatnonzero(np.isin(shard, rising)))


def test_a_candidate_that_no_shard_has_is_refused(parts):
    _, pairs, shards = parts
    with pytest.raises(StaleError, match="in no shard of the plan"):
        locate(shards[:2], np.unique(pairs.item_id))


def test_candidates_of_unknown_queries_are_refused(world, parts):
    queries, _, _ = parts
    with pytest.raises(StaleError, match="not in the query table"):
        read_candidates(
            world.candidates, CandidatesManifest.read(world.candidates), queries["query_id"].combine_chunks()[1:]
        )


def test_candidates_are_the_same_however_their_file_is_cut(world, parts):
    queries, pairs, _ = parts
    manifest = CandidatesManifest.read(world.candidates)
    path = Path(world.candidates).parent / manifest.data.name
    pq.write_table(pq.read_table(path), path, row_group_size=5)
    again = read_candidates(world.candidates, manifest, queries["query_id"].combine_chunks())
    for column, before in zip(again, pairs, strict=True):
        np.testing.assert_array_equal(column, before)


def test_the_pairs_of_a_shard_are_the_same_however_many_are_written_at_once(world, parts, monkeypatch):
    queries, pairs, shards = parts
    places = locate(shards, np.unique(pairs.item_id))
    assert places.table.schema.field("key").type == pa.large_string()
    cut = pa.concat_tables([queries.slice(0, 3), queries.slice(3)])
    tables = []
    for rows, asked in ((1 << 20, queries), (1 << 20, cut), (3, cut)):
        monkeypatch.setattr(plan, "PAIRS_AT_ONCE", rows)
        kwargs = {"places": places, "pairs": pairs, "queries": asked, "settings": "s"}
        tasks = plan_shards(world.job, f"{len(tables)}" * 64, "c", shards, **kwargs)
        tables.append([read_table(task.paths.pairs) for task in tasks])
        assert all(table.schema.equals(plan.PAIRS) for table in tables[-1])
    for other in tables[1:]:
        assert all(a.equals(b) for a, b in zip(tables[0], other, strict=True))


def test_only_the_nearest_are_scored(parts):
    _, pairs, _ = parts
    near = to_score(pairs, 2)
    assert near.fast_rank.max() == 2
    assert len(near.query) == 2 * len(np.unique(pairs.query))


def test_scores_find_their_pairs_in_any_order(tmp_path, parts):
    queries, pairs, _ = parts
    ids = queries["query_id"].combine_chunks()
    generator = np.random.default_rng(0)
    rows = generator.permutation(len(pairs.item_id))[:50]
    urls = []
    for number, some in enumerate(np.split(rows, [20])):
        urls.append(f"{tmp_path}/{number}.parquet")
        with write_table(urls[-1], SCORES) as writer:
            columns = {"query_id": ids.take(pairs.query[some]), "item_id": pairs.item_id[some]}
            writer.write(columns | {"slow_score": some.astype(np.float32)})
    slow = fill_scores(pairs, urls, ids).slow
    assert np.flatnonzero(~np.isnan(slow)).tolist() == sorted(rows.tolist())
    assert slow[rows].tolist() == rows.tolist()


def test_what_changes_a_score_changes_the_name_and_what_does_not_does_not(world):
    name = scores_digest(world.job, "c", "q", "s")
    assert scores_digest(world.with_settings(rerank__beta=3.0, embed__max_reject_fraction=0.9), "c", "q", "s") == name
    others = [{"rerank__depth": 3}, {"rerank__batch_pairs": 9}, {"embed__frames": 3}, {"embed__jpeg_scaling": "exact"}]
    names = {scores_digest(world.with_settings(**other), "c", "q", "s") for other in others}
    assert len(names | {name}) == 5
