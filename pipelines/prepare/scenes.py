"""Generated pictures whose captions differ only in what belongs to what: coloured shapes on a 4 x 4 grid.

Semantics. A caption chains the described things: "a red circle left of a blue square above a green cross" says
that the circle is left of the square and that the square is above the cross. Of two things in different cells,
A is `left of` B when A's column is smaller and they are further apart in columns than in rows; `right of`, `above`
and `below` alike. Two things exactly on a diagonal stand in no relation, and such pairs are not described. So at
most one relation is true of an ordered pair, and nothing is a matter of taste.

A family is four scenes with nearly the same words: the scene itself, the colours of things 1 and 2 exchanged,
the places of 1 and 2 exchanged, the places of 2 and 3 exchanged. Described things differ in shape and in colour
(else the first two exchanges can give the same picture), and a thing that is not described equals none
that any caption of the family names. Every caption of a family is true of its own scene and false of the other
three, also for a reader who takes `left of` to mean no more than "in a column further left".
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations

import numpy as np

from schemas.errors import ConfigError

GRID = 4
"""Cells in a row and in a column."""

SHAPES = ("circle", "square", "triangle", "cross")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 46),
    "orange": (243, 134, 24),
    "yellow": (246, 208, 36),
    "green": (38, 158, 84),
    "blue": (40, 104, 216),
    "purple": (142, 62, 176),
}
"""Name -> RGB, before the jitter each painted thing gets."""

RELATIONS = ("left of", "right of", "above", "below")

MOTIONS = ("left", "right", "up", "down")

CATEGORIES: dict[str, frozenset[str]] = {
    "colours": frozenset(COLOURS),
    "shapes": frozenset(SHAPES),
    "relations": frozenset({"left", "right", "above", "below"}),
    "motions": frozenset(MOTIONS),
}
"""Words that answer the same question; masking a whole category leaves nothing in the text to guess it from.
"left" and "right" are in two categories: they follow "moves" in one and precede "of" in the other."""

Cell = tuple[int, int]
"""Row and column, from 0, counted from the top left."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape in a cell."""

    shape: str
    colour: str
    row: int
    column: int

    @property
    def name(self) -> str:
        """What a caption calls it, for example "a red circle"."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape}"

    @property
    def cell(self) -> Cell:
        """Its row and column."""
        return self.row, self.column


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in distinct cells, of which the first `described` are named in the caption, in this order."""

    things: tuple[Thing, ...]
    described: int


def relation(a: Cell, b: Cell) -> str | None:
    """The one relation in which cell `a` stands to cell `b`; None on a diagonal.

    >>> relation((0, 0), (1, 3)), relation((3, 1), (0, 0)), relation((0, 0), (2, 2))
    ('left of', 'below', None)
    """
    rows, columns = b[0] - a[0], b[1] - a[1]
    if abs(rows) == abs(columns):
        return None
    if abs(columns) > abs(rows):
        return "left of" if columns > 0 else "right of"
    return "above" if rows > 0 else "below"


def caption(scene: Scene) -> str:
    """The scene's caption, lower case, without punctuation.

    Raises:
      ConfigError: two neighbours in the chain lie on a diagonal; `scene` makes no such scenes.
    """
    return _chain(scene.things[: scene.described])


def true_captions(scene: Scene) -> frozenset[str]:
    """Every caption of the same length that is true of the scene, whatever it starts with.

    A gallery in which no caption is among the true ones of another picture can be answered without a mistake.
    """
    return frozenset(
        _chain(chain)
        for chain in permutations(scene.things, scene.described)
        if all(relation(a.cell, b.cell) for a, b in zip(chain, chain[1:], strict=False))
    )


def _chain(things: tuple[Thing, ...]) -> str:
    words = [things[0].name]
    for before, after in zip(things, things[1:], strict=False):
        link = relation(before.cell, after.cell)
        if link is None:
            raise ConfigError(f"scene: {before} and {after} lie on a diagonal and stand in no relation")
        words += [link, after.name]
    return " ".join(words)


def siblings(scene: Scene) -> list[Scene]:
    """The scene's family, itself first: 4 scenes where three things are described, 3 for two, 1 for one."""
    if scene.described < 2:
        return [scene]
    first, second, *rest = scene.things
    family = [
        scene,
        _with(scene, replace(first, colour=second.colour), replace(second, colour=first.colour), *rest),
        _with(scene, _moved(first, second), _moved(second, first), *rest),
    ]
    if scene.described > 2:
        third, *others = rest
        family.append(_with(scene, first, _moved(second, third), _moved(third, second), *others))
    return family


def _with(scene: Scene, *things: Thing) -> Scene:
    return replace(scene, things=things)


