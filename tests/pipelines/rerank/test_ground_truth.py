"""Which pairs are judged relevant, from small embedding tables on disk."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from pipelines.rerank import ground_truth
from pipelines.rerank.ground_truth import judge
from schemas.embeddings import schema
from schemas.manifests import Counts, EmbeddingManifest
from schemas.parquet import entry, write_table

EMPTY = {
    "metadata": "",
    "width": 1,
    "height": 1,
    "duration_s": 0.0,
    "frame_times_s": [],
    "content_sha256": "",
    "shard": "s",
}


def part(folder, name: str, rows: list[tuple[int, str, str, list[str]]]) -> str:
    """One embedded shard of (item id, key, modality, captions)."""
    with write_table(f"{folder}/{name}.parquet", schema({"embedding": 2}, encoder="e")) as writer:
        columns = {field: [EMPTY[field]] * len(rows) for field in EMPTY}
        columns |= {field: list(range(len(rows))) for field in ("position", "offset", "size")}
        for place, field in enumerate(("item_id", "key", "modality", "captions")):
            columns[field] = [row[place] for row in rows]
        writer.write(columns | {"embedding": np.ones((len(rows), 2), np.float16)})
    counts = Counts(seen=len(rows), embedded=len(rows), rejected=0, images=len(rows))
    data = entry(f"{folder}/{name}.parquet")
    url = f"{folder}/{name}.json"
    fields = {"dataset": "d", "shard": name, "shard_digest": name, "encoder": "e", "config_digest": "c"}
    EmbeddingManifest(**fields, dims={"embedding": 2}, counts=counts, data=data, rejects=data).commit(url)
    return url


def queries(*rows: tuple[str, str, list[str]]) -> pa.Table:
    return pa.table(
        {
            "query_id": pa.array([row[0] for row in rows], pa.string()),
            "text": pa.array([row[1] for row in rows], pa.string()),
            "clicked": pa.array([row[2] for row in rows], pa.list_(pa.string())),
        }
    )


@pytest.fixture
def parts(tmp_path) -> list[str]:
    first = [
        (9, "a", "image", ["A red  circle", "a dot"]),
        (3, "b", "video", []),
        (5, "c", "image", ["A dot", "a DOT"]),
    ]
    return [part(tmp_path, "one", first), part(tmp_path, "two", [(1, "d", "image", ["a red circle"])])]


def pairs(table: pa.Table) -> list[tuple]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_a_query_is_relevant_to_every_item_with_its_text_as_caption(parts):
    found = judge("captions", queries(("q1", "a dot", []), ("q2", "A RED circle", []), ("q3", "nothing", [])), parts)
    assert pairs(found) == [
        ("q1", 5, "c", "image"),
        ("q1", 9, "a", "image"),
        ("q2", 1, "d", "image"),
        ("q2", 9, "a", "image"),
    ]


def test_a_caption_that_only_contains_the_query_is_not_relevant(parts):
    assert judge("captions", queries(("q1", "red", [])), parts).num_rows == 0


def test_clicks_name_items_by_key_and_unknown_ones_are_reported(parts, caplog):
    with caplog.at_level(logging.WARNING):
        found = judge(
            "clicked", queries(("q1", "x", ["d", "b", "d"]), ("q2", "y", ["gone"]), ("q3", "z", ["b"])), parts
        )
    assert pairs(found) == [("q1", 1, "d", "image"), ("q1", 3, "b", "video"), ("q3", 3, "b", "video")]
    assert "1 of 4 clicks" in caplog.text


def test_without_ground_truth_nothing_is_read():
    assert judge("none", queries(("q1", "x", [])), ["/nowhere.json"]).num_rows == 0


@pytest.mark.parametrize("kind", ["captions", "clicked"])
def test_no_shards_and_no_queries_give_an_empty_table(parts, kind):
    assert judge(kind, queries(), parts).num_rows == 0
    assert judge(kind, queries(("q1", "a dot", ["a"])), []).num_rows == 0


def test_judgements_do_not_depend_on_how_many_names_are_picked_at_once(parts, monkeypatch):
    log = queries(("q1", "a dot", ["a", "c"]), ("q2", "a red circle", ["d", "a"]))
    whole = judge("captions", log, parts)
    monkeypatch.setattr(ground_truth, "PICKED_AT_ONCE", 3)
    assert whole.num_rows == 4
    assert judge("captions", pa.concat_tables([log.slice(0, 1), log.slice(1)]), parts).equals(whole)
