"""X-CLIP as a dual encoder of video.

Source:  Ni et al., Expanding Language-Image Pretrained Models for General Video Recognition (2022),
         arXiv:2208.02816; weights and modules: transformers XCLIPModel.
Offline: encode_visual   clips -> (B, D), stored and indexed
Query:   encode_text     texts -> (B, D), searched
Letters: B batch, F frames, D embedding size
Differs: the text vector is the one before video-specific prompting (paper section 3.3), which looks at the video and
         so cannot be searched with; logits differ from the full model's by that term. A picture is a clip that
         stands still: it is repeated to the model's number of frames.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import XCLIPModel

from encoders.base import Vectors
from encoders.hf.texts import Texts
from encoders.hf.vectors import public
from encoders.hf.weights import load_weights
from encoders.pixels import normalise, read_spec
from schemas.errors import ModelError


class XClipEncoder:
    """A `DualEncoder` over `XCLIPModel`; keeps no state between calls, threads may share it."""

    frames: int | None

    def __init__(self, folder: Path, *, fingerprint: str, dtype: torch.dtype, device: torch.device) -> None:
        """Loads a model folder; see `encoders.registry.load_dual`."""
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.model: Any = load_weights(XCLIPModel, folder, dtype=dtype, device=device)
        self.pixels = read_spec(folder, family="VideoMAE")
        config: Any = self.model.config
        self.texts = Texts(folder, limit=config.text_config.max_position_embeddings, padding="longest")
        self.frames = self._frames = int(config.vision_config.num_frames)
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
        """Vectors of B items, float32 (B, D), norm 1, from uint8 (B, F, H, W, 3).

        Raises:
          ModelError: F is neither 1 nor the model's number of frames.
        """
        if not len(pixels):
            return {"embedding": np.zeros((0, self.dims["embedding"]), np.float32)}
        count, frames = pixels.shape[:2]
        if frames not in (1, self._frames):
            raise ModelError(f"expected clips of {self._frames} frames or pictures of 1, got {frames}")
        values = normalise(pixels.flatten(0, 1), self.pixels, device=self.device, dtype=self.dtype)  # (B * F, 3, H, W)
        clips = values.unflatten(0, (count, frames)).expand(-1, self._frames, -1, -1, -1)
        return {"embedding": public(self.model.get_video_features(clips).pooler_output)}
