"""CLIP as a dual encoder.

Source:  Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021),
         arXiv:2103.00020; weights and modules: transformers CLIPModel.
Offline: encode_visual   images or frames -> (B, D), stored and indexed; frames are averaged
Query:   encode_text     texts            -> (B, D), searched
Letters: B batch, F frames, T tokens, D embedding size
Differs: nothing; text is padded to the longest of the batch, which causal attention cannot see.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPModel

from encoders.base import Vectors
from encoders.hf.texts import Texts
from encoders.hf.vectors import merge_frames, public
from encoders.hf.weights import load_weights
from encoders.pixels import normalise, read_spec


class ClipEncoder:
    """A `DualEncoder` over `CLIPModel`; keeps no state between calls, threads may share it."""

    frames = None

    def __init__(self, folder: Path, *, fingerprint: str, dtype: torch.dtype, device: torch.device) -> None:
        """Loads a model folder; see `encoders.registry.load_dual`."""
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.model = load_weights(CLIPModel, folder, dtype=dtype, device=device)
        self.pixels = read_spec(folder, family="CLIP")
        config: Any = self.model.config
        self.texts = Texts(folder, limit=config.text_config.max_position_embeddings, padding="longest")
        self.dims = {"embedding": int(config.projection_dim)}

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
        features = self.model.get_image_features(values).pooler_output  # (B * F, D)
        return {"embedding": public(merge_frames(features, pixels.shape[1]))}
