"""The two protocols every model is used through: a fast DualEncoder and a slow PairScorer.

Letters: B batch, F frames (1 for an image), H W pixels, D embedding width, V visual tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # who wants a PixelSpec alone, for a thumbnail, need not wait seconds for torch
    import torch

Vectors = dict[str, np.ndarray]
"""Vector column -> float32 (B, D), L2 norm 1. `embedding` is the finest level; coarser ones `embedding_<D>`."""


@dataclass(frozen=True)
class PixelSpec:
    """How a model wants its pictures; equal specs can share decoded pixels.

    Attributes:
      height, width: of the model input, in pixels.
      resize: "squash" ignores the aspect ratio; "crop" resizes the shorter edge to `shortest_edge` and
        cuts the centre.
      shortest_edge: used by "crop" only.
      resample: Pillow filter name.
      mean, std: per RGB channel, of values scaled to 0..1.
    """

    height: int
    width: int
    resize: Literal["squash", "crop"]
    shortest_edge: int
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@runtime_checkable
class DualEncoder(Protocol):
    """The fast side: text and pictures become vectors on their own, compared by inner product."""

    fingerprint: str
    dims: dict[str, int]
    pixels: PixelSpec
    frames: int | None  # frames the temporal part wants; None: any number (frames are averaged)
    device: "torch.device"

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Vectors of B texts; what exceeds the model's limit is cut, its end token kept."""
        ...

    def encode_visual(self, pixels: "torch.Tensor") -> Vectors:
        """Vectors of B items.

        Args:
          pixels: uint8 (B, F, H, W, 3), RGB, on any device; F = 1 for images.
        """
        ...


@runtime_checkable
class PairScorer(Protocol):
    """The slow side: a text and a picture are looked at together."""

    fingerprint: str
    pixels: PixelSpec
    frames: int | None
    device: "torch.device"
    pair_evaluations: int  # pairs scored since loading

    def visual_cache(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """What of a picture does not depend on the query.

        Args:
          pixels: uint8 (B, F, H, W, 3).

        Returns:
          (B, V, C) on the scorer's device and in its dtype; a row may be stored and used again.
        """
        ...

    def text_cache(self, texts: Sequence[str]) -> object | None:
        """What of texts does not depend on a picture, for `score`; None if the model reads none without a picture."""
        ...

    def score(self, texts: Sequence[str], cache: "torch.Tensor", text_cache: object | None = None) -> np.ndarray:
        """Match scores of B pairs, float32 (B,), higher is better, not bounded.

        Args:
          texts: B texts.
          cache: (B, V, C), row i belongs to text i.
          text_cache: of these texts or of more; without it they are read again.
        """
        ...
