"""What the demo shows: which scenes and clips, drawn from a seed; training reads the same list to stay away from it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from pipelines.prepare import clips, scenes
from pipelines.prepare.clips import Clip
from pipelines.prepare.scenes import Scene
from schemas.errors import ConfigError

Item = TypeVar("Item", Scene, Clip)

FAMILY = 4

MAX_DRAWS = 3000
"""Families drawn in vain before a gallery is called full, which happens at about 3,300 scenes or 2,500 clips."""


def gallery_scenes(*, images: int, seed: int) -> list[Scene]:
    """Whole families of scenes, `images` rounded down to families; no caption is true of another picture."""
    rng = np.random.default_rng([seed, 0])
    return _families(lambda: scenes.siblings(scenes.scene(rng)), images, scenes.caption, scenes.true_captions)


def gallery_clips(*, videos: int, seed: int) -> list[Clip]:
    """Whole families of clips, `videos` rounded down to families; no caption is true of another clip."""
    rng = np.random.default_rng([seed, 1])
    return _families(lambda: clips.siblings(clips.clip(rng)), videos, clips.caption, clips.true_captions)


def gallery_captions(*, images: int, videos: int, seed: int) -> frozenset[str]:
    """Every caption of the gallery."""
    shown = gallery_scenes(images=images, seed=seed)
    moving = gallery_clips(videos=videos, seed=seed)
    return frozenset([*map(scenes.caption, shown), *map(clips.caption, moving)])


def _families(
    draw: Callable[[], Sequence[Item]],
    count: int,
    caption: Callable[[Item], str],
    true_captions: Callable[[Item], frozenset[str]],
) -> list[Item]:
    """Families until there are `count` items; one that could be confused with an earlier one is left out.

    Raises:
      ConfigError: there is no room for so many that cannot be confused.
    """
    items: list[Item] = []
    said: set[str] = set()  # captions of the items
    true: set[str] = set()  # captions true of any of them
    in_vain = 0
    while len(items) < count // FAMILY * FAMILY:
        if in_vain == MAX_DRAWS:
            raise ConfigError(
                f"demo: expected {count} items of which no two can be confused, got {len(items)}; "
                "ask for fewer (prepare.images, prepare.videos)"
            )
        family = draw()
        own = {caption(item) for item in family}
        holds = frozenset().union(*map(true_captions, family))
        if own & true or holds & said:
            in_vain += 1
            continue
        in_vain = 0
        items += family
        said |= own
        true |= holds
    return items
