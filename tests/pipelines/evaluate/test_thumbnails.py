"""Thumbnails: small, whole, in proportion; clips as strips in order of time."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from encoders.decoding import DecodeLimits, NotAnImage
from pipelines.evaluate.thumbnails import MOST_BYTES, fitted, thumbnail

LIMITS = DecodeLimits()


def saved(image, kind="PNG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


@given(st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)))
def test_a_fitted_size_stays_inside_the_box_and_the_original(size):
    width, height = fitted(size, (264, 198))
    assert 1 <= width <= min(264, size[0])
    assert 1 <= height <= min(198, size[1])
    assert width == 264 or height == 198 or (width, height) == size


def test_a_picture_keeps_its_proportions_and_is_not_cropped():
    image = Image.new("RGB", (800, 400), "white")
    image.paste("red", (0, 0, 100, 400))
    image.paste("blue", (700, 0, 800, 400))
    found = opened(thumbnail(saved(image), "image", (800, 400), limits=LIMITS))
    assert found.size == (264, 132)
    left, right = (np.array(found.getpixel((x, 66))) for x in (8, 255))
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_noise_of_any_size_fits_the_limit():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    data = thumbnail(saved(Image.fromarray(noise)), "image", (1200, 900), limits=LIMITS, box=(800, 600))
    assert len(data) <= MOST_BYTES


def test_a_clip_is_a_strip_of_its_frames_in_order_of_time():
    frames = [Image.new("RGB", (60, 60), colour) for colour in ("red", "lime", "blue", "white")]
    clip = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=500)
    strip = opened(thumbnail(clip, "video", (60, 60), limits=LIMITS))
    assert strip.size == (4 * 60 + 3 * 4, 60)
    middles = [strip.getpixel((30 + 64 * number, 30)) for number in range(4)]
    for found, wanted in zip(middles, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], strict=True):
        assert np.abs(np.subtract(found, wanted)).max() < 40


def test_what_is_no_picture_is_refused():
    with pytest.raises(NotAnImage, match="got a file beginning"):
        thumbnail(b"not a picture", "image", (10, 10), limits=LIMITS)
