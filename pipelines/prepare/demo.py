"""The demo dataset: scenes as JPEGs, clips as MP4s, and a query log of their captions."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import simplejpeg

from pipelines.prepare import clips, scenes
from pipelines.prepare.clips import Clip
from pipelines.prepare.gallery import FAMILY, gallery_clips, gallery_scenes
from pipelines.prepare.scenes import Scene
from pipelines.prepare.shard_writer import Packed, Progress, ShardPlan, prepared_folder, write_folder
from schemas.configs import PrepareDemo
from schemas.layout import Layout
from schemas.manifests import PreparedManifest

SIZE = 128
"""Pixels a side, of images and clips."""

QUALITY = 92
"""Of the JPEGs."""

CLIP_FRAMES = round(clips.DURATION_S * clips.FRAMES_PER_SECOND)

CLIPS_PER_SHARD_FACTOR = 4
"""A clip costs about as much to decode and encode as this many images; shards should cost the same."""


def prepare_demo(config: PrepareDemo, layout: Layout, *, progress: Progress) -> PreparedManifest:
    """Writes the demo's shards and query log, if they are not there.

    Every item has its own random numbers, drawn from (seed, its place in the gallery), so each shard can be made alone.
    The query log holds each caption once, in random order of popularity; the query of rank r was asked about N / r
    times (Zipf's law; N items).

    Args:
      config: sizes are rounded down to whole families.
      progress: called as items are finished.

    Raises:
      ConfigError: more items than can be told apart.
    """
    shown = gallery_scenes(images=config.images, seed=config.seed)
    moving = gallery_clips(videos=config.videos, seed=config.seed)
    plans = []
    for number, part in enumerate(_parts(len(shown), config.images_per_shard)):
        make = partial(_scene_samples, shown, part, config.seed)
        plans.append(ShardPlan(f"scenes-{number:05d}.tar", len(part), make))
    for number, part in enumerate(_parts(len(moving), max(FAMILY, config.images_per_shard // CLIPS_PER_SHARD_FACTOR))):
        make = partial(_clip_samples, moving, part, config.seed)
        plans.append(ShardPlan(f"clips-{number:05d}.tar", len(part), make))
    captions = [*map(scenes.caption, shown), *map(clips.caption, moving)]
    identity = config.model_dump(mode="json")
    return write_folder(
        prepared_folder(layout, identity),
        plans,
        dataset=layout.dataset,
        config=identity,
        queries=query_log(captions, seed=config.seed),
        query_rows=len(captions),
        counts={"images": len(shown), "videos": len(moving), "captions": len(captions)},
        progress=progress,
    )


def query_log(captions: Sequence[str], *, seed: int) -> bytes:
    """A `.tsv` of all captions as queries, most frequent first: query_id, text, count."""
    order = np.random.default_rng([seed, 4]).permutation(len(captions)).tolist()
    lines = ["query_id\ttext\tcount"]
    for rank, i in enumerate(order, start=1):
        lines.append(f"q{rank:06d}\t{captions[i]}\t{math.ceil(len(captions) / rank)}")
    return ("\n".join(lines) + "\n").encode()


def _parts(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _scene_samples(shown: Sequence[Scene], part: range, seed: int) -> Iterator[Packed]:
    for i in part:
        picture = scenes.render(shown[i], SIZE, np.random.default_rng([seed, 2, i]))
        data = simplejpeg.encode_jpeg(picture, quality=QUALITY, colorsubsampling="420")
        yield Packed(f"scene-{i:06d}", (("jpg", data), ("json", _metadata(scenes.caption(shown[i]), i // FAMILY))))


def _clip_samples(moving: Sequence[Clip], part: range, seed: int) -> Iterator[Packed]:
    times = clips.frame_times(CLIP_FRAMES)
    for i in part:
        data = clips.encode_mp4(clips.frames(moving[i], times, SIZE, np.random.default_rng([seed, 3, i])))
        yield Packed(f"clip-{i:06d}", (("mp4", data), ("json", _metadata(clips.caption(moving[i]), i // FAMILY))))


def _metadata(caption: str, family: int) -> bytes:
    return json.dumps({"captions": [caption], "family": family}, sort_keys=True).encode()
