"""Flickr8k's photos and captions from a folder of shards, and what is drawn of the test split to be measured on.

Pictures are decoded and made small by the code that trainings and the embed stage use. Which split is read is named at
every call; trainings are given patterns of train and dev alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from encoders.base import PixelSpec
from pipelines.claims.bench import Size
from pipelines.claims.gallery import Gallery
from schemas.errors import InputError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
FIELDS = ("captions", "caption", "text")


@dataclass(frozen=True)
class Photos:
    """A split, or any other captioned shards.

    Attributes:
      keys: of the items.
      pixels: uint8 (N, F, H, W, 3).
      captions: of each, one or more.
    """

    keys: tuple[str, ...]
    pixels: torch.Tensor
    captions: tuple[tuple[str, ...], ...]

    def all_texts(self) -> Gallery:
        """Every item with every caption."""
        targets = np.repeat(np.arange(len(self.captions)), [len(texts) for texts in self.captions])
        return Gallery(self.pixels, tuple(text for texts in self.captions for text in texts), targets, targets)


def patterns(folder: Path, split: Split) -> tuple[str, ...]:
    """The glob of a split.

    Raises:
      InputError: no shard matches.
    """
    name = f"flickr8k-{split}-*.tar"
    if not any(folder.glob(name)):
        raise InputError(f"{folder}: expected shards named {name}, found none; give their folder with --shards")
    return (str(folder / name),)


def check(folder: Path) -> None:
    """That every split is there; no shard is opened.

    Raises:
      InputError: one is not.
    """
    for split in SPLITS:
        patterns(folder, split)


def read_split(folder: Path, split: Split, spec: PixelSpec) -> Photos:
    """The photos of a split as a model wants them, in the order of the shards.

    Raises:
      InputError: no shards, or nothing with a caption in them.
    """
    return read_captioned(patterns(folder, split), spec)


@cache
def read_test(folder: Path, spec: PixelSpec) -> Photos:
    """The test split, kept in memory; see `read_split`."""
    return read_split(folder, "test", spec)


def read_captioned(shards: Sequence[str], spec: PixelSpec, *, frames: int = 0) -> Photos:
    """Captioned pictures of shards.

    Args:
      frames: of clips, with pictures repeated as often; 0: clips are left out.

    Raises:
      InputError: nothing with a caption is in them.
    """
    from pipelines.training_sources import read_shards

    found = read_shards(shards, fields=FIELDS, spec=spec, frames=frames)
    if not found.keys:
        raise InputError(f"{', '.join(shards)}: expected pictures with captions, found none")
    return Photos(tuple(found.keys), torch.from_numpy(found.images), tuple(found.captions))


def draw(shown: Photos, seed: int, size: Size) -> Gallery:
    """Photos in an order of the seed; the first Q with one caption each, chosen by the seed too.

    Args:
      size: N, at most as many as there are, and Q.

    Raises:
      InputError: fewer photos than texts.
    """
    if size.texts > min(size.items, len(shown.keys)):
        raise InputError(f"expected a photo for each of {size.texts} texts, got {min(size.items, len(shown.keys))}")
    rng = np.random.default_rng([seed, 4])
    order = rng.permutation(len(shown.keys))[: size.items]
    asked = order[: size.texts]
    captions = tuple(shown.captions[i][int(rng.integers(len(shown.captions[i])))] for i in asked)
    return Gallery(shown.pixels[torch.from_numpy(order)], captions, np.arange(len(captions)), asked)
