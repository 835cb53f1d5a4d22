"""The Beam wiring: counters that add up, and a run that dies half-way."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.rerank import job as rerank
from pipelines.rerank.transforms import score_shards
from schemas.errors import ModelError
from schemas.manifests import ScoresManifest, list_manifests


def run(world):
    return rerank.run(world.job, world.plan, world.candidates, world.queries, lanes=1)


def scores_folder(world) -> Path:
    return next(Path(world.job.layout.root, "scores", "colours").iterdir())


def test_counters_account_for_every_pair(world, monkeypatch):
    counted = {}
    monkeypatch.setattr(
        "pipelines.rerank.transforms.score_shards",
        lambda *args, **kwargs: counted.update(score_shards(*args, **kwargs)) or counted,
    )
    Path(world.shards[2]).unlink()
    run(world)
    assert counted["asked"] == counted["pairs"] + counted["unscored"] == 144
    assert counted["items"] + counted["rejects"] == 24
    assert counted["shards"] == 3


def test_killed_half_way_it_goes_on_with_the_shards_that_are_missing(world, colours, monkeypatch):
    honest = colours.ColourModel.score
    calls = []

    def dies(self, texts, *seen):
        calls.append(len(texts))
        if len(calls) > 20:
            return np.full(len(texts), np.nan, np.float32)
        return honest(self, texts, *seen)

    monkeypatch.setattr(colours.ColourModel, "score", dies)
    with pytest.raises(ModelError, match="expected a finite score"):
        run(world)
    done = list_manifests(str(scores_folder(world)))
    assert 0 < len(done) < 3
    before = {url: Path(url).read_bytes() for url in done}
    monkeypatch.setattr(colours.ColourModel, "score", honest)
    run(world)
    assert len(list_manifests(str(scores_folder(world)))) == 3
    assert {url: Path(url).read_bytes() for url in done} == before
    assert sum(ScoresManifest.read(url).pairs for url in list_manifests(str(scores_folder(world)))) == 144
