"""SigLIP and SigLIP 2 as dual encoders.

Source:  Zhai et al., Sigmoid Loss for Language Image Pre-Training (2023), arXiv:2303.15343; Tschannen et al.,
         SigLIP 2 (2025), arXiv:2502.14786; weights and modules: transformers SiglipModel, Siglip2Model.
Offline: encode_visual   images or frames -> (B, D), stored and indexed; frames are averaged
Query:   encode_text     texts            -> (B, D), searched
Letters: B batch, F frames, P patches, D embedding size
Differs: text is padded to the model's limit, never to the batch: the vector is read at the last position, and
         padding is attended to, as in training. Fixed-resolution SigLIP 2 checkpoints are of type "siglip"; those of
         type "siglip2" (NaFlex) keep the aspect ratio in transformers and get a square here, so that pictures of a
         batch have one shape; equal for square pictures.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Siglip2Model, SiglipModel

from encoders.base import PixelSpec, Vectors
from encoders.hf.texts import Texts
from encoders.hf.vectors import merge_frames, public
from encoders.hf.weights import load_weights
from encoders.pixels import Processor, normalise, read_processor, read_spec, spec_of


class SiglipEncoder:
    """A `DualEncoder` over `SiglipModel`; keeps no state between calls, threads may share it."""

    frames = None
    kind: Any = SiglipModel

    def __init__(self, folder: Path, *, fingerprint: str, dtype: torch.dtype, device: torch.device) -> None:
        """Loads a model folder; see `encoders.registry.load_dual`."""
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.pixels = self._read_pixels(folder)
        self.model: Any = load_weights(self.kind, folder, dtype=dtype, device=device)
        text, vision = self.model.config.text_config, self.model.config.vision_config
        self.texts = Texts(folder, limit=text.max_position_embeddings, padding="max_length")
        self.dims = {"embedding": int(vision.hidden_size)}

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Vectors of B texts, float32 (B, D), norm 1."""
        if not texts:
            return {"embedding": np.zeros((0, self.dims["embedding"]), np.float32)}
        features = self.model.get_text_features(**self.texts(texts, device=self.device)).pooler_output  # (B, D)
        return {"embedding": public(features)}

    @torch.inference_mode()
    def encode_visual(self, pixels: torch.Tensor) -> Vectors:
        """Vectors of B items, float32 (B, D), norm 1, from uint8 (B, F, H, W, 3)."""
        if not len(pixels):
            return {"embedding": np.zeros((0, self.dims["embedding"]), np.float32)}
        values = normalise(pixels.flatten(0, 1), self.pixels, device=self.device, dtype=self.dtype)  # (B * F, 3, H, W)
        return {"embedding": public(merge_frames(self._features(values), pixels.shape[1]))}

    def _read_pixels(self, folder: Path) -> PixelSpec:
        return read_spec(folder, family="Siglip")

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, D)."""
        return self.model.get_image_features(values).pooler_output


class Siglip2Encoder(SiglipEncoder):
    """A `DualEncoder` over `Siglip2Model`: the picture as the largest square of patches the processor allows."""

    kind: Any = Siglip2Model

    def _read_pixels(self, folder: Path) -> PixelSpec:
        read = read_processor(folder, family="Siglip2")
        self.patch = int(read.settings.get("patch_size", 16))
        self.side = math.isqrt(int(read.settings.get("max_num_patches", 256)))  # patches along an edge
        edge = self.side * self.patch
        return spec_of(Processor(read.family, {**read.settings, "size": {"height": edge, "width": edge}}, read.source))

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, D)."""
        count, side, patch = len(values), self.side, self.patch
        patches = values.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # (N, 3, side, patch, side, patch)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (N, P, patch * patch * 3)
        return self.model.get_image_features(
            patches,
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.int32, device=self.device),
            spatial_shapes=torch.full((count, 2), side, dtype=torch.int64, device=self.device),
        ).pooler_output
