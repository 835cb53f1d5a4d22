"""Pairs that were scored before: taken over by text and content, whatever query and item are called now."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.embed.lanes import Lanes
from pipelines.rerank.job import run
from pipelines.rerank.known import known_scores
from pipelines.rerank.plan import ShardTask, settings_digest
from pipelines.rerank.shard import Recipe, score_shard
from schemas.layout import ScorePaths
from schemas.manifests import RankingsManifest, ScoresManifest
from schemas.parquet import read_table, write_table


@pytest.fixture
def ranked(world) -> RankingsManifest:
    return RankingsManifest.read(run(world.job, world.plan, world.candidates, world.queries, lanes=1))


def tasks(world, ranked) -> list[ShardTask]:
    """The shards as they were scored."""
    folder = Path(world.job.layout.scores(ranked.scores))
    found = []
    for path in sorted(folder.glob("*.json")):
        manifest = ScoresManifest.read(str(path))
        paths = ScorePaths.of(str(path))
        found.append(ShardTask(manifest.shard, "colours", "c", paths, manifest.pairs, manifest.settings))
    return found


def test_a_deeper_search_scores_only_what_is_new(world, colours, ranked):
    first = run(world.job, world.plan, world.candidates, world.queries, lanes=1)
    deeper = colours.find_candidates(world.job, world.plan, world.queries, 9)
    job = world.with_settings(rerank__depth=9)
    url = run(job, world.plan, deeper, world.queries, first, lanes=1)
    manifests = [ScoresManifest.read(task.paths.manifest) for task in tasks(world, RankingsManifest.read(url))]
    assert sum(manifest.pairs for manifest in manifests) == 24 * 9
    assert sum(manifest.reused for manifest in manifests) == 24 * 6
    before, after = (read_table(one.replace("manifest.json", "rankings.parquet")).to_pylist() for one in (first, url))
    scores = {(row["query_id"], row["item_id"]): row["slow_score"] for row in after}
    assert all(scores[row["query_id"], row["item_id"]] == row["slow_score"] for row in before)


def test_the_rankings_are_those_of_scoring_everything(world, colours, ranked, tmp_path):
    first = run(world.job, world.plan, world.candidates, world.queries, lanes=1)
    deeper, job = colours.find_candidates(world.job, world.plan, world.queries, 9), world.with_settings(rerank__depth=9)
    url = run(job, world.plan, deeper, world.queries, first, lanes=1)
    ours = read_table(url.replace("manifest.json", "rankings.parquet"))
    for path in (*Path(url).parent.iterdir(), *Path(job.layout.scores(RankingsManifest.read(url).scores)).iterdir()):
        path.unlink()
    again = run(job, world.plan, deeper, world.queries, lanes=1)
    assert read_table(again.replace("manifest.json", "rankings.parquet")).equals(ours)


def test_a_pair_is_known_by_text_and_content(world, ranked):
    task = tasks(world, ranked)[0]
    pairs, scores = read_table(task.paths.pairs), read_table(task.paths.data)["slow_score"].to_numpy()
    again = replace(task, earlier=task.paths)
    np.testing.assert_array_equal(known_scores(pairs, again), scores)
    order = np.random.default_rng(0).permutation(pairs.num_rows)
    np.testing.assert_array_equal(known_scores(pairs.take(order), again), scores[order])
    rows = pairs.to_pylist()
    rows[0]["text"] = "colour 123456"
    rows[1]["content_sha256"] = "0" * 64
    for row in rows:  # names that say nothing
        row["query_id"], row["item_id"] = f"new {row['query_id']}", row["item_id"] + 1
    found = known_scores(type(pairs).from_pylist(rows, schema=pairs.schema), again)
    assert np.flatnonzero(np.isnan(found)).tolist() == [0, 1]
    np.testing.assert_array_equal(found[2:], scores[2:])


def test_scores_made_otherwise_or_gone_are_not_taken(world, ranked):
    task = tasks(world, ranked)[0]
    pairs = read_table(task.paths.pairs)
    for useless in (
        replace(task, earlier=task.paths, settings="another"),
        replace(task, earlier=ScorePaths.of("/nowhere/x.json")),
        task,
    ):
        assert np.isnan(known_scores(pairs, useless)).all()
    Path(task.paths.data).unlink()
    assert np.isnan(known_scores(pairs, replace(task, earlier=task.paths))).all()
    job = world.job
    assert settings_digest(job, "a") != settings_digest(job, "b")
    assert settings_digest(job, "a") == settings_digest(world.with_settings(rerank__depth=3), "a")
    assert settings_digest(job, "a") != settings_digest(world.with_settings(embed__frames=3), "a")


def test_where_all_is_known_no_picture_is_opened(world, colours, ranked, tmp_path):
    task = tasks(world, ranked)[0]
    paths = ScorePaths.of(str(tmp_path / "other" / "s-1.json"))
    with write_table(paths.pairs, read_table(task.paths.pairs).schema) as writer:
        table = read_table(task.paths.pairs)
        writer.write({name: table.column(name).combine_chunks() for name in table.column_names})
    Path(task.url).unlink()
    scorer = colours.ColourModel(None, fingerprint="f", dtype=torch.float32, device=torch.device("cpu"))
    recipe = Recipe("f", world.job.dataset.rerank, world.job.dataset.embed)
    with Lanes(1) as lanes:
        manifest = score_shard(replace(task, paths=paths, earlier=task.paths), scorer, recipe, lanes=lanes)
    assert (manifest.pairs, manifest.reused, manifest.items, manifest.unscored) == (task.pairs, task.pairs, 0, 0)
    assert scorer.pair_evaluations == 0
