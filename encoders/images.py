"""Bytes of a still picture -> the RGB array a model wants; never larger than it must be on the way.

Exact mode equals Hugging Face's PIL image processors (resize, then centre crop, in uint8) on plain RGB pictures, and
goes beyond them where they do harm: EXIF orientation is applied, transparency shows white, 16 bit is scaled.
"""

import io
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from encoders.limits import BrokenImage, DecodeLimits, TooManyBytes, TruncatedImage

if TYPE_CHECKING:
    from encoders.base import PixelSpec

ImageKind = Literal["jpeg", "png", "webp", "gif", "bmp"]
Scaling = Literal["exact", "fast"]

# The classes themselves, not Image.open: that one tries other formats too, and warns of bombs by a process-wide limit.
_READERS: dict[ImageKind, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}

MAX_EXACT_PIXELS = 4_000_000
"""Above this even exact mode resizes only what survives the crop: a picture of 1 x 20,000 pixels whose shorter edge
becomes 224 would need 3 GB otherwise. Both passes round, so the two ways differ by up to two grey levels
(tests/encoders/test_images.py)."""

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_MAY_TURN = frozenset({"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"})


def decode_image(
    data: bytes, kind: ImageKind, spec: "PixelSpec", *, limits: DecodeLimits, jpeg_scaling: Scaling
) -> tuple[np.ndarray, int, int]:
    """The picture as the model wants it, with its own size.

    Args:
      data: a whole file.
      kind: what it begins as; a moving picture gives its first frame.
      spec: the model's wishes; normalising is not done here.
      limits: checked before anything is decoded.
      jpeg_scaling: "fast" lets libjpeg decode at 1/2, 1/4 or 1/8 where that still covers the target, and resizes
        only what survives the crop.

    Returns:
      uint8 (spec.height, spec.width, 3), RGB; width and height of the upright original in pixels.

    Raises:
      TooManyBytes, TooManyPixels: above the limits.
      TruncatedImage, BrokenImage: it does not decode to its end.
    """
    if len(data) > limits.max_image_bytes:
        raise TooManyBytes(f"{len(data):,} bytes; the limit is {limits.max_image_bytes:,} (embed.max_image_bytes)")
    try:
        image = _READERS[kind](io.BytesIO(data))
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything on hostile bytes
        raise _refusal(kind, error) from error
    width, height = image.size
    limits.check_pixels(width, height)
    try:
        if jpeg_scaling == "fast" and isinstance(image, JpegImagePlugin.JpegImageFile):
            _shrink_on_load(image, spec)
        image.load()
        orientation = _orientation(image)
        rgb = to_rgb(image)
    except Exception as error:  # noqa: BLE001 - as above
        raise _refusal(kind, error) from error
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
    if orientation in _SIDEWAYS:
        width, height = height, width
    return fit(rgb, spec, size=(width, height), scaling=jpeg_scaling), width, height


def is_animated(data: bytes) -> bool:
    """Whether the bytes of a GIF hold more than one frame; False when that cannot be told."""
    try:
        return bool(GifImagePlugin.GifImageFile(io.BytesIO(data)).is_animated)
    except Exception:  # noqa: BLE001 - as above; decoding it will say what is wrong
        return False


def _refusal(kind: str, error: Exception) -> BrokenImage:
    text = str(error) or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return TruncatedImage(f"a {kind} that ends early: {text}")
    return BrokenImage(f"a {kind} that does not decode: {type(error).__name__}: {text}")


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) when there is none or it cannot be read."""
    if not _MAY_TURN & image.info.keys():
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a bad EXIF block is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _shrink_on_load(image: JpegImagePlugin.JpegImageFile, spec: "PixelSpec") -> None:
    """Lets libjpeg skip detail that resizing would throw away; the decoded picture still covers the target."""
    if image.mode not in ("L", "RGB"):
        return
    if spec.resize == "squash":
        edge = max(spec.width, spec.height)  # both ways round: orientation is applied later
        image.draft(image.mode, (edge, edge))
        return
    scale = spec.shortest_edge / min(image.size)
    image.draft(image.mode, (math.ceil(image.size[0] * scale), math.ceil(image.size[1] * scale)))


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB: transparency on white, 16 bit and float scaled to 8 bit, the rest as Pillow converts."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values (H, W) -> uint8; integers are taken as 16 bit, floats as 0..1 or, when one is larger, as 0..255."""
    if np.issubdtype(values.dtype, np.integer):
        return ((values.astype(np.int64).clip(0, 65_535) + 128) // 257).astype(np.uint8)
    numbers = np.nan_to_num(values)
    scale = 255.0 if numbers.max(initial=0.0) <= 1.0 else 1.0
    rounded: np.ndarray = np.rint((numbers * scale).clip(0, 255)).astype(np.uint8)
    return rounded


def fit(
    image: Image.Image, spec: "PixelSpec", *, size: tuple[int, int] | None = None, scaling: Scaling = "exact"
) -> np.ndarray:
    """Resizes and crops an RGB picture.

    Args:
      size: (width, height) of the original where `image` is already a reduced version of it; it decides the
        aspect ratio.
      scaling: "exact" resizes the whole and then crops, as Hugging Face does; "fast" resizes the surviving part.

    Returns:
      uint8 (spec.height, spec.width, 3); black where the resized picture is smaller than the crop.

    Source: transformers 5, `image_transforms.get_resize_output_image_size` and `center_crop`.
    """
    resample = Image.Resampling[spec.resample.upper()]
    if spec.resize == "squash":
        return np.asarray(image.resize((spec.width, spec.height), resample))
    width, height = _resized(size or image.size, spec.shortest_edge)
    left, pad_left, kept_width = _window(width, spec.width)
    top, pad_top, kept_height = _window(height, spec.height)
    if scaling == "exact" and width * height <= MAX_EXACT_PIXELS:
        whole = np.asarray(image.resize((width, height), resample))
        part = whole[top : top + kept_height, left : left + kept_width]
    else:
        across, down = image.size[0] / width, image.size[1] / height
        right, bottom = (left + kept_width) * across, (top + kept_height) * down
        box = (left * across, top * down, min(right, image.size[0]), min(bottom, image.size[1]))
        part = np.asarray(image.resize((kept_width, kept_height), resample, box=box))
    if part.shape[:2] == (spec.height, spec.width):
        return np.ascontiguousarray(part)
    padded = np.zeros((spec.height, spec.width, 3), np.uint8)
    padded[pad_top : pad_top + kept_height, pad_left : pad_left + kept_width] = part
    return padded


def _resized(size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    """(width, height) with the shorter edge as asked and the longer one cut to an integer."""
    width, height = size
    longest_edge = int(shortest_edge * max(size) / min(size))
    return (shortest_edge, longest_edge) if width <= height else (longest_edge, shortest_edge)


def _window(length: int, wanted: int) -> tuple[int, int, int]:
    """Along one axis: where the kept part begins, the black before it, and its length."""
    if length >= wanted:
        return (length - wanted) // 2, 0, wanted
    return 0, math.ceil((wanted - length) / 2), length
