"""What models are trained on: fresh scenes and clips, or the captioned images of shards.

Every batch is a function of (seed, step, rank), so a resumed run sees what it would have seen.
"""

import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from encoders.base import PixelSpec
from encoders.decoding import decode
from encoders.limits import DecodeLimits
from encoders.training.batches import Batch, Gallery
from pipelines.prepare import clips, scenes
from pipelines.prepare.clips import Clip
from pipelines.prepare.scenes import Scene
from pipelines.training_rankings import Teacher, read_teacher
from pipelines.webdataset.samples import read_samples
from pipelines.webdataset.shards import expand
from schemas.configs import Captions, Embed
from schemas.digests import digest_bytes, digest_file, digest_value
from schemas.errors import InputError, SampleError
from schemas.samples import VIDEO_SUFFIXES, Sample
from schemas.training import SceneData, ShardData, TrainConfig

logger = logging.getLogger(__name__)

_WORD = re.compile(r"\w+|[^\w\s]")

Item = Scene | Clip

CATEGORIES = ("colours", "shapes")
"""Categories taken as they are; relations and motions share words and are hidden together."""


class SceneSource:
    """Fresh scenes and clips, each beside a sibling; never one whose caption is held out.

    Pictures go through a JPEG of random quality and both ways of making it small (scaled decoding, or a filter), so
    that files met later look the same.
    """

    augment = False

    def __init__(self, config: TrainConfig, *, holdout: frozenset[str]) -> None:
        """Prepares the validation gallery.

        Args:
          config: whose data is SceneData.
          holdout: captions of the galleries the model will be measured on.
        """
        assert isinstance(config.data, SceneData)  # noqa: S101  (the caller chose by kind)
        self.data: SceneData = config.data
        self.seed = config.seed
        self.batch_size = config.batch_size
        self.size = config.model.image_size
        self.frames = config.model.frames
        self._held_items = self._draw_validation(holdout)
        self.holdout = holdout | {caption_of(item) for item in self._held_items}
        code = b"".join(Path(str(module.__file__)).read_bytes() for module in (scenes, clips))
        self.digest = digest_value(
            {"data": self.data.model_dump(mode="json"), "code": digest_bytes(code), "holdout": sorted(holdout)}
        )

    def batch(self, step: int, rank: int = 0) -> Batch:
        """See encoders.training.batches.Source."""
        rng = np.random.default_rng([self.seed, step, rank])
        data = self.data
        videos = (
            0 if step < data.videos_from_step else int(self.batch_size * data.video_share) // data.family * data.family
        )
        items: list[Item] = []
        while len(items) < self.batch_size - videos:
            items += self._relatives(scenes.scene(rng, self._objects(step, rng)), rng)
        items = items[: self.batch_size - videos]
        while len(items) < self.batch_size:
            items += self._relatives(clips.clip(rng), rng)
        items = items[: self.batch_size]
        captions = tuple(caption_of(item) for item in items)
        # Equal captions describe each other's pictures: no negatives.
        ids = np.array([zlib.crc32(text.encode()) for text in captions], np.int64)
        return Batch(self._pictures(items, rng), captions, ids)

    def words(self) -> list[str]:
        """See encoders.training.batches.Source."""
        return scenes.vocabulary()

    def categories(self) -> Mapping[str, Sequence[str]]:
        """See encoders.training.batches.Source."""
        directions = scenes.CATEGORIES["relations"] | scenes.CATEGORIES["motions"]
        return {name: sorted(scenes.CATEGORIES[name]) for name in CATEGORIES} | {"directions": sorted(directions)}

    def validation(self) -> Gallery:
        """See encoders.training.batches.Source."""
        items = self._held_items
        rng = np.random.default_rng([self.data.validation_seed, 1])
        return Gallery(self._pictures(items, rng), tuple(caption_of(item) for item in items), np.arange(len(items)))

    def _objects(self, step: int, rng: np.random.Generator) -> int:
        reached = [stage.objects for stage in self.data.curriculum if stage.from_step <= step]
        if len(reached) > 1 and rng.random() < self.data.earlier_share:
            return reached[int(rng.integers(len(reached) - 1))]
        return reached[-1]

    def _relatives(self, item: Item, rng: np.random.Generator) -> list[Item]:
        """The item and some of its family, in random order; none if a caption is held out."""
        family: list[Item] = list(siblings_of(item))
        order = rng.permutation(len(family) - 1)[: self.data.family - 1] + 1
        chosen = [family[0], *(family[i] for i in order)]
        if any(caption_of(one) in self.holdout for one in chosen):
            return []
        return chosen

    def _draw_validation(self, holdout: frozenset[str]) -> list[Item]:
        """Whole families, scenes first; captions all different and none of the holdout's."""
        rng = np.random.default_rng([self.data.validation_seed, 0])
        items: list[Item] = []
        seen = set(holdout)
        for count, draw in ((self.data.validation_images, scenes.scene), (self.data.validation_videos, clips.clip)):
            wanted = len(items) + count // 4 * 4
            while len(items) < wanted:
                family: list[Item] = list(siblings_of(draw(rng)))
                captions = {caption_of(item) for item in family}
                if len(captions) == len(family) and not captions & seen:
                    items += family
                    seen |= captions
        return items

    def _pictures(self, items: Sequence[Item], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Groups of scenes (B, 1, H, W, 3) and of clips (B, F, H, W, 3), uint8; items must be in this order."""
        size, data = self.size, self.data
        still = [item for item in items if isinstance(item, Scene)]
        moving = [item for item in items if isinstance(item, Clip)]
        groups = []
        if still:
            painted = scenes.render_many(still, data.render_size, rng)
            groups.append(np.stack([as_file(one, size, data.jpeg_quality, rng) for one in painted])[:, None])
        if moving:
            out = np.empty((len(moving), self.frames, size, size, 3), np.uint8)
            for i, clip in enumerate(moving):
                painted = clips.frames(clip, clips.frame_times(self.frames), data.render_size, rng)
                for frame, picture in enumerate(painted):
                    out[i, frame] = as_file(picture, size, data.jpeg_quality, rng)
            groups.append(out)
        return tuple(groups)


def as_file(picture: np.ndarray, size: int, quality: int, rng: np.random.Generator) -> np.ndarray:
    """What a picture uint8 (H, W, 3) looks like when it comes back from a JPEG, square, `size` pixels a side.

    Args:
      quality: about that of the JPEG; it varies.
    """
    chosen = int(rng.integers(quality - 15, quality + 6))
    data = simplejpeg.encode_jpeg(picture, quality=min(chosen, 100), colorsubsampling="420")
    if rng.random() < 0.5:
        picture = simplejpeg.decode_jpeg(data, min_height=size, min_width=size)
    else:
        picture = simplejpeg.decode_jpeg(data)
    if picture.shape[0] != size:
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    return picture


def caption_of(item: Item) -> str:
    """The caption of a scene or clip."""
    return scenes.caption(item) if isinstance(item, Scene) else clips.caption(item)


def siblings_of(item: Item) -> Sequence[Item]:
    """The family of a scene or clip, itself first."""
    return scenes.siblings(item) if isinstance(item, Scene) else clips.siblings(item)


def demo_captions(data: SceneData) -> frozenset[str]:
    """Every caption of the gallery that `prepare demo` makes by default."""
    from pipelines.prepare.gallery import gallery_captions

    return gallery_captions(images=data.holdout_images, videos=data.holdout_videos, seed=data.holdout_seed)


class ShardSource:
    """Captioned images of WebDataset shards, decoded once into memory; no picture twice in a batch."""

    def __init__(self, config: TrainConfig, *, spec: PixelSpec) -> None:
        """Reads and decodes all shards.

        Args:
          config: whose data is ShardData.
          spec: how the model wants its pictures.

        Raises:
          InputError: shards that are not there, or not enough captioned images in them for one batch.
        """
        assert isinstance(config.data, ShardData)  # noqa: S101  (the caller chose by kind)
        data = config.data
        self.seed, self.batch_size = config.seed, config.batch_size
        self.augment = data.cached_views == 0
        found, held = (
            read_shards(some, fields=data.caption_fields, spec=spec) for some in (data.train, data.validation)
        )
        self.images, self.captions = found.images, found.captions
        if len(self.images) < config.batch_size:
            raise InputError(f"{config.name}: expected {config.batch_size} images or more, got {len(self.images)}")
        targets = np.repeat(np.arange(len(held.captions)), [len(texts) for texts in held.captions])
        self._validation = Gallery((held.images,), tuple(text for texts in held.captions for text in texts), targets)
        parts = {"train": found.digest, "validation": held.digest}
        self.teacher: Teacher | None = None
        self.hard_share = 0.0
        if data.rankings is not None:
            self.teacher = read_teacher(data.rankings, found.keys, found.captions)
            self.hard_share = data.rankings.hard_share
            parts["rankings"] = self.teacher.digest
        self.digest = digest_value(parts)

    def use_features(self, features: Callable[[np.ndarray, str], np.ndarray]) -> None:
        """Puts cached backbone features (N, views, V, C) in the place of pictures (N, 1, H, W, 3)."""
        self.images = features(self.images, "train")
        held = features(self._validation.visuals[0], "validation")[:, :1]
        self._validation = Gallery((held,), self._validation.captions, self._validation.targets)

    def batch(self, step: int, rank: int = 0) -> Batch:
        """See encoders.training.batches.Source. Epochs are permutations; the rest of one is left out.

        With a teacher, part of a batch gives way to hard negatives of the rest.
        """
        fresh = max(1, self.batch_size - int(self.hard_share * self.batch_size))
        batches = len(self.images) // fresh
        order = np.random.default_rng([self.seed, 0, step // batches, rank]).permutation(len(self.images))
        start = step % batches * fresh
        rng = np.random.default_rng([self.seed, 1, step, rank])
        chosen = np.sort(order[start : start + fresh])
        picked = [int(rng.integers(len(self.captions[i]))) for i in chosen]
        if self.teacher is not None:
            chosen, picked = self._with_hard(self.teacher, chosen, picked, np.roll(order, -start - fresh), rng)
        captions = tuple(self.captions[i][caption] for i, caption in zip(chosen, picked, strict=True))
        views = rng.integers(self.images.shape[1], size=len(chosen))
        teacher = self.teacher.among(chosen, picked) if self.teacher is not None else None
        return Batch((self.images[chosen, views][:, None],), captions, chosen.astype(np.int64), teacher)

    def _with_hard(
        self, teacher: Teacher, chosen: np.ndarray, picked: list[int], others: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[int]]:
        """A batch filled up with candidates of its captions in turn, and with `others` where these run out."""
        captions = dict(zip(chosen.tolist(), picked, strict=True))
        asking, spare = list(captions), iter(others.tolist())
        while len(captions) < self.batch_size:
            found = None
            while asking and found is None:
                picture = asking.pop(0)
                found = teacher.hard(picture, captions[picture], set(captions), rng)
                if found is not None:
                    asking.append(picture)
            if found is None:
                found = next(one for one in spare if one not in captions)
            captions[found] = int(rng.integers(len(self.captions[found])))
        filled = np.array(sorted(captions), np.int64)
        return filled, [captions[int(i)] for i in filled]

    def texts(self) -> list[str]:
        """See encoders.training.batches.FeatureSource: those trained on and those validated with."""
        return [text for texts in self.captions for text in texts] + list(self._validation.captions)

    def words(self) -> list[str]:
        """See encoders.training.batches.Source. Words met twice or more."""
        counts = Counter(word for texts in self.captions for text in texts for word in _WORD.findall(text.lower()))
        return sorted(word for word, count in counts.items() if count > 1)

    def categories(self) -> Mapping[str, Sequence[str]]:
        """See encoders.training.batches.Source. None are known of real captions."""
        return {}

    def validation(self) -> Gallery:
        """See encoders.training.batches.Source."""
        return self._validation


@dataclass(frozen=True)
class Captioned:
    """Images with captions.

    Attributes:
      keys: of the samples.
      images: uint8 (N, 1, H, W, 3); (N, F, H, W, 3) with the frames of videos.
      captions: of each.
      digest: of the shards.
    """

    keys: list[str]
    images: np.ndarray
    captions: list[tuple[str, ...]]
    digest: str


def read_shards(patterns: Sequence[str], *, fields: tuple[str, ...], spec: PixelSpec, frames: int = 0) -> Captioned:
    """All captioned images of shards.

    Samples without a caption are left out and counted in the log; so are pictures that do not decode.

    Args:
      frames: of videos, with images repeated as often; 0: videos are left out and counted too.
    """
    pictures: list[np.ndarray] = []
    captions: list[tuple[str, ...]] = []
    keys: list[str] = []
    digests: list[str] = []
    skipped, limits = 0, DecodeLimits()
    for url in expand(patterns):
        digests.append(digest_file(url))
        samples = read_samples(url, shard=url, captions=Captions(fields=fields), key_scope="dataset", embed=Embed())
        for sample in samples:
            if not isinstance(sample, Sample) or not sample.captions:
                skipped += 1
                continue
            if sample.suffix in VIDEO_SUFFIXES and not frames:
                skipped += 1
                continue
            try:
                found = decode(
                    sample.data, suffix=sample.suffix, spec=spec, frames=frames or 1, limits=limits, jpeg_scaling="fast"
                )
            except SampleError:
                skipped += 1
                continue
            pictures.append(found.pixels if len(found.pixels) >= frames else np.repeat(found.pixels, frames, axis=0))
            captions.append(tuple(sample.captions))
            keys.append(sample.key)
    if skipped:
        logger.warning("%d samples without a caption or a picture are left out", skipped)
    stacked = np.stack(pictures) if pictures else np.empty((0, 1, spec.height, spec.width, 3), np.uint8)
    return Captioned(keys, stacked, captions, digest_value(digests))
