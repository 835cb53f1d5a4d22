"""What a frozen vision backbone makes of all pictures, computed once and kept in a file beside the checkpoints."""

import copy
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from encoders.architectures.base import RetrievalModel
from encoders.base import PixelSpec
from encoders.folding import fold_batch_norms
from encoders.towers import averaged
from encoders.training.augment import augment
from encoders.training.batches import to_visual
from schemas.errors import ModelError
from schemas.training import ShardData

VIEWS_SEED = 7_001
"""Chance of the views: that of a picture depends on its place and on which view it is, and on nothing else."""


@torch.inference_mode()
def cached_features(
    model: RetrievalModel,
    images: np.ndarray,
    path: Path,
    *,
    spec: PixelSpec,
    data: ShardData,
    views: int = 1,
    batch_size: int = 16,
) -> np.ndarray:
    """Features of pictures, read from `path` if they are there.

    Args:
      model: whose vision backbone is frozen.
      images: uint8 (N, 1, H, W, 3).
      path: of a .npy file; it appears whole, by rename.
      data: says how views are cropped, flipped and coloured.
      views: of each picture; the first is the picture itself, the others are changed at random.

    Returns:
      float16 (N, views, V, C), memory-mapped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # of runs that share the folder one computes them
        if not path.is_file():
            _compute(model, images, path, spec=spec, data=data, views=views, batch_size=batch_size)
    features: np.ndarray = np.load(path, mmap_mode="c")  # private to this process
    return features


def _compute(
    model: RetrievalModel,
    images: np.ndarray,
    path: Path,
    *,
    spec: PixelSpec,
    data: ShardData,
    views: int,
    batch_size: int,
) -> None:
    model = copy.deepcopy(model).train(False)
    fold_batch_norms(model)
    device = next(model.parameters()).device
    partial = path.with_name(f".{path.name}")
    out: np.memmap | None = None
    for start in range(0, len(images), batch_size):
        pixels = to_visual(torch.from_numpy(images[start : start + batch_size]), spec, device)
        generator = torch.Generator(device).manual_seed(VIEWS_SEED + start)
        for view in range(views):
            seen = _changed(pixels, data, generator) if view else pixels
            seen = model.backbone_features(seen[:, 0]).half()
            if out is None:
                shape = (len(images), views, *seen.shape[1:])
                out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
            out[start : start + batch_size, view] = seen.cpu().numpy()
    if out is None:
        raise ModelError(f"{path.name}: expected pictures to compute features of, got none")
    out.flush()
    del out
    partial.replace(path)


def on_grid(features: np.ndarray, side: int, *, at_once: int = 64) -> np.ndarray:
    """Features float16 (N, views, V, C) averaged to `side` cells a side, in memory; 0: as they are, on disk."""
    if not side:
        return features
    parts = [torch.from_numpy(features[start : start + at_once]) for start in range(0, len(features), at_once)]
    return np.concatenate([averaged(part, side).half().numpy() for part in parts])


def _changed(pixels: torch.Tensor, data: ShardData, generator: torch.Generator) -> torch.Tensor:
    return augment(pixels, crop_scale=data.crop_scale, flip=data.flip, jitter=data.colour_jitter, generator=generator)
