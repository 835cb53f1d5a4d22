"""Generated clips of moving shapes whose captions differ only in what moves where.

Semantics. With one mover, "a red circle moves left below a blue square" says that the circle moves left by two cells
or more and is at all times in a lower row than the square. A thing that moves along a row is related to the other by
`above` or `below`, one that moves along a column by `left of` or `right of`, so the relation never changes on the way.
With two movers, "a red circle moves left and a blue square moves up" names both, each with a direction of its own.
Some clips hold a third thing that rests and is not described.

A family is four clips: the clip itself; the first mover's direction reversed; the colours of the two things exchanged;
the two things exchanged. Each caption is true of its own clip and false of the other three. The third thing
shares shape or colour with a described one, which no caption of `scenes` allows, so that no caption of a picture is
true of a clip.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations

import av
import numpy as np

from pipelines.prepare import scenes
from pipelines.prepare.scenes import COLOURS, GRID, SHAPES, Cell, Thing

DURATION_S = 1.5
"""Length of every clip in seconds."""

FRAMES_PER_SECOND = 8

CRF = 20
"""x264's constant rate factor: about 8 kB for a clip of 128 pixels a side."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Two or three things; thing i goes in a straight line from its cell to `ends[i]` (its own cell: it rests).

    The first thing always moves; the first two are described.
    """

    things: tuple[Thing, ...]
    ends: tuple[Cell, ...]


def direction(start: Cell, end: Cell) -> str | None:
    """Where a thing moves: "left", "right", "up" or "down"; None when it rests."""
    if start == end:
        return None
    if start[0] == end[0]:
        return "left" if end[1] < start[1] else "right"
    return "up" if end[0] < start[0] else "down"


def caption(clip: Clip) -> str:
    """The clip's caption, lower case, without punctuation."""
    said = _said(clip, 0, 1)
    assert said is not None, clip  # noqa: S101  (true by construction of `clip` and `siblings`)
    return said


def true_captions(clip: Clip) -> frozenset[str]:
    """Every caption, in either form, that is true of the clip."""
    pairs = list(permutations(range(len(clip.things)), 2))
    said = [_said(clip, i, j) for i, j in pairs] + [_related(clip, i, j) for i, j in pairs]
    return frozenset(text for text in said if text)


def _said(clip: Clip, i: int, j: int) -> str | None:
    """What a caption would say of things i and j; None when i rests."""
    other = direction(clip.things[j].cell, clip.ends[j])
    if other is None:
        return _related(clip, i, j)
    own = direction(clip.things[i].cell, clip.ends[i])
    return own and f"{clip.things[i].name} moves {own} and {clip.things[j].name} moves {other}"


def _related(clip: Clip, i: int, j: int) -> str | None:
    own = direction(clip.things[i].cell, clip.ends[i])
    if own is None:
        return None
    axis, words = (0, ("above", "below")) if own in ("left", "right") else (1, ("left of", "right of"))
    mine = [cell[axis] for cell in (clip.things[i].cell, clip.ends[i])]
    theirs = [cell[axis] for cell in (clip.things[j].cell, clip.ends[j])]
    if max(mine) < min(theirs):
        return f"{clip.things[i].name} moves {own} {words[0]} {clip.things[j].name}"
    if min(mine) > max(theirs):
        return f"{clip.things[i].name} moves {own} {words[1]} {clip.things[j].name}"
    return None


def siblings(clip: Clip) -> list[Clip]:
    """The clip's family of four, itself first."""
    first, second, *rest = clip.things
    end, *ends = clip.ends
    back = replace(first, row=end[0], column=end[1])
    return [
        clip,
        Clip((back, second, *rest), (first.cell, *ends)),
        replace(clip, things=(replace(first, colour=second.colour), replace(second, colour=first.colour), *rest)),
        replace(clip, things=(_looking(first, second), _looking(second, first), *rest)),
    ]


def _looking(thing: Thing, like: Thing) -> Thing:
    return replace(thing, shape=like.shape, colour=like.colour)


