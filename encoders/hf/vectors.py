"""Features of a model -> public vectors: float32 numpy, L2 norm 1, frames averaged where nothing else merges them."""

import numpy as np
import torch


def unit(features: torch.Tensor) -> torch.Tensor:
    """Rows divided by their L2 norm, in float32; (..., D) -> (..., D)."""
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)


def public(features: torch.Tensor) -> np.ndarray:
    """Features (B, D) of any dtype and device -> float32 (B, D) numpy, norm 1."""
    return unit(features).cpu().numpy()


def merge_frames(features: torch.Tensor, frames: int) -> torch.Tensor:
    """The mean of the unit vectors of a clip's frames, not normalised again.

    Args:
      features: (B * F, D), frames of a clip side by side.
      frames: F.

    Returns:
      float32 (B, D).

    Source: "meanP" of CLIP4Clip (Luo et al. 2021, arXiv:2104.08860), section 3.3.
    """
    return unit(features).unflatten(0, (-1, frames)).mean(dim=1)
