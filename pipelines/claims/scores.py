"""What both sides of a checkpoint say of every text and item of a gallery, through the adapters the pipeline uses.

Letters: Q texts, N items, D embedding.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders.base import PairScorer
from encoders.registry import load_dual, load_scorer, resolve
from pipelines.claims.gallery import Gallery
from schemas.configs import EncoderConfig

ITEMS_AT_ONCE = 128
PAIRS_AT_ONCE = 512


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, both sides.

    Attributes:
      record: its training.json.
    """

    encoder: Any
    scorer: PairScorer
    record: dict[str, Any]

    @property
    def beta(self) -> float:
        """The weight of the fast score, fitted on validation pictures when it was trained."""
        return float(self.record["fusion_beta"])

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return int(self.record["parameters"])

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.encoder.pixels.width)


def open_checkpoint(path: str) -> Checkpoint:
    """A checkpoint folder, or `builtin:<name>`.

    Raises:
      ModelError: it cannot be loaded, or was not trained here.
    """
    config = EncoderConfig(path=path, dtype="float32")
    folder: Path = resolve(config)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return Checkpoint(load_dual(config, device="cpu"), load_scorer(config, device="cpu"), record)


@dataclass(frozen=True)
class Scores:
    """All pairs of a gallery.

    Attributes:
      texts, items: unit vectors float32 (Q, D), (N, D) by column.
      slow: float32 (Q, N).
      seconds: spent on "texts", "items" (their vectors), "caches" and "pairs".
    """

    texts: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    slow: np.ndarray
    seconds: dict[str, float]

    @property
    def targets(self) -> np.ndarray:
        """int64 (Q,): text i belongs to item i."""
        return np.arange(len(self.slow))

    @property
    def fast(self) -> np.ndarray:
        """Scores of the finest vectors, (Q, N)."""
        return self.by("embedding")

    def by(self, column: str) -> np.ndarray:
        """Scores of the vectors of a column, (Q, N)."""
        scores: np.ndarray = self.texts[column] @ self.items[column].T
        return scores

    def among(self, count: int) -> "Scores":
        """The same with the first so many items and their texts alone."""
        texts = min(count, len(self.slow))
        return Scores(
            {name: one[:texts] for name, one in self.texts.items()},
            {name: one[:count] for name, one in self.items.items()},
            self.slow[:texts, :count],
            self.seconds,
        )


def score_all(model: Checkpoint, gallery: Gallery) -> Scores:
    """Both sides, the slow one exhaustively: Q * N pair evaluations."""
    seconds: dict[str, float] = {}
    texts = _timed(seconds, "texts", lambda: model.encoder.encode_text(gallery.captions))
    items = _timed(seconds, "items", lambda: encode_items(model.encoder, gallery.pixels))
    caches = _timed(seconds, "caches", lambda: cache_items(model.scorer, gallery.pixels))
    slow = _timed(seconds, "pairs", lambda: score_pairs(model.scorer, gallery.captions, caches))
    return Scores(texts, items, slow, seconds)


def encode_items(encoder: Any, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """Vectors (N, D) by column."""
    parts = [encoder.encode_visual(some) for some in torch.split(pixels, ITEMS_AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cache_items(scorer: PairScorer, pixels: torch.Tensor) -> torch.Tensor:
    """What the slow side keeps of each item, (N, V, C)."""
    return torch.cat([scorer.visual_cache(some) for some in torch.split(pixels, ITEMS_AT_ONCE)])


def score_pairs(scorer: PairScorer, captions: tuple[str, ...], caches: torch.Tensor) -> np.ndarray:
    """float32 (Q, N)."""
    out = np.empty((len(captions), len(caches)), np.float32)
    for row, caption in enumerate(captions):
        for start in range(0, len(caches), PAIRS_AT_ONCE):
            some = caches[start : start + PAIRS_AT_ONCE]
            out[row, start : start + len(some)] = scorer.score([caption] * len(some), some)
    return out


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - started
    return found
