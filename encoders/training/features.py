"""What a frozen vision backbone makes of all pictures, computed once and kept in a file beside the checkpoints."""

from pathlib import Path

import numpy as np
import torch

from encoders.architectures.base import RetrievalModel
from encoders.base import PixelSpec
from encoders.training.batches import to_visual


@torch.inference_mode()
def cached_features(
    model: RetrievalModel, images: np.ndarray, path: Path, *, spec: PixelSpec, flip: bool, batch_size: int = 16
) -> np.ndarray:
    """Features of pictures, read from `path` if they are there.

    Args:
      model: whose vision backbone is frozen.
      images: uint8 (N, 1, H, W, 3).
      path: of a .npy file; it appears whole, by rename.
      flip: also those of the mirrored pictures.

    Returns:
      float16 (N, views, V, C), memory-mapped; views is 2 with `flip`, else 1.
    """
    if not path.is_file():
        training, device = model.training, next(model.parameters()).device
        model.train(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(images), 2 if flip else 1, model.config.frame_tokens, model.config.backbone_width)
        partial = path.with_name(f".{path.name}")
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
        for start in range(0, len(images), batch_size):
            pixels = to_visual(torch.from_numpy(images[start : start + batch_size]), spec, device)[:, 0]
            for view, seen in enumerate((pixels, pixels.flip(-1))[: shape[1]]):
                out[start : start + batch_size, view] = model.backbone_features(seen).half().cpu().numpy()
        out.flush()
        del out
        partial.replace(path)
        model.train(training)
    features: np.ndarray = np.load(path, mmap_mode="c")  # private to this process
    return features
