r"""Beam wiring for reranking. The logic is in shard.py.

ShardTask --Spread--> ShardTask --Score--> str (URL of the manifest)

Pictures and scores never leave the DoFn: it writes the shard's files itself, so nothing large crosses a shuffle.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from encoders.base import PairScorer
from pipelines.embed.lanes import Lanes
from pipelines.rerank.plan import ShardTask
from pipelines.rerank.shard import Recipe, score_shard
from pipelines.runners.run import remembering_errors, run_over
from schemas.commits import exists
from schemas.jobs import Runner

COUNTED = ("pairs", "reused", "unscored", "items")


@dataclass
class ScoreShards(beam.PTransform):
    """Scores the pairs of shards, each committed on its own as soon as it is done.

    Input:  PCollection[ShardTask], bounded.
    Output: PCollection[str]: URLs of the manifests.
    Parallelism: one shard is one element; shards are spread first. Within a worker, one lane per core.
    Counters: score-shards/shards, score-shards/shards-skipped (already committed), and of the shards scored now
      score-shards/ asked = pairs + unscored, reused (of the pairs), items (encoded), rejects.
    Rerun: a shard with a manifest is skipped; a replayed element changes no byte.

    Attributes:
      recipe: what decides the scores.
      load: gives the scorer; called once in a process.
      lanes: threads; None: one per core.
    """

    recipe: Recipe
    load: Callable[[], PairScorer]
    lanes: int | None = None

    def expand(self, tasks: beam.PCollection) -> beam.PCollection:
        """Spread, then score."""
        score = _ScoreShard(self.recipe, self.load, self.lanes)
        return tasks | "Spread" >> beam.Reshuffle() | "Score" >> beam.ParDo(score).with_output_types(str)


class _ScoreShard(beam.DoFn):
    def __init__(self, recipe: Recipe, load: Callable[[], PairScorer], lanes: int | None) -> None:
        self._recipe = recipe
        self._load = load
        self._lane_count = lanes
        self._shared = Shared()

    def setup(self) -> None:
        with remembering_errors():
            self._scorer = self._shared.acquire(self._load, tag=self._recipe.scorer)
        self._lanes = Lanes(self._lane_count)

    def process(self, task: ShardTask, *_: Any) -> Iterator[str]:
        skipped = exists(task.paths.manifest)
        with remembering_errors():
            manifest = score_shard(task, self._scorer, self._recipe, lanes=self._lanes)
        _count("shards-skipped" if skipped else "shards", 1)
        if not skipped:
            _count("asked", task.pairs)
            _count("rejects", manifest.rejects.rows)
            for name in COUNTED:
                _count(name, getattr(manifest, name))
        yield task.paths.manifest

    def teardown(self) -> None:
        self._lanes.close()


def _count(name: str, number: int) -> None:
    Metrics.counter("score-shards", name).inc(number)


def score_shards(
    tasks: Sequence[ShardTask],
    recipe: Recipe,
    *,
    load: Callable[[], PairScorer],
    runner: Runner,
    lanes: int | None = None,
) -> dict[str, int]:
    """Runs `ScoreShards` over the tasks and returns its counters; arguments as there, errors as of `run_over`."""
    return run_over(tasks, ScoreShards(recipe, load, lanes), counted="score-shards", runner=runner)
