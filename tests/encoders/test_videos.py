"""Clips: the frame shown at each sampled time, whatever the container says, and refusals for what is none."""

import io
import tracemalloc

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders import videos
from encoders.base import PixelSpec
from encoders.limits import BrokenVideo, DecodeLimits, DecodeTimeout, NoFrames, TooManyBytes, TooManyPixels
from encoders.videos import decode_video, sample_times

SPEC = PixelSpec(16, 16, "squash", 16, "bilinear", (0, 0, 0), (1, 1, 1))
LIMITS = DecodeLimits()
FORMATS = [
    ("mp4", "libx264", "mov"),
    ("matroska", "libx264", "matroska"),
    ("avi", "mpeg4", "avi"),
    ("gif", "gif", "gif"),
]


def film(
    levels, container="mp4", codec="libx264", *, starts=None, rotation=0, size=(64, 48), gop=250, bframes=2, target=None
):
    """A clip at 25 frames a second whose frame i is grey of levels[i]; starts in units of 1/25 s for a varying rate."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"bf": str(bframes), "sc_threshold": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        for index, level in enumerate(levels):
            picture = np.full((size[1], size[0], 3), level, np.uint8)
            picture[: size[1] // 2, : size[0] // 2] = 255 if rotation else level
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = starts[index] if starts else index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def sound(container="mp4"):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream("aac", rate=44_100, layout="mono")
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, index * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def shades_of(count):
    """Grey levels; neighbours differ by about 100, so a frame too early or too late shows."""
    return np.arange(count) * 97 % 200 + 20


def levels(clip):
    return clip.pixels.reshape(len(clip.pixels), -1).mean(axis=1)


@pytest.mark.parametrize(("container", "codec", "kind"), FORMATS)
def test_frames_are_those_shown_at_evenly_spaced_times(container, codec, kind):
    shades = shades_of(40)
    clip = decode_video(film(shades, container, codec), kind, SPEC, frames=4, limits=LIMITS)
    # 40 frames of 0.04 s; the middles of four quarters are 0.2, 0.6, 1.0, 1.4 s, where frames 5, 15, 25, 35 begin
    assert clip.frame_times_s == pytest.approx([0.2, 0.6, 1.0, 1.4])
    assert clip.duration_s == pytest.approx(1.6)
    assert (clip.width, clip.height, clip.pixels.shape) == (64, 48, (4, 16, 16, 3))
    # The palette of the GIF has four shades of blue and eight of red and green.
    np.testing.assert_allclose(levels(clip), shades[[5, 15, 25, 35]], atol=40 if codec == "gif" else 10)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 12), st.integers(0, 3))
def test_a_varying_frame_rate_is_sampled_by_time_whatever_the_key_frames(gaps, frames, gop, bframes):
    starts = [0, *np.cumsum(gaps).tolist()]
    shades = shades_of(len(starts))
    data = film(shades, starts=starts, gop=gop, bframes=bframes)

    clip = decode_video(data, "mov", SPEC, frames=frames, limits=LIMITS)

    ticks = clip.duration_s * 25
    expected = [max(i for i, start in enumerate(starts) if start <= at + 1e-6) for at in sample_times(ticks, frames)]
    assert clip.frame_times_s == pytest.approx([starts[i] / 25 for i in expected])
    np.testing.assert_allclose(levels(clip), shades[expected], atol=10)


def test_jumping_to_key_frames_changes_nothing_and_saves_decoding(monkeypatch):
    data = film(shades_of(200), gop=10)
    decoded = []
    decode_on = videos._decoded
    monkeypatch.setattr(
        videos, "_decoded", lambda *args: (decoded.append(pair[0]) or pair for pair in decode_on(*args))
    )
    jumped = decode_video(data, "mov", SPEC, frames=3, limits=LIMITS)
    few = len(decoded)
    timeline = videos._timeline
    monkeypatch.setattr(videos, "_timeline", lambda *args: timeline(*args)._replace(seekable=False))
    straight = decode_video(data, "mov", SPEC, frames=3, limits=LIMITS)

    np.testing.assert_array_equal(jumped.pixels, straight.pixels)
    assert jumped.frame_times_s == straight.frame_times_s
    assert few < 40 < len(decoded) - few


def test_one_frame_is_repeated():
    clip = decode_video(film([100]), "mov", SPEC, frames=3, limits=LIMITS)
    assert clip.frame_times_s == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(levels(clip), 100, atol=4)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (12, 3)), (180, (12, 12)), (-90, (3, 12))])
def test_rotation_metadata_is_applied(rotation, corner):
    clip = decode_video(film([0] * 3, rotation=rotation), "mov", SPEC, frames=1, limits=LIMITS)
    assert (clip.width, clip.height) == ((64, 48) if rotation == 180 else (48, 64))
    bright = clip.pixels[0, ..., 0] > 128
    assert bright[corner]
    assert bright.mean() == pytest.approx(0.25, abs=0.05)


def test_transparent_frames_of_a_gif_show_white():
    first = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    first.paste((0, 0, 255, 255), (0, 0, 8, 16))
    second = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[second], duration=100, disposal=2)
    clip = decode_video(buffer.getvalue(), "gif", SPEC, frames=2, limits=LIMITS)
    assert clip.pixels[:, 8, 3].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert clip.pixels[:, 8, 12].tolist() == [[255, 255, 255], [0, 0, 255]]
    assert clip.duration_s == pytest.approx(0.2)


def test_sound_alone_has_no_frames():
    with pytest.raises(NoFrames, match="no picture in the clip, only audio"):
        decode_video(sound(), "mov", SPEC, frames=2, limits=LIMITS)


def test_limits_are_kept():
    data = film([0] * 5)
    with pytest.raises(TooManyBytes, match="embed.max_video_bytes"):
        decode_video(data, "mov", SPEC, frames=2, limits=DecodeLimits(max_video_bytes=100))
    with pytest.raises(TooManyPixels, match="64x48 pixels"):
        decode_video(data, "mov", SPEC, frames=2, limits=DecodeLimits(max_pixels=1000))
    with pytest.raises(DecodeTimeout, match="embed.max_decode_s"):
        decode_video(data, "mov", SPEC, frames=2, limits=DecodeLimits(max_decode_s=1e-9))


@pytest.mark.parametrize(("container", "codec", "kind"), [row for row in FORMATS if row[2] in ("mov", "avi")])
def test_a_cut_clip_is_refused_where_the_container_tells(container, codec, kind):
    data = film(np.linspace(0, 255, 30), container, codec)
    for fraction in (0.02, 0.3, 0.8):
        with pytest.raises(BrokenVideo, match=kind):
            decode_video(data[: int(len(data) * fraction)], kind, SPEC, frames=2, limits=LIMITS)


def test_a_cut_mp4_with_its_index_in_front_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for noise in np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode())
    data = (tmp_path / "a.mp4").read_bytes()
    assert decode_video(data, "mov", SPEC, frames=2, limits=LIMITS).pixels.shape[0] == 2
    for fraction in (0.3, 0.6, 0.9):
        with pytest.raises(BrokenVideo, match="mov"):
            decode_video(data[: int(len(data) * fraction)], "mov", SPEC, frames=2, limits=LIMITS)


@pytest.mark.parametrize(("container", "codec", "kind"), FORMATS)
def test_damaged_clips_give_frames_or_a_refusal(container, codec, kind):
    whole = film(np.linspace(0, 255, 12), container, codec)
    rng = np.random.default_rng(1)
    limits = DecodeLimits(max_pixels=1_000_000, max_decode_s=5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 20)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            assert decode_video(bytes(damaged), kind, SPEC, frames=2, limits=limits).pixels.shape == (2, 16, 16, 3)
        except (BrokenVideo, NoFrames, TooManyPixels, DecodeTimeout):
            refused += 1
    assert refused < 60


def test_nothing_but_the_given_bytes_is_ever_opened(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(film([0] * 3))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile {secret}\n"):
        for kind in ("mov", "matroska", "avi", "mpegts", "gif"):
            with pytest.raises((BrokenVideo, NoFrames)):
                decode_video(text.encode(), kind, SPEC, frames=2, limits=LIMITS)


def test_memory_holds_the_sampled_frames_only():
    data = film(np.linspace(0, 255, 120), size=(320, 240))
    tracemalloc.start()
    decode_video(data, "mov", SPEC, frames=4, limits=LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 320 * 240 * 3  # 120 frames would be ten times this
