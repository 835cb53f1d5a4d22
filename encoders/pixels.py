"""How a picture is resized for a model, read from the model's own files, and pixels -> model input on the device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch

from encoders.base import PixelSpec
from encoders.model_files import read_json
from schemas.errors import ModelError

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

RESAMPLES: dict[int, Resample] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
"""Pillow's numbers, as preprocessor configs store them. Source: PIL.Image.Resampling."""

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "VideoMAE": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 2,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Siglip": {
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Siglip2": {"do_center_crop": False, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "Blip": {
        "size": {"height": 384, "width": 384},
        "do_center_crop": False,
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
}
"""What an image processor does when its file does not say. Source: transformers 5.23, image_processing_*.py."""

SQUARE_INTEGERS = frozenset({"Siglip", "Siglip2", "Blip"})
"""Processors for which `"size": 224` means a square; for the others it is the shorter edge."""


class Processor(NamedTuple):
    """An image processor's settings, defaults filled in, and which family it is of."""

    family: str
    settings: dict[str, Any]
    source: Path


def read_processor(folder: Path, *, family: str) -> Processor:
    """The image processor's settings of a model folder.

    Args:
      folder: with a preprocessor_config.json, or a processor_config.json that holds an "image_processor".
      family: key of `DEFAULTS` when the file does not name a class we know.

    Raises:
      ModelError: there is no such file.
    """
    source = folder / "preprocessor_config.json"
    if source.is_file():
        stated = read_json(source)
    else:
        source = folder / "processor_config.json"
        if not source.is_file():
            raise ModelError(f"{folder}: expected preprocessor_config.json or processor_config.json, found neither")
        stated = read_json(source).get("image_processor", {})
    name = str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or "")
    for suffix in ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"):
        if name.endswith(suffix):
            family = name.removesuffix(suffix) if name.removesuffix(suffix) in DEFAULTS else family
            break
    given = {key: value for key, value in stated.items() if value is not None}
    return Processor(family, {**DEFAULTS[family], **given}, source)


def read_spec(folder: Path, *, family: str) -> PixelSpec:
    """How a model wants its pictures, from its folder.

    Args:
      folder: see `read_processor`.
      family: see `read_processor`.

    Raises:
      ModelError: the processor does something a PixelSpec cannot say (padding, another scale, odd resampling).
    """
    return spec_of(read_processor(folder, family=family))


def spec_of(processor: Processor) -> PixelSpec:
    """The PixelSpec an image processor amounts to; see `read_spec`."""
    settings, source = processor.settings, processor.source
    for switch in ("do_resize", "do_rescale"):
        if not settings.get(switch, True):
            raise ModelError(f"{source}: expected {switch}: true, got false; set it so")
    scale = float(settings.get("rescale_factor", 1 / 255))
    if abs(scale * 255 - 1) > 1e-6:
        raise ModelError(f"{source}: expected rescale_factor 1/255, got {scale}")
    if int(settings["resample"]) not in RESAMPLES:
        raise ModelError(f"{source}: resample: expected one of {sorted(RESAMPLES)}, got {settings['resample']}")
    size = _size(settings.get("size"), square=processor.family in SQUARE_INTEGERS, source=source)
    crop = _size(settings["crop_size"], square=True, source=source) if settings["do_center_crop"] else None
    height, width, resize, edge = _geometry(size, crop, source)
    normalised = settings.get("do_normalize", True)
    mean = _channels(settings["image_mean"]) if normalised else (0.0, 0.0, 0.0)
    std = _channels(settings["image_std"]) if normalised else (1.0, 1.0, 1.0)
    return PixelSpec(height, width, resize, edge, RESAMPLES[int(settings["resample"])], mean, std)


def normalise(pixels: torch.Tensor, spec: PixelSpec, *, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """Model input from bytes: scaled to 0..1, mean taken off, divided by the deviation, channels first.

    Bytes travel to the device (a quarter of float32) and are turned into numbers there; the arithmetic is float32
    whatever `dtype` is.

    Args:
      pixels: uint8 (N, H, W, 3), on any device.
      spec: of the model; H and W must be its height and width.
      device: where the result is wanted.
      dtype: of the result.

    Returns:
      (N, 3, H, W) on `device`.

    Raises:
      ModelError: wrong dtype or shape.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (spec.height, spec.width, 3):
        raise ModelError(
            f"expected uint8 pixels (N, {spec.height}, {spec.width}, 3), got {pixels.dtype} {tuple(pixels.shape)}"
        )
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=device)
    std = torch.tensor(spec.std, dtype=torch.float32, device=device)
    values = pixels.to(device, non_blocking=True).to(torch.float32)
    values = torch.addcmul(-mean / std, values, 1 / (255 * std))  # (N, H, W, 3)
    return values.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)


class _Size(NamedTuple):
    """Either a shortest edge or a height and a width."""

    shortest_edge: int | None
    height: int
    width: int


def _size(value: Any, *, square: bool, source: Path) -> _Size:
    if isinstance(value, int):
        return _Size(None, value, value) if square else _Size(value, 0, 0)
    if isinstance(value, Mapping):
        if value.get("shortest_edge") and not value.get("longest_edge"):
            return _Size(int(value["shortest_edge"]), 0, 0)
        if value.get("height") and value.get("width"):
            return _Size(None, int(value["height"]), int(value["width"]))
    raise ModelError(f"{source}: size: expected shortest_edge, or height and width, got {value!r}")


def _geometry(size: _Size, crop: _Size | None, source: Path) -> tuple[int, int, Literal["squash", "crop"], int]:
    """(height, width, resize, shortest_edge) of a resize followed by an optional centre crop."""
    if size.shortest_edge is None:
        if crop is not None and (crop.height, crop.width) != (size.height, size.width):
            raise ModelError(f"{source}: a crop that differs from a fixed size is not supported: {crop} of {size}")
        return size.height, size.width, "squash", 0
    if crop is None:
        raise ModelError(f"{source}: expected do_center_crop: true beside a shortest_edge, or the width would vary")
    if max(crop.height, crop.width) > size.shortest_edge:
        raise ModelError(
            f"{source}: expected a crop within the shortest edge {size.shortest_edge}, "
            f"got {crop.height} x {crop.width}, which would need padding"
        )
    return crop.height, crop.width, "crop", size.shortest_edge


def _channels(value: Any) -> tuple[float, float, float]:
    values = [float(value)] * 3 if isinstance(value, int | float) else [float(channel) for channel in value]
    return cast(tuple[float, float, float], tuple(values))