def _moved(thing: Thing, to: Thing) -> Thing:
    return replace(thing, row=to.row, column=to.column)


def scene(rng: np.random.Generator, objects: int = 4) -> Scene:
    """A random scene whose family keeps the promises of this module.

    Args:
      objects: things in the picture, 1 to 4; all are described except the fourth.

    Raises:
      ConfigError: another number of objects.
    """
    if not 1 <= objects <= 4:
        raise ConfigError(f"scene: expected 1 to 4 objects, got {objects}")
    described = min(objects, 3)
    places, shapes, colours = _places(described), _ordered(len(SHAPES), described), _ordered(len(COLOURS), described)
    draw = rng.integers(0, [len(places), len(shapes), len(colours), GRID * GRID - 3, len(SHAPES) * len(COLOURS) - 5])
    names = list(COLOURS)
    things = [
        Thing(SHAPES[shape], names[colour], *cell)
        for shape, colour, cell in zip(shapes[draw[1]], colours[draw[2]], places[draw[0]], strict=True)
    ]
    if objects == 4:
        things.append(_bystander(things, cell=int(draw[3]), look=int(draw[4])))
    return Scene(tuple(things), described)


def _bystander(things: list[Thing], *, cell: int, look: int) -> Thing:
    """The thing no caption names: the `cell`-th free cell, the `look`-th look that no sibling's caption uses."""
    first, second, third = things
    named = {(t.shape, t.colour) for t in things} | {(first.shape, second.colour), (second.shape, first.colour)}
    taken = {first.cell, second.cell, third.cell}
    looks = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in named]
    free = [divmod(i, GRID) for i in range(GRID * GRID) if divmod(i, GRID) not in taken]
    return Thing(*looks[look], *free[cell])


@lru_cache
def _ordered(n: int, k: int) -> tuple[tuple[int, ...], ...]:
    return tuple(permutations(range(n), k))


@lru_cache
def _places(described: int) -> tuple[tuple[Cell, ...], ...]:
    """All ways to place the described things so that all captions of the family exist and exclude each other."""
    cells = [divmod(i, GRID) for i in range(GRID * GRID)]
    chosen = []
    for places in permutations(cells, described):
        if any(relation(a, b) is None for a, b in permutations(places, 2)):
            continue
        # Colours exchanged need no check: no other picture of the family has things of that look.
        orders = [places]
        if described == 3:
            a, b, c = places
            orders = [(a, b, c), (b, a, c), (a, c, b)]
        if not any(_loosely_true(said, seen) for said in orders for seen in orders if said != seen):
            chosen.append(places)
    return tuple(chosen)


def _loosely_true(said: tuple[Cell, ...], seen: tuple[Cell, ...]) -> bool:
    """Whether the relations of one placing hold in another for a reader who only compares columns or rows."""
    for i in range(len(said) - 1):
        rows, columns = seen[i + 1][0] - seen[i][0], seen[i + 1][1] - seen[i][1]
        holds = {"left of": columns > 0, "right of": columns < 0, "above": rows > 0, "below": rows < 0}
        if not holds[str(relation(said[i], said[i + 1]))]:
            return False
    return True


def vocabulary() -> list[str]:
    """Every word of every caption of scenes and clips, sorted."""
    grammar = {"a", "an", "of", "and", "moves"}
    return sorted(grammar.union(*CATEGORIES.values()))


# Painting. A thing is one multiply-add on a small tile: canvas * keep + paint * colour.

SHADOW = 0.28
"""Darkest part of the shadow under a thing, as a fraction of the light taken away."""


@dataclass(frozen=True)
class Look:
    """What chance decides about a picture apart from its meaning.

    Attributes:
      offsets: pixels by which each thing leaves the middle of its cell, int (N, 2), down and right.
      scales: diameter of each thing relative to its cell, float (N,).
      tints: added to each thing's RGB, float32 (N, 3).
      paper: RGB of the background, float32 (3,).
      slope: change of brightness from edge to edge, down and right, float (2,).
      grain: where the noise is cut from its sheet, two pixels from 0 to `size` - 1.
    """

    offsets: np.ndarray
    scales: np.ndarray
    tints: np.ndarray
    paper: np.ndarray
    slope: np.ndarray
    grain: tuple[int, int]