def clip(rng: np.random.Generator, *, movers: int | None = None) -> Clip:
    """A random clip whose family keeps the promises of this module.

    Args:
      movers: 1 or 2; None leaves it to chance.
    """
    two = bool(rng.random() < 0.4) if movers is None else movers == 2
    while True:
        start, end = _path(rng)
        other, other_end = _path(rng)
        if not two:
            other_end = other
        if set(_cells(start, end)) & set(_cells(other, other_end)):
            continue
        if two and direction(start, end) == direction(other, other_end):
            continue  # exchanging two things that move the same way changes nothing that a caption says
        shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
        names = list(COLOURS)
        things = [
            Thing(SHAPES[shapes[0]], names[colours[0]], *start),
            Thing(SHAPES[shapes[1]], names[colours[1]], *other),
        ]
        made = Clip(tuple(things), (end, other_end))
        if _said(made, 0, 1) is None:
            continue
        if rng.random() < 0.5:
            made = _with_bystander(made, rng)
        return made


def _path(rng: np.random.Generator) -> tuple[Cell, Cell]:
    """A straight way of two or three cells' length."""
    line, start, end = rng.integers(0, GRID, 3).tolist()
    while abs(start - end) < 2:
        start, end = rng.integers(0, GRID, 2).tolist()
    return ((line, start), (line, end)) if rng.random() < 0.5 else ((start, line), (end, line))


def _cells(start: Cell, end: Cell) -> list[Cell]:
    rows = range(min(start[0], end[0]), max(start[0], end[0]) + 1)
    columns = range(min(start[1], end[1]), max(start[1], end[1]) + 1)
    return [(row, column) for row in rows for column in columns]


def _with_bystander(made: Clip, rng: np.random.Generator) -> Clip:
    first, second = made.things
    taken = {cell for thing, end in zip(made.things, made.ends, strict=True) for cell in _cells(thing.cell, end)}
    free = [divmod(i, GRID) for i in range(GRID * GRID) if divmod(i, GRID) not in taken]
    named = {(s, c) for s in (first.shape, second.shape) for c in (first.colour, second.colour)}
    looks = [
        (shape, colour)
        for shape in SHAPES
        for colour in COLOURS
        if (shape, colour) not in named
        and (shape in (first.shape, second.shape) or colour in (first.colour, second.colour))
    ]
    cell = free[int(rng.integers(len(free)))]
    return Clip((*made.things, Thing(*looks[int(rng.integers(len(looks)))], *cell)), (*made.ends, cell))


def frame_times(count: int) -> list[float]:
    """Times of `count` frames spread evenly, in seconds: the middles of `count` equal parts of the clip."""
    return [(i + 0.5) / count * DURATION_S for i in range(count)]


def frames(clip: Clip, times_s: Sequence[float], size: int, rng: np.random.Generator) -> np.ndarray:
    """Frames at the given times, uint8 (F, size, size, 3), RGB; background and noise are those of one camera."""
    chosen = scenes.look(rng, len(clip.things), size)
    start = np.array([thing.cell for thing in clip.things], np.float32) + np.float32(0.5)
    way = np.array(clip.ends, np.float32) + np.float32(0.5) - start
    out = np.empty((len(times_s), size, size, 3), np.uint8)
    for picture, time_s in zip(out, times_s, strict=True):
        done = np.float32(min(max(time_s / DURATION_S, 0.0), 1.0))
        scenes.paint(clip.things, start + way * done, chosen, size, picture)
    return out


def encode_mp4(pictures: np.ndarray, *, fps: int = FRAMES_PER_SECOND) -> bytes:
    """An H.264 MP4 of frames uint8 (F, H, W, 3), RGB, H and W even; equal frames give equal bytes.

    One thread and no time of creation, so that only the version of x264 can change the bytes.
    """
    target = io.BytesIO()
    with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.options = {"crf": str(CRF), "preset": "veryfast", "threads": "1", "flags": "+bitexact"}
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()
