"""Bytes of a sample -> uint8 pixels for a model: content decides what it is, limits come before decoding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from encoders.images import ImageKind, Scaling, decode_image, is_animated
from encoders.limits import (
    BrokenImage,
    BrokenVideo,
    DecodeLimits,
    DecodeTimeout,
    NoFrames,
    NotAnImage,
    NotAVideo,
    TooManyBytes,
    TooManyPixels,
    TruncatedImage,
)
from encoders.videos import VideoKind, decode_video
from schemas.samples import VIDEO_SUFFIXES, Modality

if TYPE_CHECKING:
    from encoders.base import PixelSpec

__all__ = [
    "BrokenImage",
    "BrokenVideo",
    "DecodeLimits",
    "DecodeTimeout",
    "Decoded",
    "NoFrames",
    "NotAVideo",
    "NotAnImage",
    "TooManyBytes",
    "TooManyPixels",
    "TruncatedImage",
    "decode",
    "image_kind",
    "video_kind",
]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture or clip, ready to be batched.

    Attributes:
      pixels: uint8 (F, H, W, 3), RGB; F is 1 for an image.
      modality: what the content turned out to be.
      width, height: of the upright original, in pixels.
      duration_s: 0.0 for images.
      frame_times_s: when each frame is shown, from the beginning of the clip; empty for images.
    """

    pixels: np.ndarray
    modality: Modality
    width: int
    height: int
    duration_s: float = 0.0
    frame_times_s: tuple[float, ...] = ()


def decode(
    data: bytes, *, suffix: str, spec: "PixelSpec", frames: int, limits: DecodeLimits, jpeg_scaling: Scaling
) -> Decoded:
    """A sample's pixels.

    Args:
      data: the whole file.
      suffix: what its name says it is; only words the refusal of what is neither.
      spec: how the model wants its pictures.
      frames: how many to sample from a clip, evenly in time.
      limits: of bytes, pixels and seconds.
      jpeg_scaling: see `decode_image`.

    Raises:
      SampleError: one of the subclasses in `encoders.limits`, for every input that gives no pixels.
    """
    still = image_kind(data)
    if still is not None and not (still == "gif" and is_animated(data)):
        pixels, width, height = decode_image(data, still, spec, limits=limits, jpeg_scaling=jpeg_scaling)
        return Decoded(pixels[None], "image", width, height)
    moving: VideoKind | None = "gif" if still == "gif" else video_kind(data)
    if moving is None:
        raise _neither(data, suffix)
    clip = decode_video(data, moving, spec, frames=frames, limits=limits)
    return Decoded(clip.pixels, "video", clip.width, clip.height, clip.duration_s, clip.frame_times_s)


def image_kind(data: bytes) -> ImageKind | None:
    """Which kind of picture the first bytes announce; None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # two letters prove little; the reserved fields are zero
        return "bmp"
    return None


# Brands of still pictures in the container of MP4 (ISO 23008-12, AVIF 1.1).
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})


def video_kind(data: bytes) -> VideoKind | None:
    """Which container the first bytes announce; None for anything else, playlists of other files among it."""
    box = data[4:8]
    if box in _MOV_BOXES:
        return None if box == b"ftyp" and data[8:12] in _STILL_BRANDS else "mov"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    if data.startswith(b"OggS"):
        return "ogg"
    if data.startswith(b"FLV\x01"):
        return "flv"
    if data.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "asf"
    if data.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return "mpegts"
    return None


def _neither(data: bytes, suffix: str) -> NotAnImage | NotAVideo:
    if not data:
        found = "an empty file"
    elif data[4:8] == b"ftyp":
        found = f"a still picture of kind {data[8:12].decode('ascii', 'replace')!r}; convert it to JPEG, PNG or WebP"
    else:
        found = f"a file beginning with {data[:16]!r}"
    if suffix.lower() in VIDEO_SUFFIXES:
        return NotAVideo(f"expected MP4, MOV, Matroska, WebM, AVI or animated GIF, got {found}")
    return NotAnImage(f"expected JPEG, PNG, WebP, GIF or BMP, got {found}")
