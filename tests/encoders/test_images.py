"""Still pictures: equal to Hugging Face's processor where that is right, and right where it is not."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from encoders import images
from encoders.base import PixelSpec
from encoders.images import decode_image, fit, to_rgb
from encoders.limits import BrokenImage, DecodeLimits, TooManyBytes, TooManyPixels, TruncatedImage

CROP = PixelSpec(32, 32, "crop", 32, "bicubic", (0, 0, 0), (1, 1, 1))
SQUASH = PixelSpec(24, 40, "squash", 24, "bilinear", (0, 0, 0), (1, 1, 1))
LIMITS = DecodeLimits()
PIXELS_ONLY = {"do_rescale": False, "do_normalize": False}
RED, WHITE = (255, 0, 0), (255, 255, 255)


def photo(width, height, seed=0):
    """Smooth colours, as photos have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.SMOOTH)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data, kind="png", spec=CROP, limits=LIMITS, jpeg_scaling="exact"):
    return decode_image(data, kind, spec, limits=limits, jpeg_scaling=jpeg_scaling)


sides = st.integers(1, 150)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(8, 60), st.integers(8, 60), st.integers(8, 60))
def test_exact_mode_equals_hugging_faces_resize_and_crop(width, height, edge, crop_height, crop_width):
    spec = PixelSpec(crop_height, crop_width, "crop", edge, "bicubic", (0, 0, 0), (1, 1, 1))
    crop = {"height": crop_height, "width": crop_width}
    reference = CLIPImageProcessorPil(
        size={"shortest_edge": edge}, crop_size=crop, do_rescale=False, do_normalize=False
    )
    image = photo(width, height)
    expected = reference(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)

    pixels, *size = decode(encode(image), spec=spec)

    assert size == [width, height]
    np.testing.assert_array_equal(pixels, expected)


@settings(max_examples=30, deadline=None)
@given(sides, sides)
def test_exact_mode_equals_hugging_faces_squash(width, height):
    size = {"height": SQUASH.height, "width": SQUASH.width}
    reference = SiglipImageProcessorPil(
        size=size, resample=Image.Resampling.BILINEAR, do_rescale=False, do_normalize=False
    )
    image = photo(width, height)
    expected = reference(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(decode(encode(image), spec=SQUASH)[0], expected)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(["nearest", "box", "bilinear", "bicubic", "lanczos"]))
@example(54, 31, "bicubic")
def test_resizing_only_what_survives_the_crop_changes_two_grey_levels_at_most(width, height, resample):
    spec = PixelSpec(30, 28, "crop", 32, resample, (0, 0, 0), (1, 1, 1))
    image = photo(width, height)
    whole, part = fit(image, spec, scaling="exact"), fit(image, spec, scaling="fast")
    if resample in ("nearest", "box"):  # a half-way point may fall to either side; few do
        assert np.mean(whole != part) < 0.2
    else:
        # half a level of the first pass, times weights of less than 1.5 in absolute sum, and half of the second
        assert np.abs(whole.astype(int) - part).max() <= 2


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1201, 333), (65, 1000), (20, 20)])
@pytest.mark.parametrize("spec", [CROP, SQUASH])
def test_fast_jpegs_stay_close_to_exact_ones(size, spec):
    data = encode(photo(*size), "JPEG", quality=95)
    exact, *exact_size = decode(data, "jpeg", spec)
    fast, *fast_size = decode(data, "jpeg", spec, jpeg_scaling="fast")
    assert fast_size == exact_size == list(size)
    assert np.abs(exact.astype(int) - fast).mean() < 5  # strong small colours; photos differ by about 1


