"""Captions are true of their own picture and of no sibling's, says a reader that shares no code with the writer."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare import scenes
from pipelines.prepare.scenes import Scene, Thing
from schemas.errors import ConfigError

PHRASE = re.compile(r"an? (\w+) (\w+)(?: (left of|right of|above|below) )?")


def is_true(caption, scene, *, loosely=False):
    """Reads the text, looks into the cells."""
    phrases = PHRASE.findall(caption)
    cells = []
    for colour, shape, _ in phrases:
        here = [(t.column, t.row) for t in scene.things if (t.colour, t.shape) == (colour, shape)]
        if len(here) != 1:
            return False
        cells += here
    for (x, y), (other_x, other_y), (_, _, link) in zip(cells, cells[1:], phrases, strict=False):
        right, down = other_x - x, other_y - y
        gap = {"left of": right, "right of": -right, "above": down, "below": -down}[link]
        across = abs(down) if link.endswith("of") else abs(right)
        if gap <= (0 if loosely else across):
            return False
    return True


@given(seed=st.integers(0, 2**32), objects=st.integers(1, 4), loosely=st.booleans())
def test_a_caption_is_true_of_its_own_picture_and_false_of_its_siblings(seed, objects, loosely):
    family = scenes.siblings(scenes.scene(np.random.default_rng(seed), objects))
    for i, said in enumerate(family):
        for j, seen in enumerate(family):
            assert is_true(scenes.caption(said), seen, loosely=loosely) == (i == j)


@given(seed=st.integers(0, 2**32), objects=st.integers(1, 4))
def test_no_two_siblings_are_the_same_picture(seed, objects):
    family = scenes.siblings(scenes.scene(np.random.default_rng(seed), objects))
    assert len(family) == {1: 1, 2: 3, 3: 4, 4: 4}[objects]
    assert len({frozenset(sibling.things) for sibling in family}) == len(family)
    for sibling in family:
        assert len(sibling.things) == objects
        assert len({thing.cell for thing in sibling.things}) == objects
        described = sibling.things[: sibling.described]
        assert len({t.shape for t in described}) == len({t.colour for t in described}) == min(objects, 3)


@given(seed=st.integers(0, 2**32), objects=st.integers(1, 4))
def test_the_captions_called_true_are_those_an_independent_reader_finds_true(seed, objects):
    scene = scenes.scene(np.random.default_rng(seed), objects)
    true = scenes.true_captions(scene)
    assert scenes.caption(scene) in true
    assert all(is_true(text, scene) for text in true)
    other = scenes.scene(np.random.default_rng(seed + 1), objects)
    assert (scenes.caption(other) in true) == is_true(scenes.caption(other), scene)


def test_siblings_are_colours_then_places_exchanged():
    things = (Thing("circle", "red", 0, 0), Thing("square", "blue", 0, 2), Thing("cross", "green", 3, 2))
    assert [scenes.caption(one) for one in scenes.siblings(Scene(things, 3))] == [
        "a red circle left of a blue square above a green cross",
        "a blue circle left of a red square above a green cross",
        "a red circle right of a blue square above a green cross",
        "a red circle above a blue square below a green cross",
    ]


def test_an_orange_thing_takes_an():
    assert scenes.caption(Scene((Thing("cross", "orange", 1, 1),), 1)) == "an orange cross"


def test_a_diagonal_is_no_relation():
    with pytest.raises(ConfigError, match="diagonal"):
        scenes.caption(Scene((Thing("cross", "red", 0, 0), Thing("circle", "blue", 1, 1)), 2))


@pytest.mark.parametrize("objects", [0, 5])
def test_scenes_have_one_to_four_things(objects):
    with pytest.raises(ConfigError, match="1 to 4"):
        scenes.scene(np.random.default_rng(0), objects)


def test_every_word_of_many_captions_is_in_the_vocabulary():
    rng = np.random.default_rng(0)
    said = {word for _ in range(300) for word in scenes.caption(scenes.scene(rng)).split()}
    assert said <= set(scenes.vocabulary())
    assert set(scenes.COLOURS) | set(scenes.SHAPES) | scenes.CATEGORIES["relations"] <= said


@pytest.mark.parametrize("size", [64, 128, 224])
def test_every_thing_is_painted_in_its_cell_in_its_colour(size):
    rng = np.random.default_rng(3)
    cell = size // scenes.GRID
    for _ in range(20):
        scene = scenes.scene(rng)
        picture = scenes.render(scene, size, rng).astype(int)
        assert picture.shape == (size, size, 3)
        for thing in scene.things:
            middle_y, middle_x = thing.row * cell + cell // 2, thing.column * cell + cell // 2
            found = picture[middle_y - 1 : middle_y + 1, middle_x - 1 : middle_x + 1].mean(axis=(0, 1))
            distance = {name: np.abs(found - rgb).sum() for name, rgb in scenes.COLOURS.items()}
            assert min(distance, key=distance.get) == thing.colour


def test_empty_cells_are_paper():
    rng = np.random.default_rng(4)
    scene = scenes.scene(rng, 1)
    picture = scenes.render(scene, 64, rng)
    taken = scene.things[0]
    for row in range(4):
        for column in range(4):
            piece = picture[row * 16 + 4 : row * 16 + 12, column * 16 + 4 : column * 16 + 12].astype(int)
            colourful = (piece.max(axis=2) - piece.min(axis=2)).mean() > 60
            assert colourful == ((row, column) == taken.cell)


def test_many_pictures_at_once_are_the_pictures_one_by_one():
    scene_list = [scenes.scene(np.random.default_rng(i)) for i in range(5)]
    together = scenes.render_many(scene_list, 64, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    assert np.array_equal(together, np.stack([scenes.render(scene, 64, rng) for scene in scene_list]))


def test_pictures_of_one_scene_differ_but_not_for_one_seed():
    scene = scenes.scene(np.random.default_rng(0))
    first, again, other = (scenes.render(scene, 64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_shapes_of_one_size_can_be_told_apart():
    masks = [scenes._tile(shape, 12)[1] for shape in scenes.SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.abs(one - other).sum() > 0.15 * one.sum()


def test_scenes_need_no_torch():
    script = "import sys, pipelines.prepare.scenes, pipelines.prepare.clips; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