def look(rng: np.random.Generator, things: int, size: int) -> Look:
    """Draws a look for a picture of `size` pixels a side."""
    values = rng.random((things, 6), dtype=np.float32)
    common = rng.random(8, dtype=np.float32)
    scales = 0.72 + 0.18 * values[:, 2]
    slack = (1 - scales) / 2 * (size / GRID)  # what a thing can move without leaving its cell
    light = 214 + 32 * common[0]
    return Look(
        offsets=np.rint((values[:, :2] * 2 - 1) * slack[:, None]).astype(int),
        scales=scales,
        tints=(values[:, 3:] * 2 - 1) * np.float32(12),
        paper=light + (common[1:4] * 2 - 1) * np.float32(9),
        slope=(common[4:6] * 2 - 1) * np.float32(16),
        grain=(int(common[6] * size), int(common[7] * size)),
    )


def paint(things: tuple[Thing, ...], centres: np.ndarray, chosen: Look, size: int, out: np.ndarray) -> None:
    """Paints one picture.

    Args:
      centres: row and column of each thing's centre in cells, float (N, 2); 0.5 is the middle of the first cell.
      chosen: `look` for as many things and the same size.
      out: uint8 (size, size, 3), overwritten.
    """
    ramp = _ramp(size)
    y, x = chosen.grain
    light = _grain(size)[y : y + size, x : x + size] + (ramp * chosen.slope[0])[:, None] + ramp * chosen.slope[1]
    canvas = light[:, :, None] + chosen.paper
    for i, thing in enumerate(things):
        keep, cover = _tile(thing.shape, max(4, round(size / GRID * float(chosen.scales[i]))))
        edge = len(keep)
        top, left = (np.rint(centres[i] * (size / GRID)).astype(int) + chosen.offsets[i] - edge // 2).tolist()
        rows, columns = slice(max(top, 0), min(top + edge, size)), slice(max(left, 0), min(left + edge, size))
        inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        colour = np.asarray(COLOURS[thing.colour], np.float32) + chosen.tints[i]
        part = canvas[rows, columns]
        part *= keep[inner][:, :, None]
        part += cover[inner][:, :, None] * colour
    np.clip(canvas, 0, 255, out=canvas)
    out[...] = canvas


def render(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of the scene, uint8 (size, size, 3), RGB."""
    picture: np.ndarray = render_many([scene], size, rng)[0]
    return picture


def render_many(scenes: list[Scene], size: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures of B scenes, uint8 (B, size, size, 3), RGB; the same as B calls of `render` with the same `rng`."""
    out = np.empty((len(scenes), size, size, 3), np.uint8)
    for picture, one in zip(out, scenes, strict=True):
        centres = np.array([thing.cell for thing in one.things], np.float32) + np.float32(0.5)
        paint(one.things, centres, look(rng, len(one.things), size), size, picture)
    return out


@lru_cache
def _ramp(size: int) -> np.ndarray:
    ramp: np.ndarray = np.linspace(-1, 1, size, dtype=np.float32)
    return ramp


@lru_cache
def _grain(size: int) -> np.ndarray:
    """A sheet of noise from which every picture cuts its own piece, float32 (2 size, 2 size)."""
    sheet: np.ndarray = np.random.default_rng(1).standard_normal((2 * size, 2 * size), dtype=np.float32) * np.float32(3)
    return sheet


@lru_cache
def _tile(shape: str, diameter: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of the background a thing leaves, and how much of its colour it adds; float32, both square."""
    margin = max(2, diameter // 5)
    edge = diameter + 2 * margin
    fine = (np.arange(edge * 8, dtype=np.float32) + 0.5) / 8  # 64 samples a pixel make the edges smooth
    axis = (fine - edge / 2) / (diameter / 2)
    inside = _inside(shape, axis[:, None], axis[None, :]).astype(np.float32)
    cover = inside.reshape(edge, 8, edge, 8).mean(axis=(1, 3))
    drop = max(1, margin // 2)
    shadow = np.zeros_like(cover)
    shadow[drop:, drop // 2 :] = cover[: edge - drop, : edge - drop // 2]
    for _ in range(2):
        for axis_number in (0, 1):
            near = [np.roll(shadow, step, axis_number) for step in range(-(drop // 2) - 1, drop // 2 + 2)]
            shadow = np.mean(near, axis=0, dtype=np.float32)
    shade = np.linspace(1.06, 0.9, edge, dtype=np.float32)[:, None]  # lit from above
    return (1 - np.float32(SHADOW) * shadow) * (1 - cover), cover * shade


def _inside(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Which points of the plane belong to a shape of about unit radius; `y` grows downwards."""
    if shape == "circle":
        return np.asarray(x * x + y * y <= 0.95**2)
    if shape == "square":
        return np.asarray(np.maximum(abs(x), abs(y)) <= 0.84)
    if shape == "triangle":
        return np.asarray((y <= 0.82) & (abs(x) <= (y + 0.98) * 0.56))
    return np.asarray((np.maximum(abs(x), abs(y)) <= 0.96) & (np.minimum(abs(x), abs(y)) <= 0.32))