def test_fast_mode_decodes_no_more_than_it_needs(monkeypatch):
    seen = []
    monkeypatch.setattr(images, "to_rgb", lambda image: seen.append(image.size) or to_rgb(image))
    data = encode(photo(640, 480), "JPEG")
    decode(data, "jpeg", CROP, jpeg_scaling="fast")
    decode(data, "jpeg", CROP, jpeg_scaling="exact")
    assert seen == [(80, 60), (640, 480)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("jpeg_scaling", ["exact", "fast"])
def test_exif_orientation_is_applied(orientation, format, jpeg_scaling):
    upright = Image.new("RGB", (64, 32), WHITE)
    upright.paste(RED, (0, 0, 32, 16))  # red at the upper left, wider than high
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera held that way stores it
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    pixels, width, height = decode(
        encode(stored, format, exif=exif, quality=95) if format != "PNG" else encode(stored, exif=exif),
        format.lower(), PixelSpec(16, 32, "squash", 16, "bilinear", (0, 0, 0), (1, 1, 1)), jpeg_scaling=jpeg_scaling,
    )  # fmt: skip

    assert (width, height) == (64, 32)
    assert np.abs(pixels[3, 6].astype(int) - RED).max() < 30
    assert all(np.abs(pixels[y, x].astype(int) - WHITE).max() < 30 for y, x in ((3, 26), (12, 6), (12, 26)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_refuse_a_picture():
    data = encode(photo(40, 40), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, "jpeg")[0], decode(encode(photo(40, 40), "JPEG"), "jpeg")[0])


def grey16(value):
    return Image.fromarray(np.full((40, 40), value, np.uint16))


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (Image.new("1", (40, 40), 1), "PNG", WHITE),
        (Image.new("L", (40, 40), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (40, 40), (0, 0)), "PNG", WHITE),
        (Image.new("LA", (40, 40), (50, 255)), "PNG", (50, 50, 50)),
        (Image.new("RGBA", (40, 40), (255, 0, 0, 0)), "PNG", WHITE),
        (Image.new("RGBA", (40, 40), (255, 0, 0, 255)), "WEBP", RED),
        (Image.new("RGBA", (40, 40), (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (Image.new("RGB", (40, 40), RED).quantize(4), "PNG", RED),
        (Image.new("RGB", (40, 40), RED).quantize(4), "GIF", RED),
        (Image.new("RGB", (40, 40), RED), "BMP", RED),
        (Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG", RED),
        (grey16(65_535), "PNG", WHITE),
        (grey16(32_896), "PNG", (128, 128, 128)),
        (grey16(255), "PNG", (1, 1, 1)),
    ],
)
def test_every_mode_becomes_the_colour_a_person_sees(image, format, expected):
    pixels, _, _ = decode(encode(image, format), format.lower())
    assert np.abs(pixels[16, 16].astype(int) - expected).max() <= 2


def test_palette_transparency_is_white():
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(decode(encode(image, transparency=1))[0][5, 5], WHITE)
    np.testing.assert_array_equal(decode(encode(image, "GIF", transparency=1), "gif")[0][5, 5], WHITE)
    np.testing.assert_array_equal(decode(encode(Image.new("RGB", (40, 40), RED), transparency=RED))[0][5, 5], WHITE)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[0.0, 128.0, 255.0, 300.0]], np.float32), [0, 128, 255, 255]),
        (np.array([[0, 257, 65_535, 70_000]], np.int32), [0, 1, 255, 255]),
    ],
)
def test_float_and_integer_pictures_are_scaled(values, expected):
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (30_000, 1)])
@pytest.mark.parametrize("spec", [CROP, SQUASH])
def test_extreme_shapes_give_the_models_shape(size, spec):
    pixels, *_ = decode(encode(Image.new("RGB", size, RED)), spec=spec)
    assert pixels.shape == (spec.height, spec.width, 3)
    assert pixels.dtype == np.uint8
    assert np.all(pixels == RED)


def test_limits_come_before_decoding():
    bomb = bytearray(encode(Image.new("RGB", (10, 10))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # IHDR says 3.6 gigapixels
    header = bytes(bomb[:29]) + zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(TooManyPixels, match="60000x60000 pixels; the limit is 100,000,000"):
        decode(header + bytes(bomb[33:]))
    with pytest.raises(TooManyBytes, match="embed.max_image_bytes"):
        decode(encode(photo(40, 40)), limits=DecodeLimits(max_image_bytes=10))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_cut_picture_is_refused_at_every_length(format):
    data = encode(photo(50, 50), format)
    for length in range(12, len(data) - 40, max(1, len(data) // 25)):
        with pytest.raises(BrokenImage, match=format.lower()):
            decode(data[:length], format.lower())
    with pytest.raises(TruncatedImage if format != "WEBP" else BrokenImage, match=format.lower()):
        decode(data[: len(data) * 2 // 3], format.lower())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_give_pixels_or_a_refusal(format, data):
    damaged = bytearray(encode(photo(30, 30), format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels, width, height = decode(bytes(damaged), format.lower(), limits=DecodeLimits(max_pixels=1_000_000))
    except (BrokenImage, TooManyPixels):
        return
    assert pixels.shape == (32, 32, 3)
    assert 0 < width * height <= 1_000_000


def test_a_colour_profile_does_no_harm():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(Image.new("RGB", (40, 40), RED), icc_profile=profile)
    assert np.all(decode(data)[0] == RED)
