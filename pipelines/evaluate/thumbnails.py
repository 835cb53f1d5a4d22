"""Small JPEGs of items for pages and contact sheets: a picture as it is, a clip as a strip of its frames."""

import io

import numpy as np
from PIL import Image

from encoders.base import PixelSpec
from encoders.decoding import DecodeLimits, decode

MOST_BYTES = 12_000
"""Of one thumbnail: a report shows some hundred and should open from an e-mail."""

_QUALITIES = (80, 70, 60, 45, 30)
_STRIP_FRAMES = 4
_STRIP_GAP = 4  # pixels between frames


def thumbnail(
    data: bytes, modality: str, size: tuple[int, int], *, limits: DecodeLimits, box: tuple[int, int] = (264, 198)
) -> bytes:
    """A JPEG of at most `MOST_BYTES`; the same bytes for the same item.

    Args:
      data: the item's file.
      modality: of the embedding row; a clip becomes a strip of four frames about twice as wide as `box`.
      size: (width, height) of the upright original, from the embedding row.
      limits: as for embedding.
      box: (width, height) in pixels that a picture must fit into.

    Raises:
      SampleError: the item cannot be decoded.
    """
    if modality == "video":
        inner = ((2 * box[0] - (_STRIP_FRAMES - 1) * _STRIP_GAP) // _STRIP_FRAMES, box[1])
        frames = picture(data, size, limits=limits, box=inner, frames=_STRIP_FRAMES)
    else:
        frames = picture(data, size, limits=limits, box=box, frames=1)
    return _smallest(_side_by_side(frames))


def picture(
    data: bytes, size: tuple[int, int], *, limits: DecodeLimits, box: tuple[int, int], frames: int
) -> np.ndarray:
    """An item at display size, whole and in its own proportions.

    Returns:
      uint8 (F, H, W, 3), H and W within the box; F = 1 for a still picture.

    Raises:
      SampleError: the item cannot be decoded.
    """
    width, height = fitted(size, box)
    spec = PixelSpec(
        height=height,
        width=width,
        resize="squash",
        shortest_edge=min(width, height),
        resample="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return decode(data, suffix="", spec=spec, frames=frames, limits=limits, jpeg_scaling="fast").pixels


def fitted(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size within the box and not beyond the original, proportions kept, each side at least 1.

    >>> fitted((640, 480), (264, 198)), fitted((1, 20_000), (264, 198))
    ((264, 198), (1, 198))
    """
    scale = min(1.0, box[0] / max(size[0], 1), box[1] / max(size[1], 1))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _side_by_side(frames: np.ndarray) -> Image.Image:
    """Frames uint8 (F, H, W, 3) from left to right, in order of time."""
    count, height, width = frames.shape[:3]
    strip = Image.new("RGB", (count * width + (count - 1) * _STRIP_GAP, height), "white")
    for number, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame), (number * (width + _STRIP_GAP), 0))
    return strip


def _smallest(image: Image.Image) -> bytes:
    """JPEG at the best quality that keeps the limit; where none does (noise), at half the size again."""
    for quality in _QUALITIES:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= MOST_BYTES:
            return data.getvalue()
    return _smallest(image.resize((max(1, image.width // 2), max(1, image.height // 2))))
