"""Pictures to test claims on: scenes of the demo's gallery, whose captions no training of scenes ever draws.

A seed chooses families and paints them anew, so what is measured is not one lucky gallery.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from pipelines.prepare import scenes
from pipelines.prepare.gallery import FAMILY, gallery_scenes
from pipelines.prepare.scenes import Scene
from pipelines.training_sources import as_file
from schemas.training import SceneData


@dataclass(frozen=True)
class Gallery:
    """Items and texts.

    Attributes:
      pixels: uint8 (N, 1, H, W, 3).
      captions: Q texts.
      targets: the item each text is of, int64 (Q,); several texts may be of one item.
      subjects: what each text is of, whatever the gallery, int64 (Q,): the same picture met with another seed has the
        same number. None: no two galleries share a picture.
    """

    pixels: torch.Tensor
    captions: tuple[str, ...]
    targets: np.ndarray
    subjects: np.ndarray | None = None


@cache
def _held_out() -> tuple[Scene, ...]:
    data = SceneData()
    return tuple(gallery_scenes(images=data.holdout_images, seed=data.holdout_seed))


def largest() -> int:
    """How many pictures there are."""
    return len(_held_out())


def draw(seed: int, *, images: int, texts: int, size: int) -> Gallery:
    """A gallery of whole families.

    Args:
      images: N.
      texts: Q, of the first items.
      size: pixels a side.
    """
    rng = np.random.default_rng([seed, 2])
    held = _held_out()
    chosen = rng.permutation(len(held) // FAMILY)[: images // FAMILY]
    items = [held[FAMILY * family + member] for family in chosen for member in range(FAMILY)]
    captions = tuple(scenes.caption(item) for item in items[:texts])
    return Gallery(paint(items, size, rng), captions, np.arange(len(captions)))


def distractors(seed: int, *, images: int, size: int, said: frozenset[str]) -> torch.Tensor:
    """More pictures, uint8 (N, 1, H, W, 3), of which none of the captions `said` is true."""
    rng = np.random.default_rng([seed, 3])
    items: list[Scene] = []
    while len(items) < images:
        one = scenes.scene(rng)
        if not scenes.true_captions(one) & said:
            items.append(one)
    return paint(items, size, rng)


def paint(items: Sequence[Scene], size: int, rng: np.random.Generator) -> torch.Tensor:
    """Pictures uint8 (N, 1, H, W, 3) that went through a JPEG, as those of shards did."""
    data = SceneData()
    out = np.empty((len(items), 1, size, size, 3), np.uint8)
    for start in range(0, len(items), 256):
        painted = scenes.render_many(list(items[start : start + 256]), data.render_size, rng)
        for row, picture in enumerate(painted, start=start):
            out[row, 0] = as_file(picture, size, data.jpeg_quality, rng)
    return torch.from_numpy(out)
