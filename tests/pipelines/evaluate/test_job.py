"""The stage on a real small world: every figure against one worked out by hand from the tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import job as evaluate
from pipelines.rerank import job as rerank
from schemas.errors import StaleError
from schemas.jobs import Job
from schemas.manifests import (
    EmbeddingManifest,
    FileEntry,
    IndexManifest,
    QueriesManifest,
    SegmentEntry,
    embedding_set_digest,
)
from schemas.parquet import read_table, vectors


def index_manifest(world, **changes) -> str:
    """What the index stage leaves, as far as evaluation reads it."""
    parts = [EmbeddingManifest.read(url) for url in world.plan.manifests]
    file = FileEntry(name="index.faiss", rows=60, size_bytes=1, sha256="-")
    fields = {
        "dataset": "colours",
        "embeddings": embedding_set_digest(parts),
        "queries": "-",
        "config_digest": "-",
        "encoder": parts[0].encoder,
        "key": "Flat",
        "parameters": "",
        "rows": 60,
        "dim": 4,
        "recall": 1.0,
        "recall_k": 10,
        "recall_target": 0.95,
        "faiss_version": "-",
        "self_recall": 1.0,
        "segments": (SegmentEntry(lists=file, ids=file, vectors=(), parts=("-",), error=None),),
        "lineage": None,
        "truth": file,
    }
    url = f"{world.job.layout.index('0' * 64)}/manifest.json"
    IndexManifest(**(fields | changes)).commit(url)
    return url


def run(world, job=None, index=None):
    job = job or world.job
    rankings = rerank.run(job, world.plan, world.candidates, world.queries, lanes=2)
    found = evaluate.run(job, world.plan, index or index_manifest(world), world.queries, rankings)
    return found, rankings.rsplit("/", 1)[0]


def best(world, folder, column):
    """Rank of the relevant item of each test query, by pandas."""
    manifest = QueriesManifest.read(world.queries)
    queries = read_table(f"{world.queries.rsplit('/', 1)[0]}/{manifest.data.name}", ["query_id", "split"]).to_pandas()
    judged = read_table(f"{folder}/judgements.parquet").to_pandas()
    rows = read_table(f"{folder}/rankings.parquet").to_pandas()
    rows["last_equal"] = rows.groupby(["query_id", "fast_score"])["fast_rank"].transform("max")
    rows = rows.merge(judged[["query_id", "item_id"]])
    ranks = rows.groupby("query_id")[column].min()
    test = queries[queries["split"] == "test"]["query_id"]
    return ranks.reindex(test).fillna(np.inf)


def test_the_figures_are_those_of_the_tables(world):
    found, folder = run(world)
    for side, column in (("fast", "fast_rank"), ("reranked", "rank")):
        ranks = best(world, folder, column)
        figures = found["text_to_image"][side]
        for k in (1, 5, 10):
            assert figures[f"R@{k}"] == pytest.approx((ranks <= k).mean(), abs=1e-6)
        assert figures["RR"] == pytest.approx((1 / ranks).mean(), abs=1e-6)
        assert figures["nDCG@10"] == pytest.approx((1 / np.log2(1 + ranks)).mean(), abs=1e-6)
        ties = best(world, folder, "last_equal") if side == "fast" else ranks  # exhaustive ranks count ties against us
        assert figures["median_rank"] == ties.median()
    gain = found["text_to_image"]["gain"]["R@1"]
    assert gain["value"] == pytest.approx(
        found["text_to_image"]["reranked"]["R@1"] - found["text_to_image"]["fast"]["R@1"], abs=2e-6
    )
    assert 0 < gain["low"] <= gain["value"] <= gain["high"]
    assert found["measured_on"] == "test"
    assert found["measured"] == len(best(world, folder, "rank"))
    assert found["pair_evaluations"] == 600


def test_reranking_cannot_exceed_the_upper_bound(world):
    found, folder = run(world)
    assert found["upper_bound"] == pytest.approx((best(world, folder, "rank") < np.inf).mean(), abs=1e-6)
    assert found["text_to_image"]["reranked"]["R@1"] <= found["upper_bound"]


def test_exhaustive_candidates_lose_nothing_to_the_index(world):
    found, _ = run(world)
    stages = {row["name"]: row for row in found["stages"]}
    assert list(stages) == ["exact", "index", "rerank", "fused"]
    assert stages["index"]["change"]["R@10"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert stages["fused"]["R@1"]["value"] == found["text_to_image"]["reranked"]["R@1"]
    lost = {row["where"]: row["queries"] for row in found["losses"]}
    assert lost["index"] == 0
    assert sum(lost.values()) == round((1 - stages["fused"]["R@1"]["value"]) * found["stage_queries"])


def test_candidates_the_index_missed_are_seen_as_lost_by_the_index(world, colours):
    whole, _ = run(world)
    world.candidates = colours.find_candidates(world.job, world.plan, world.queries, 12)
    table = read_table(f"{world.candidates.rsplit('/', 1)[0]}/candidates.parquet")
    # an index that never finds what is best
    kept = table.filter(np.asarray(table["rank"]) > 2).to_pandas()
    kept["rank"] -= 2
    write_candidates(world, kept)
    found, _ = run(world)
    lost = {row["where"]: row["queries"] for row in found["losses"]}
    assert lost["index"] >= whole["text_to_image"]["fast"]["R@1"] * whole["measured"]
    assert {row["name"]: row for row in found["stages"]}["index"]["change"]["R@1"]["value"] < 0


def write_candidates(world, frame):
    from schemas.manifests import CandidatesManifest
    from schemas.parquet import entry, write_table
    from schemas.rankings import CANDIDATES

    folder = world.job.layout.candidates("f" * 64)
    with write_table(f"{folder}/candidates.parquet", CANDIDATES) as writer:
        writer.write({name: frame[name].tolist() for name in CANDIDATES.names})
    old = CandidatesManifest.read(world.candidates)
    world.candidates = f"{folder}/manifest.json"
    old.model_copy(update={"data": entry(f"{folder}/candidates.parquet"), "depth": 10}).commit(world.candidates)


def test_image_to_text_is_that_of_the_full_matrix_and_says_that_it_is_fast_only(world):
    found, folder = run(world)
    manifest = QueriesManifest.read(world.queries)
    table = read_table(f"{world.queries.rsplit('/', 1)[0]}/{manifest.data.name}")
    judged = dict(
        zip(
            *(read_table(f"{folder}/judgements.parquet")[name].to_pylist() for name in ("item_id", "query_id")),
            strict=True,
        )
    )
    numbers = {name: row for row, name in enumerate(table["query_id"].to_pylist())}
    ranks = []
    for url in world.plan.manifests:
        part = read_table(f"{url.rsplit('/', 1)[0]}/{EmbeddingManifest.read(url).data.name}")
        scores = vectors(part["embedding"]).astype(np.float64) @ vectors(table["embedding"]).astype(np.float64).T
        for item, row in zip(part["item_id"].to_pylist(), scores, strict=True):
            own = numbers[judged[item]]
            ranks.append(1 + sum(row[other] >= row[own] - 1e-9 for other in range(60) if other != own))
    figures = found["image_to_text"]
    assert (figures["side"], figures["items"], figures["gallery"]) == ("fast", 60, 60)
    for k in (1, 5, 10):
        assert figures[f"R@{k}"] == pytest.approx(np.mean(np.array(ranks) <= k), abs=1 / 60 + 1e-6)


def test_images_and_videos_are_told_apart(world):
    found, _ = run(world)
    assert set(found["modalities"]) == {"image", "video"}
    sides = found["modalities"].values()
    assert sum(side["queries"] for side in sides) == found["measured"]
    mean = sum(side["queries"] * side["reranked"]["R@1"] for side in sides) / found["measured"]
    assert mean == pytest.approx(found["text_to_image"]["reranked"]["R@1"], abs=1e-5)


def test_a_second_run_reads_what_the_first_wrote(world, monkeypatch):
    found, folder = run(world)
    written = Path(folder, "metrics.json").read_bytes()
    monkeypatch.setattr("pipelines.evaluate.measure.measure", lambda *_: pytest.fail("measured again"))
    assert run(world)[0] == found == json.loads(written)
    assert Path(folder, "metrics.json").read_bytes() == written


def test_measured_again_the_bytes_are_the_same(world):
    _, folder = run(world)
    written = Path(folder, "metrics.json").read_bytes()
    Path(folder, "metrics.json").unlink()
    run(world)
    assert Path(folder, "metrics.json").read_bytes() == written


def test_without_a_scorer_there_is_no_reranked_side_and_all_queries_count(world):
    found, _ = run(world, Job(world.job.dataset, world.job.encoder, None, world.job.layout))
    assert set(found["text_to_image"]) == {"fast"}
    assert [row["name"] for row in found["stages"]] == ["exact", "index"]
    assert (found["measured_on"], found["measured"]) == ("all", 60)


def test_without_judgements_only_the_counts_are_there(world):
    found, _ = run(world, world.with_settings(queries__ground_truth="none"))
    assert (found["judged"], found["measured"], found["queries"]) == (0, 0, 60)
    assert "text_to_image" not in found


def test_an_index_of_another_encoder_is_refused(world):
    with pytest.raises(StaleError, match="different encoders"):
        run(world, index=index_manifest(world, encoder="other"))
