r"""Beam wiring for embedding. The logic is in shard.py.

PlannedShard --Spread--> PlannedShard --Embed--> str (URL of the manifest)

Vectors and pixels never leave the DoFn: it writes the shard's files itself, so nothing large crosses a shuffle.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from encoders.base import DualEncoder
from pipelines.embed.lanes import Lanes
from pipelines.embed.plan import PlannedShard, Recipe
from pipelines.embed.shard import embed_shard
from pipelines.runners.run import remembering_errors, run_over
from schemas.commits import exists
from schemas.jobs import Runner

COUNTED = ("seen", "embedded", "rejected", "images", "videos", "caption_errors", "ignored_members")


@dataclass
class EmbedShards(beam.PTransform):
    """Embeds shards, each committed on its own as soon as it is done.

    Input:  PCollection[PlannedShard], bounded.
    Output: PCollection[str]: URLs of the manifests.
    Parallelism: one shard is one element; shards are spread first. Within a worker, one lane per core.
    Counters: embed-shards/shards, embed-shards/shards-skipped (already committed), and of the shards embedded now
      embed-shards/ seen = embedded + rejected, images, videos, caption_errors, ignored_members; reused, of the
      embedded those whose vectors were taken over.
    Rerun: a shard with a manifest is skipped; a replayed element changes no byte.

    Attributes:
      recipe: what decides the bytes.
      load: gives the encoder; called once in a process.
      lanes: threads; None: one per core.
    """

    recipe: Recipe
    load: Callable[[], DualEncoder]
    lanes: int | None = None

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        """Spread, then embed."""
        embed = _EmbedShard(self.recipe, self.load, self.lanes)
        return shards | "Spread" >> beam.Reshuffle() | "Embed" >> beam.ParDo(embed).with_output_types(str)


class _EmbedShard(beam.DoFn):
    def __init__(self, recipe: Recipe, load: Callable[[], DualEncoder], lanes: int | None) -> None:
        self._recipe = recipe
        self._load = load
        self._lane_count = lanes
        self._shared = Shared()

    def setup(self) -> None:
        with remembering_errors():
            self._encoder = self._shared.acquire(self._load, tag=self._recipe.encoder)
        self._lanes = Lanes(self._lane_count)

    def process(self, shard: PlannedShard, *_: Any) -> Iterator[str]:
        skipped = exists(shard.paths.manifest)
        with remembering_errors():
            manifest, reused = embed_shard(shard, self._encoder, self._recipe, lanes=self._lanes)
        _count("shards-skipped" if skipped else "shards", 1)
        if not skipped:
            for name in COUNTED:
                _count(name, getattr(manifest.counts, name))
            _count("reused", reused)
        yield shard.paths.manifest

    def teardown(self) -> None:
        self._lanes.close()


def _count(name: str, number: int) -> None:
    Metrics.counter("embed-shards", name).inc(number)


def embed_shards(
    shards: Sequence[PlannedShard],
    recipe: Recipe,
    *,
    load: Callable[[], DualEncoder],
    runner: Runner,
    lanes: int | None = None,
) -> dict[str, int]:
    """Runs `EmbedShards` over the shards and returns its counters; arguments as there, errors as of `run_over`."""
    return run_over(shards, EmbedShards(recipe, load, lanes), counted="embed-shards", runner=runner)
