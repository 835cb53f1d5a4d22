"""Answers of a real small generation: those of the batch job, from any number of threads, with a sheet to look at."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipelines.search import CELL, Answer, contact_sheet, open_generation, read_generation
from schemas.errors import ConfigError, InputError, StaleError
from schemas.layout import Layout
from schemas.parquet import read_table, vectors


@pytest.fixture
def snapshot(published_world):
    return open_generation(published_world.layout)


@pytest.fixture
def log(published_world):
    """The query table."""
    return read_table(published_world.world.queries.removesuffix(".json") + ".parquet")


def test_the_vector_of_a_text_is_that_of_the_batch_job(snapshot, log):
    found = np.concatenate([snapshot.encode(text) for text in log.column("text").to_pylist()])
    np.testing.assert_allclose(found, vectors(log.column("embedding")), atol=1e-6)


def test_answers_are_the_rankings_of_the_batch_job(snapshot, log, published_world):
    rankings = read_table(f"{published_world.rankings_folder}/rankings.parquet").to_pylist()
    for query in log.slice(0, 12).to_pylist():
        rows = sorted((row for row in rankings if row["query_id"] == query["query_id"]), key=lambda row: row["rank"])
        answers = snapshot.answer(query["text"], k=10)
        assert [answer.rank for answer in answers] == list(range(1, 11))
        assert [answer.key for answer in answers] == [row["key"] for row in rows]
        for name in ("fast_score", "slow_score", "score"):
            found = [getattr(answer, name) for answer in answers]
            np.testing.assert_allclose(found, [row[name] for row in rows], atol=1e-5)


def test_from_coarse_to_fine_answers_are_those_of_the_batch_job_too(published_levels_world):
    snapshot = open_generation(published_levels_world.layout)
    assert snapshot.levels is not None
    assert snapshot.published.index.levels.columns == ("embedding_2", "embedding")
    rankings = read_table(f"{published_levels_world.rankings_folder}/rankings.parquet").to_pylist()
    log = read_table(published_levels_world.world.queries.removesuffix(".json") + ".parquet")
    for query in log.slice(0, 12).to_pylist():
        rows = sorted((row for row in rankings if row["query_id"] == query["query_id"]), key=lambda row: row["rank"])
        answers = snapshot.answer(query["text"], k=10)
        assert [answer.key for answer in answers] == [row["key"] for row in rows]
        for name in ("fast_score", "slow_score", "score"):
            found = [getattr(answer, name) for answer in answers]
            np.testing.assert_allclose(found, [row[name] for row in rows], atol=1e-5)
    assert len({answer.key for answer in snapshot.answer("colour 40c060", k=500)}) == 60


def test_without_reranking_the_fast_order_is_given(snapshot, log, published_world):
    rankings = read_table(f"{published_world.rankings_folder}/rankings.parquet").to_pylist()
    query = log.slice(3, 1).to_pylist()[0]
    rows = [row for row in rankings if row["query_id"] == query["query_id"]]
    answers = snapshot.answer(query["text"], k=4, rerank=False)
    assert [a.key for a in answers] == [row["key"] for row in sorted(rows, key=lambda row: row["fast_rank"])][:4]
    assert [a.slow_score for a in answers] == [None] * 4
    assert [a.score for a in answers] == [a.fast_score for a in answers]


def test_what_lies_below_the_depth_follows_unscored(snapshot):
    answers = snapshot.answer("colour 40c060", k=25)
    assert len(answers) == 25
    assert [a.slow_score is None for a in answers] == [False] * 10 + [True] * 15
    tail = [a.fast_score for a in answers[10:]]
    assert tail == sorted(tail, reverse=True)


def test_more_answers_than_items_gives_every_item_once(snapshot):
    answers = snapshot.answer("colour 40c060", k=500)
    assert len({a.key for a in answers}) == len(answers) == 60


def test_white_space_around_a_text_changes_nothing(snapshot):
    assert snapshot.answer("  colour 40c060\n") == snapshot.answer("colour 40c060")


@pytest.mark.parametrize(("text", "k", "message"), [("  \t", 3, "expected a text"), ("colour 000000", 0, "1 or more")])
def test_questions_that_make_no_sense_are_refused(snapshot, text, k, message):
    with pytest.raises(ConfigError, match=message):
        snapshot.answer(text, k)


def test_threads_get_the_same_answers(snapshot, log):
    texts = log.column("text").to_pylist()[:8]
    alone = [snapshot.answer(text, 5) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: snapshot.answer(text, 5), texts)) == alone


def test_an_answer_takes_well_under_a_second(snapshot):
    snapshot.answer("colour 40c060")
    times = []
    for number in range(5):
        started = time.perf_counter()
        snapshot.answer(f"colour {number:02x}c060")
        times.append(time.perf_counter() - started)
    assert min(times) < 1.0


def test_the_model_must_be_the_one_the_index_was_made_with(published_world, monkeypatch):
    from pipelines.index import search

    other = search.IndexManifest.read
    monkeypatch.setattr(
        "pipelines.evaluate.published.IndexManifest.read",
        lambda url: other(url).model_copy(update={"encoder": "f" * 64}),
    )
    with pytest.raises(StaleError, match="made with ffffffffffffffff; scores would not be comparable"):
        open_generation(published_world.layout)


def test_nothing_published_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="nothing is published yet; run: fastslow reindex demo"):
        read_generation(Layout(str(tmp_path), "demo"))


def test_a_generation_is_found_by_number(published_world):
    assert read_generation(published_world.layout, 1) == published_world.generation
    with pytest.raises(InputError, match="no generation 7; there are 1"):
        read_generation(published_world.layout, 7)


def test_the_contact_sheet_shows_the_answers_in_order(snapshot, published_world):
    answers = snapshot.answer("colour 40c060", k=7)
    sheet = Image.open(io.BytesIO(snapshot.contact_sheet(answers)))
    assert sheet.format == "PNG"
    assert sheet.size == (5 * (CELL[0] + 14) + 14, 2 * (CELL[1] + 58 + 14) + 14)
    for number, answer in enumerate(answers):
        left, top = 14 + number % 5 * (CELL[0] + 14), 14 + number // 5 * (CELL[1] + 72)
        found = np.array(sheet.getpixel((left + CELL[0] // 2, top + CELL[1] // 2)))
        assert np.abs(found - published_world.module.colour_of(answer.captions[0]) * 255).max() < 30


def test_hostile_and_missing_things_still_make_a_sheet():
    hostile = Answer(1, 1, "k" * 5000, "s.tar", "image", ("\u202e<b>\n\x00" * 500,), 0.5, None, 0.5)
    plain = Answer(2, 2, "key", "s.tar", "video", (), 0.5, 1.0, 1.5)
    tall = np.zeros((198, 1, 3), np.uint8)
    assert Image.open(io.BytesIO(contact_sheet([hostile, plain], [None, tall]))).size[0] == 2 * (CELL[0] + 14) + 14
    assert Image.open(io.BytesIO(contact_sheet([], []))).size[0] > 0


def test_an_answer_is_plain_values_for_json():
    answer = Answer(1, 9, "key", "s.tar", "image", ("a",), 0.5, None, 0.5)
    assert answer.as_dict() == {
        "rank": 1,
        "item_id": 9,
        "key": "key",
        "shard": "s.tar",
        "modality": "image",
        "captions": ("a",),
        "fast_score": 0.5,
        "slow_score": None,
        "score": 0.5,
    }
