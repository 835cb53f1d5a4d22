"""Captions of clips are true of their own clip and of no sibling's; the films show what was planned."""

import io
import re

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare import clips, scenes
from pipelines.prepare.clips import Clip
from pipelines.prepare.scenes import Thing

RELATED = re.compile(r"an? (\w+ \w+) moves (\w+) (left of|right of|above|below) an? (\w+ \w+)")
BOTH = re.compile(r"an? (\w+ \w+) moves (\w+) and an? (\w+ \w+) moves (\w+)")
STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def walks(clip):
    """Name -> places (x, y) of the thing at five times."""
    return {
        f"{thing.colour} {thing.shape}": [
            (thing.column + (end[1] - thing.column) * t, thing.row + (end[0] - thing.row) * t)
            for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        for thing, end in zip(clip.things, clip.ends, strict=True)
    }


def moves(walk, word):
    (x, y), (end_x, end_y) = walk[0], walk[-1]
    return (np.sign(end_x - x), np.sign(end_y - y)) == STEP[word]


def is_true(caption, clip):
    places = walks(clip)
    if match := BOTH.fullmatch(caption):
        one, word, other, other_word = match.groups()
        return {one, other} <= places.keys() and moves(places[one], word) and moves(places[other], other_word)
    one, word, link, other = RELATED.fullmatch(caption).groups()
    if not {one, other} <= places.keys() or not moves(places[one], word):
        return False
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(places[one], places[other], strict=True)]
    signed = {"left of": lambda g: g[0], "right of": lambda g: -g[0], "above": lambda g: g[1], "below": lambda g: -g[1]}
    return all(signed[link](gap) > 0 for gap in gaps)


@given(seed=st.integers(0, 2**32), movers=st.sampled_from([1, 2, None]))
def test_a_caption_is_true_of_its_own_clip_and_false_of_its_siblings(seed, movers):
    family = clips.siblings(clips.clip(np.random.default_rng(seed), movers=movers))
    assert len(family) == 4
    for i, said in enumerate(family):
        for j, seen in enumerate(family):
            assert is_true(clips.caption(said), seen) == (i == j)


@given(seed=st.integers(0, 2**32))
def test_the_captions_called_true_are_true(seed):
    clip = clips.clip(np.random.default_rng(seed))
    true = clips.true_captions(clip)
    assert clips.caption(clip) in true
    assert all(is_true(text, clip) for text in true)


@given(seed=st.integers(0, 2**32))
def test_things_never_meet_and_no_caption_of_a_picture_is_true_of_a_clip(seed):
    clip = clips.clip(np.random.default_rng(seed))
    for places in zip(*walks(clip).values(), strict=True):
        for i, (x, y) in enumerate(places):
            assert all(max(abs(x - other_x), abs(y - other_y)) >= 0.5 for other_x, other_y in places[:i])
    if len(clip.things) == 3:  # pictures' captions name three things, no two alike in shape or colour
        looks = [(t.shape, t.colour) for t in clip.things]
        assert any(looks[2][k] == looks[i][k] for i in (0, 1) for k in (0, 1))


def test_siblings_reverse_then_exchange_colours_then_things():
    clip = Clip((Thing("circle", "red", 3, 3), Thing("square", "blue", 1, 2)), ((3, 0), (1, 2)))
    assert [clips.caption(one) for one in clips.siblings(clip)] == [
        "a red circle moves left below a blue square",
        "a red circle moves right below a blue square",
        "a blue circle moves left below a red square",
        "a blue square moves left below a red circle",
    ]


def test_every_word_of_many_captions_is_in_the_vocabulary():
    rng = np.random.default_rng(0)
    said = {word for _ in range(300) for word in clips.caption(clips.clip(rng)).split()}
    assert said <= set(scenes.vocabulary())
    assert scenes.CATEGORIES["motions"] | {"and", "moves"} <= said


def test_the_first_thing_is_where_it_should_be_in_every_frame():
    clip = Clip((Thing("circle", "red", 0, 0), Thing("square", "blue", 2, 2)), ((0, 3), (2, 2)))
    film = clips.frames(clip, [0.0, clips.DURATION_S / 2, clips.DURATION_S], 128, np.random.default_rng(0)).astype(int)
    redness = film[..., 0] - film[..., 2]
    blueness = film[..., 2] - film[..., 0]
    middles = [int(np.average(np.arange(128), weights=(frame > 100).sum(axis=0))) for frame in redness]
    assert middles == pytest.approx([16, 64, 112], abs=5)
    assert len({tuple(np.argwhere(frame > 100).mean(axis=0)) for frame in blueness}) == 1


def test_frame_times_are_middles_of_equal_parts():
    assert clips.frame_times(3) == pytest.approx([0.25, 0.75, 1.25])


def test_the_mp4_is_h264_with_all_frames_and_the_same_bytes_every_time():
    rng = np.random.default_rng(5)
    film = clips.frames(clips.clip(rng), clips.frame_times(12), 128, rng)
    data = clips.encode_mp4(film)
    assert clips.encode_mp4(film) == data
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(container.duration / av.time_base) == pytest.approx(clips.DURATION_S, abs=0.01)
        assert not [key for key in container.metadata if "time" in key]
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == film.shape
    assert np.abs(decoded.astype(int) - film).mean() < 6
