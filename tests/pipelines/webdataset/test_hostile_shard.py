"""A shard of several hundred odd, broken and hostile files: each ends as pixels or as a reject, nothing raises."""

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections import Counter

import av
import numpy as np
import pytest
from PIL import Image

from encoders.base import PixelSpec
from encoders.decoding import DecodeLimits, decode
from pipelines.webdataset.samples import ReadCounts, read_samples
from schemas.configs import Captions, Embed
from schemas.errors import SampleError
from schemas.rejects import Reject, to_table

SPEC = PixelSpec(32, 32, "crop", 32, "bicubic", (0, 0, 0), (1, 1, 1))
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(width=48, height=36, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def clip(container="mp4", audio_only=False):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        if audio_only:
            stream = output.add_stream("aac", rate=44_100, layout="mono")
            frames = [av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono") for _ in range(8)]
        else:
            stream = output.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            frames = [av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * i, np.uint8), "rgb24") for i in range(8)]
        for index, frame in enumerate(frames):
            frame.pts = index * (1024 if audio_only else 1)
            if audio_only:
                frame.sample_rate = 44_100
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels to speak of."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def good():
    """suffix, content of odd files that must come out as pixels."""
    image = photo()
    for suffix, format in FORMATS.items():
        for size in ((1, 1), (1, 300), (3000, 1), (33, 32), (500, 20)):
            yield suffix, encode(photo(*size), format)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield (
            "png",
            encode(image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode), "PNG"),
        )
    for mode in ("1", "L", "P", "RGBA"):
        yield "bmp", encode(image.convert(mode), "BMP")
    yield "jpg", encode(image.convert("CMYK"), "JPEG")
    yield "jpg", encode(image.convert("L"), "JPEG", progressive=True)
    yield "png", encode(image.quantize(7), "PNG", transparency=3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "webp", "png"):
            yield suffix, encode(image, FORMATS[suffix], exif=exif)
    for suffix in ("png", "bmp", "mp4", "gif"):  # wrong extensions: content decides
        yield suffix, encode(image, "JPEG")
    yield "jpg", clip()
    yield "gif", encode(image, "GIF", save_all=True, append_images=[photo(seed=n) for n in range(5)], duration=40)
    yield "webp", encode(image, "WEBP", save_all=True, append_images=[photo(seed=1)])
    yield "jpg", encode(image, "JPEG") + b"trailing garbage" * 100
    for container, suffix in (("mp4", "mp4"), ("mov", "mov"), ("matroska", "mkv"), ("avi", "avi")):
        yield suffix, clip(container)


