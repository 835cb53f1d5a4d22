"""Content decides what a file is; whatever gives no pixels is a SampleError with a reason."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders.base import PixelSpec
from encoders.decoding import DecodeLimits, NotAnImage, NotAVideo, decode, image_kind, video_kind
from schemas.configs import Embed
from schemas.errors import SampleError

SPEC = PixelSpec(16, 16, "squash", 16, "bilinear", (0, 0, 0), (1, 1, 1))


def run(data, suffix="jpg"):
    return decode(data, suffix=suffix, spec=SPEC, frames=3, limits=DecodeLimits(max_decode_s=5), jpeg_scaling="fast")


def picture(format, **options):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (0, 255, 0)).save(buffer, format, **options)
    return buffer.getvalue()


def moving_gif():
    return picture("GIF", save_all=True, append_images=[Image.new("RGB", (20, 10), "blue")], duration=50)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "mp4", ""])
def test_content_decides_and_not_the_name(format, suffix):
    decoded = run(picture(format), suffix)
    assert (decoded.modality, decoded.width, decoded.height, decoded.duration_s) == ("image", 20, 10, 0.0)
    assert decoded.frame_times_s == ()
    assert decoded.pixels.shape == (1, 16, 16, 3)
    assert np.abs(decoded.pixels.astype(int) - (0, 255, 0)).max() < 5


def test_a_gif_that_moves_is_a_video():
    decoded = run(moving_gif(), "gif")
    assert decoded.modality == "video"
    assert decoded.pixels.shape == (3, 16, 16, 3)
    assert decoded.frame_times_s == pytest.approx((0.0, 0.05, 0.05))


@pytest.mark.parametrize(
    ("data", "suffix", "error", "message"),
    [
        (b"", "jpg", NotAnImage, "got an empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "jpg", NotAnImage, "got a file beginning with b'<!DOCTYPE html>"),
        (b"#EXTM3U\nhttp://example.com/a.ts", "mp4", NotAVideo, "expected MP4.*EXTM3U"),
        (b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00" * 9, "jpg", NotAnImage, "still picture of kind 'avif'; convert"),
        (b"\x80\x04\x95pickle", "png", NotAnImage, "expected JPEG, PNG"),
        (b"RIFF\x00\x00\x00\x00WAVE", "avi", NotAVideo, "RIFF"),
        (picture("TIFF"), "png", NotAnImage, "expected JPEG"),
    ],
)
def test_what_is_neither_is_refused_by_what_it_is(data, suffix, error, message):
    with pytest.raises(error, match=message):
        run(data, suffix)


MAGIC = [
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8X", b"BM\0\0\0\0\0\0\0\0",
    b"\0\0\0\x18ftypmp42", b"\0\0\0\x08moov", b"\x1aE\xdf\xa3", b"RIFF\xff\xff\xff\xffAVI ", b"OggS", b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x00\x00\x01\xba", b"",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=300), st.sampled_from(["jpg", "mp4"]))
@example(b"G" * 189, b"G" * 300, "mp4")
@pytest.mark.filterwarnings("ignore")
def test_garbage_behind_any_magic_is_a_sample_error(magic, rest, suffix):
    try:
        decoded = run(magic + rest, suffix)
    except SampleError:
        return
    assert decoded.pixels.shape[1:] == (16, 16, 3)


def test_kinds_are_told_apart():
    assert [image_kind(magic + bytes(20)) for magic in MAGIC[:5]] == ["jpeg", "png", "gif", "webp", "bmp"]
    assert [video_kind(magic + bytes(20)) for magic in MAGIC[5:13]] == [
        "mov", "mov", "matroska", "avi", "ogg", "flv", "asf", "mpeg",
    ]  # fmt: skip
    assert image_kind(b"BMW is a car") is None


def test_limits_come_from_the_config():
    embed = Embed(max_image_bytes=1, max_video_bytes=2, max_pixels=3, max_decode_s=4.0)
    assert DecodeLimits.of(embed) == DecodeLimits(1, 2, 3, 4.0)
    assert DecodeLimits.of(Embed()) == DecodeLimits()
