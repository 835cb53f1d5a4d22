"""One shard's commit: bytes, skips, races and models that changed under way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.embed.lanes import Lanes
from pipelines.rerank.plan import locate, plan_shards, read_candidates, read_queries
from pipelines.rerank.shard import Recipe, score_shard
from schemas.errors import StaleError
from schemas.manifests import CandidatesManifest, ScoresManifest
from schemas.parquet import read_table


@pytest.fixture
def task(world):
    _, queries = read_queries(world.queries)
    ids = queries["query_id"].combine_chunks()
    pairs = read_candidates(world.candidates, CandidatesManifest.read(world.candidates), ids)
    shards = [(shard.url, shard.paths.manifest) for shard in world.plan.shards]
    places = locate(shards, np.unique(pairs.item_id))
    return plan_shards(world.job, "d" * 64, "c", shards, places=places, pairs=pairs, queries=queries, settings="s")[0]


@pytest.fixture
def model(colours):
    return colours.ColourModel(None, fingerprint="f", dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def recipe(world):
    return Recipe("f", world.job.dataset.rerank, world.job.dataset.embed)


def score(task, model, recipe, lanes=1) -> ScoresManifest:
    with Lanes(lanes) as some:
        return score_shard(task, model, recipe, lanes=some)


def test_the_ledger_adds_up_and_scores_are_in_the_order_of_the_pairs(task, model, recipe):
    manifest = score(task, model, recipe)
    asked, scored = read_table(task.paths.pairs), read_table(task.paths.data)
    assert manifest.pairs + manifest.unscored == task.pairs == asked.num_rows
    assert (manifest.items, manifest.rejects.rows, manifest.unscored) == (8, 0, 0)
    assert scored.select(["query_id", "item_id"]).equals(asked.select(["query_id", "item_id"]))


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_number_of_lanes_changes_no_byte(task, model, recipe, lanes):
    score(task, model, recipe, lanes)
    ours = Path(task.paths.data).read_bytes()
    for path in (task.paths.data, task.paths.rejects, task.paths.manifest):
        Path(path).unlink()
    score(task, model, recipe, 2)
    assert Path(task.paths.data).read_bytes() == ours


def test_each_text_of_a_shard_is_read_once_if_so_many_may_be_kept(task, model, recipe):
    score(task, model, recipe)
    ours, texts = read_table(task.paths.data), set(read_table(task.paths.pairs)["query_id"].to_pylist())
    assert model.texts_read == len(texts) < task.pairs
    for path in (task.paths.data, task.paths.rejects, task.paths.manifest):
        Path(path).unlink()
    model.texts_read = 0
    few = replace(recipe, rerank=recipe.rerank.model_copy(update={"cached_texts": len(texts) - 1}))
    score(task, model, few)
    assert model.texts_read == task.pairs
    assert read_table(task.paths.data).equals(ours)


def test_a_committed_shard_is_not_scored_again(task, model, recipe):
    first = score(task, model, recipe)
    model.pair_evaluations = 0
    assert score(task, model, recipe) == first
    assert model.pair_evaluations == 0


def test_another_scorer_than_planned_is_refused(task, model, recipe):
    model.fingerprint = "another"
    with pytest.raises(StaleError, match="planned for scorer f"):
        score(task, model, recipe)
    assert not Path(task.paths.manifest).exists()


def test_a_race_that_is_lost_to_other_bytes_is_an_error(task, model, recipe, monkeypatch):
    honest = type(model).score

    def slower(self, texts, cache, *read):
        if not Path(task.paths.manifest).exists():  # another device commits while this one works
            monkeypatch.setattr(type(model), "score", lambda *a: honest(*a) + np.float32(1))
            score(task, model, recipe)
            monkeypatch.setattr(type(model), "score", slower)
        return honest(self, texts, cache, *read)

    monkeypatch.setattr(type(model), "score", slower)
    with pytest.raises(StaleError, match="another worker committed other bytes"):
        score(task, model, recipe)


def test_a_broken_picture_is_one_reject_with_its_place(task, model, recipe):
    rows = read_table(task.paths.pairs).to_pylist()
    row = rows[0]
    with open(task.url, "r+b") as stream:  # noqa: PTH123
        stream.seek(row["offset"])
        stream.write(bytes(8))
    manifest = score(task, model, recipe)
    (reject,) = read_table(task.paths.rejects).to_pylist()
    assert (reject["key"], reject["position"], reject["offset"]) == (row["key"], row["position"], row["offset"])
    assert (reject["stage"], reject["error"], reject["shard"]) == ("rerank", "PictureChanged", "colours-0.tar")
    assert manifest.unscored == sum(other["item_id"] == row["item_id"] for other in rows)