def bad():
    """suffix, content of files that must be refused."""
    image = photo(200, 150)
    for suffix, format in FORMATS.items():
        whole = encode(image, format)
        for part in range(1, 20):
            yield suffix, whole[: len(whole) * part // 21]
        yield suffix, whole[:4]
        yield suffix, b""
        yield suffix, bytes(500)
    for suffix, container in (("mp4", "mp4"), ("avi", "avi")):
        whole = clip(container)
        for part in range(1, 10):
            yield suffix, whole[: len(whole) * part // 11]
    yield "png", png_header(60_000, 60_000)
    yield "png", png_header(2**31 - 1, 2**31 - 1)
    yield "gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;"
    yield "bmp", b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 2**30, 2**30, 1, 24) + bytes(24)
    yield "jpg", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xd9"
    yield "webp", b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff\xff\xff\xff" + bytes(20)
    yield "jpg", b"<html><body>404</body></html>"
    yield "jpg", pickle.dumps({"a": print})
    yield "png", b"\x93NUMPY\x01\0v\0{'descr': '|O'}"
    yield "mp4", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    yield "mp4", clip(audio_only=True)
    yield "mp4", b"\0\0\0\x18ftypmp42" + bytes(100)
    yield "mp4", b"\0\0\0\x01moov\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(50)
    yield "jpg", encode(image, "TIFF")
    yield "jpg", encode(image, "AVIF")
    rng = np.random.default_rng(0)
    for suffix in (*FORMATS, "mp4", "webm", "mkv", "avi", "mov"):
        for _ in range(12):
            yield suffix, rng.bytes(int(rng.integers(1, 2000)))


def pack(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def run(data):
    """(rows, rejects, counts), as the embed job does it."""
    counts = ReadCounts()
    rows, rejects = [], []
    limits = DecodeLimits.of(Embed())
    source = read_samples(
        io.BytesIO(data), shard="s.tar", captions=Captions(), key_scope="dataset", embed=Embed(), counts=counts
    )
    for item in source:
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        try:
            done = decode(item.data, suffix=item.suffix, spec=SPEC, frames=2, limits=limits, jpeg_scaling="fast")
        except SampleError as error:
            name = type(error).__name__
            rejects.append(
                Reject(item.key, item.shard, item.position, item.offset, item.size, "decode", name, str(error))
            )
            continue
        assert done.pixels.shape == (2 if done.modality == "video" else 1, 32, 32, 3)
        rows.append(item)
    return rows, rejects, counts


@pytest.mark.filterwarnings("ignore")
def test_odd_files_become_pixels_and_broken_ones_rejects_and_none_is_lost():
    odd, broken = list(good()), list(bad())
    members = [(f"good-{i:03}.{suffix}", data) for i, (suffix, data) in enumerate(odd)]
    members += [(f"bad-{i:03}.{suffix}", data) for i, (suffix, data) in enumerate(broken)]
    order = np.random.default_rng(0).permutation(len(members))

    rows, rejects, counts = run(pack([members[i] for i in order]))

    assert len(members) > 300
    assert {row.key for row in rows} ^ {name.partition(".")[0] for name, _ in members[: len(odd)]} == set()
    assert {reject.key for reject in rejects} == {name.partition(".")[0] for name, _ in members[len(odd) :]}
    assert len(rows) + len(rejects) == len(members) == counts.samples
    reasons = Counter(reject.error for reject in rejects)
    assert set(reasons) == {
        "NotAnImage",
        "NotAVideo",
        "TruncatedImage",
        "BrokenImage",
        "BrokenVideo",
        "NoFrames",
        "TooManyPixels",
    }
    assert all(reject.message for reject in rejects)
    assert to_table(rejects).num_rows == len(rejects)


def test_hostile_names_captions_and_groupings_are_accounted_for():
    jpeg = encode(photo(), "JPEG")
    names = [
        "../up",
        "/abs/path",
        "a" * 5000,
        "ünï/çødé 猫",
        "line\nbreak",
        "tab\t",
        "\udcff\udcfe",
        "a b",
        "x/../y",
        "-rf",
        "$(id)",
        "CON",
    ]
    members = [(f"{name}.jpg", jpeg) for name in names]
    captions = {
        "txt": [b"\xff\xfe", b"", b"\0\0", "ﷺ".encode() * 1000, b"\xed\xa0\x80"],
        "json": [b"{", b"null", b'"text"', b"[" * 200_000, b'{"caption": {"a": [1]}}', b'{"caption": "\\ud800"}'],
    }
    captions["json"] += [b"NaN", b'{"a":' * 50_000 + b"1" + b"}" * 50_000]
    captions["json"] += [json.dumps({"captions": ["ok", "x" * 100_000]}).encode()]
    for suffix, contents in captions.items():
        for index, content in enumerate(contents):
            members += [(f"caption-{suffix}-{index}.jpg", jpeg), (f"caption-{suffix}-{index}.{suffix}", content)]
    members += [
        ("twice.jpg", jpeg),
        ("twice.jpg", jpeg),
        ("split.jpg", jpeg),
        ("between.jpg", jpeg),
        ("split.txt", b"late"),
    ]
    members += [
        ("dots.1.2.jpg", jpeg),
        ("dots.3.jpg", jpeg),
        ("words.txt", b"alone"),
        ("evil.pyd", b"MZ"),
        ("evil.pkl", b"\x80"),
    ]

    rows, rejects, counts = run(pack(members))

    errors = Counter(reject.error for reject in rejects)
    assert errors == {"KeyTooLong": 1, "SecondVisualMember": 2, "SplitKey": 1, "NoVisualMember": 2}
    assert len(rows) == len(names) - 1 + 5 + 9 + 4
    assert counts.samples + counts.rejects == len(rows) + len(rejects)
    assert counts.caption_errors == 2 + 7
    for row in rows:
        "".join((row.key, row.metadata, *row.captions)).encode("utf-8")
    assert not os.path.exists("../up.jpg")
