"""A trained architecture as both a DualEncoder and a PairScorer; the two share one set of weights."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from encoders.architectures import model_class
from encoders.base import Vectors
from encoders.folding import fold_batch_norms
from encoders.fusion import FusionModel
from encoders.hf.weights import load_weights
from encoders.pixels import normalise, read_spec
from encoders.training.batches import tokenise
from encoders.training.memo import TextMemo
from schemas.errors import ModelError


class TrainedEncoder:
    """A checkpoint folder written by training, whatever its architecture."""

    def __init__(self, folder: str | Path, *, dtype: torch.dtype, device: torch.device, fingerprint: str) -> None:
        """Loads it.

        Raises:
          ModelError: it is not whole.
        """
        self.model = load_weights(model_class(Path(folder)), Path(folder), dtype=dtype, device=device)
        fold_batch_norms(self.model)
        try:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: not a trained checkpoint: {error}") from error
        config = self.model.config
        self.max_words: int = config.max_words
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.pixels = read_spec(Path(folder), family="Siglip")
        self.frames: int | None = config.frames if config.max_frames else None
        self.dims: dict[str, int] = self.model.dims
        self.pair_evaluations = 0
        self._counting = threading.Lock()
        self._tokenising = threading.Lock()  # truncation settings are state of a fast tokenizer

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """See encoders.base.DualEncoder."""
        if not texts:
            return {name: np.empty((0, width), np.float32) for name, width in self.dims.items()}
        return _public(self.model.text_vectors(*self._tokenise(texts)))

    @torch.inference_mode()
    def encode_visual(self, pixels: torch.Tensor) -> Vectors:
        """See encoders.base.DualEncoder."""
        return _public(self.model.visual_vectors(self._normalise(pixels)))

    @torch.inference_mode()
    def visual_cache(self, pixels: torch.Tensor) -> torch.Tensor:
        """See encoders.base.PairScorer."""
        cache: torch.Tensor = self.model.visual_cache(self._normalise(pixels))
        return cache

    @torch.inference_mode()
    def text_cache(self, texts: Sequence[str]) -> TextMemo | None:
        """See encoders.base.PairScorer: states, where the slow side is fusion layers on a text tower."""
        if not isinstance(self.model, FusionModel) or not texts:
            return None
        with self._tokenising:
            return TextMemo(
                self.model.text_states,
                self.tokenizer,
                texts,
                max_words=self.max_words,
                device=self.device,
                dtype=self.dtype,
            )

    @torch.inference_mode()
    def score(self, texts: Sequence[str], cache: torch.Tensor, text_cache: object | None = None) -> np.ndarray:
        """See encoders.base.PairScorer; a text that is given several times is tokenised, and may be read, once.

        Raises:
          ModelError: numbers of texts and of cached pictures differ, or a text is not in its cache.
        """
        if len(texts) != len(cache):
            raise ModelError(f"score: expected as many texts as cached pictures, got {len(texts)} and {len(cache)}")
        if not texts:
            return np.empty(0, np.float32)
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        rows = torch.tensor([place[text] for text in texts], device=self.device)
        (ids, mask), visual = self._tokenise(distinct), cache.to(self.device, self.dtype)
        if isinstance(self.model, FusionModel) and isinstance(text_cache, TextMemo):
            found = self.model.scores_of_states(text_cache.known(ids, mask), mask, rows, visual)
        else:
            found = self.model.pair_scores(ids, mask, rows, visual)
        scores: np.ndarray = found.float().cpu().numpy()
        with self._counting:
            self.pair_evaluations += len(texts)
        return scores

    def _tokenise(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        with self._tokenising:
            return tokenise(self.tokenizer, texts, max_words=self.max_words, device=self.device)

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        flat = normalise(pixels.flatten(0, 1), self.pixels, device=self.device, dtype=self.dtype)
        return flat.unflatten(0, pixels.shape[:2])


def _public(vectors: dict[str, torch.Tensor]) -> Vectors:
    return {name: functional.normalize(v.float(), dim=-1).cpu().numpy() for name, v in vectors.items()}
