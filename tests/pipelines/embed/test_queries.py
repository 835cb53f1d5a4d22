"""The query log becomes distinct queries with vectors, once; without a log the captions are the queries."""

import dataclasses

import numpy as np
import pytest

from encoders.registry import load_dual
from pipelines.embed import job as embed_job
from pipelines.embed import queries as module
from pipelines.embed.queries import encode_texts, most_frequent, run
from schemas.configs import DatasetConfig, EncoderConfig, Queries
from schemas.errors import InputError
from schemas.jobs import Job
from schemas.manifests import QueriesManifest
from schemas.parquet import read_table, vectors
from schemas.query_logs import Query, split_of


@pytest.fixture
def job(layout, tiny_clip) -> Job:
    return Job(
        DatasetConfig(name="tests", encoder="x"), EncoderConfig(path=str(tiny_clip), dtype="float32"), None, layout
    )


@pytest.fixture
def embedded(tmp_path, kit, job):
    kit.write_tar(tmp_path / "s-0.tar", [*kit.picture_members(3), ("x.jpg", kit.jpeg(50)), ("x.txt", b" PICTURE  2 ")])
    kit.write_tar(tmp_path / "s-1.tar", kit.picture_members(3, start=10))
    return embed_job.run(job, [str(tmp_path / "s-*.tar")])


def table_of(url: str):
    return read_table(f"{url.removesuffix('.json')}.parquet")


def test_a_log_becomes_distinct_queries_with_the_models_vectors(tmp_path, job, embedded):
    log = tmp_path / "log.tsv"
    log.write_text("query_id\ttext\tcount\nq1\ta red dog\t3\nq2\tA  RED dog\t2\nq3\tthe blue car left of a dog\t1\n")
    url = run(job, embedded, str(log))
    manifest, table = QueriesManifest.read(url), table_of(url)
    assert (manifest.logged, manifest.distinct) == (3, 2)
    assert table.select(["query_id", "text", "count"]).to_pylist() == [
        {"query_id": "q1", "text": "a red dog", "count": 5},
        {"query_id": "q3", "text": "the blue car left of a dog", "count": 1},
    ]
    exact = load_dual(job.encoder, layout=job.layout).encode_text(["a red dog", "the blue car left of a dog"])
    np.testing.assert_allclose(vectors(table.column("embedding")), exact["embedding"], atol=1e-5)


def test_without_a_log_the_captions_are_the_queries(job, embedded):
    manifest_url = run(job, embedded, None)
    rows = table_of(manifest_url).select(["text", "count", "split"]).to_pylist()
    counts = {row["text"]: row["count"] for row in rows}
    assert counts == {f"picture {n}": 1 + (n == 2) for n in (0, 1, 2, 10, 11, 12)}
    assert all(row["split"] == split_of(row["text"], 0.2) for row in rows)
    assert QueriesManifest.read(manifest_url).logged == 7


def test_done_once_it_is_found_again_and_a_changed_log_is_another_table(tmp_path, job, embedded, monkeypatch):
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "a red dog"}\n')
    url = run(job, embedded, str(log))
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_texts", None)  # would fail if it were called
        assert run(job, embedded, str(log)) == url
    log.write_text('{"text": "a blue dog"}\n')
    assert run(job, embedded, str(log)) != url


def test_only_the_most_frequent_are_kept_in_the_order_of_the_log(tmp_path, job, embedded):
    log = tmp_path / "log.tsv"
    log.write_text("text\tcount\na\t1\nb\t5\nc\t9\nd\t5\n")
    limited = dataclasses.replace(job, dataset=job.dataset.model_copy(update={"queries": Queries(max_queries=2)}))
    assert table_of(run(limited, embedded, str(log))).column("text").to_pylist() == ["b", "c"]
    assert [q.text for q in most_frequent([Query(t, t, 1, (), "test") for t in "abc"], 2)] == ["a", "b"]


def test_a_missing_or_empty_log_is_named_with_the_way_out(tmp_path, job, embedded):
    with pytest.raises(InputError, match=r"nowhere.tsv: query log not found; set queries.log"):
        run(job, embedded, str(tmp_path / "nowhere.tsv"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"empty.jsonl: no query in it"):
        run(job, embedded, str(tmp_path / "empty.jsonl"))


def test_texts_of_like_length_go_together_and_come_back_in_order(kit, monkeypatch):
    monkeypatch.setattr(module, "BATCH_TEXTS", 4)
    generator = np.random.default_rng(5)
    texts = ["x" * int(n) + str(i) for i, n in enumerate(generator.integers(1, 60, 23))]
    encoder = kit.ProjectionEncoder()
    found = encode_texts(encoder, texts, lanes=3)["embedding"]
    longest = sorted(longest for _, longest in encoder.batches)
    assert longest == [max(map(len, sorted(texts, key=len)[n : n + 4])) for n in range(0, 23, 4)]
    np.testing.assert_allclose(found, encoder.encode_text(texts)["embedding"], atol=1e-6)
    np.testing.assert_array_equal(found, encode_texts(encoder, texts, lanes=1)["embedding"])
