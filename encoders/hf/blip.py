"""BLIP's image-text matching head as a pair scorer.

Source:  Li et al., BLIP: Bootstrapping Language-Image Pre-training (2022), arXiv:2201.12086, sections 3.1 and 5.6
         (frames of a video side by side); weights and modules: transformers BlipForImageTextRetrieval.
Offline: visual_cache   images or frames -> (B, F * P, C), the vision tower's tokens
Query:   score          texts x tokens   -> (B,), the text tower reading the tokens by cross attention
Letters: B batch, F frames, T text tokens, P tokens a frame, C channels
Differs: the score is the log odds of "match" (logit of match minus logit of no match): the same order as the
         probability transformers' examples take by softmax, without its saturation.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BlipForImageTextRetrieval

from encoders.hf.texts import Texts
from encoders.hf.weights import load_weights
from encoders.pixels import normalise, read_spec
from schemas.errors import ModelError


class BlipScorer:
    """A `PairScorer` over `BlipForImageTextRetrieval`; threads may share it."""

    frames = None

    def __init__(self, folder: Path, *, fingerprint: str, dtype: torch.dtype, device: torch.device) -> None:
        """Loads a model folder; see `encoders.registry.load_scorer`."""
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.model: Any = load_weights(BlipForImageTextRetrieval, folder, dtype=dtype, device=device)
        self.pixels = read_spec(folder, family="Blip")
        config: Any = self.model.config
        self.texts = Texts(folder, limit=config.text_config.max_position_embeddings, padding="longest")
        self.pair_evaluations = 0
        self._counting = threading.Lock()

    @torch.inference_mode()
    def visual_cache(self, pixels: torch.Tensor) -> torch.Tensor:
        """Vision tokens (B, F * P, C) in the model's dtype, from uint8 (B, F, H, W, 3)."""
        values = normalise(pixels.flatten(0, 1), self.pixels, device=self.device, dtype=self.dtype)  # (B * F, 3, H, W)
        tokens = self.model.vision_model(pixel_values=values).last_hidden_state  # (B * F, P, C)
        return tokens.unflatten(0, tuple(pixels.shape[:2])).flatten(1, 2)

    def text_cache(self, texts: Sequence[str]) -> None:  # noqa: ARG002
        """None: every layer of the text tower looks at the picture."""
        return

    @torch.inference_mode()
    def score(
        self,
        texts: Sequence[str],
        cache: torch.Tensor,
        text_cache: object | None = None,  # noqa: ARG002
    ) -> np.ndarray:
        """Log odds of a match, float32 (B,), of text i with row i of the cache (B, V, C).

        Raises:
          ModelError: not one row a text.
        """
        if len(texts) != len(cache):
            raise ModelError(f"expected one row of visual tokens a text, got {len(texts)} texts, {len(cache)} rows")
        if not texts:
            return np.zeros(0, np.float32)
        visual = cache.to(self.device, self.dtype)
        fused = self.model.text_encoder(
            **self.texts(texts, device=self.device),
            encoder_hidden_states=visual,
            encoder_attention_mask=torch.ones(visual.shape[:2], dtype=torch.int64, device=self.device),
        ).last_hidden_state  # (B, T, C)
        head = self.model.itm_head  # in float32: bfloat16 logits would tie candidates that differ
        logits = torch.nn.functional.linear(fused[:, 0].float(), head.weight.float(), head.bias.float())
        with self._counting:
            self.pair_evaluations += len(texts)
        return (logits[:, 1] - logits[:, 0]).cpu().numpy()  # (B, 2): no match, match
