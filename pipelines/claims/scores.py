"""What both sides of a checkpoint say of every text and item of a gallery, through the adapters the pipeline uses.

Letters: Q texts, N items, D embedding.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders.base import PairScorer, PixelSpec
from encoders.registry import load_dual, load_scorer, resolve
from pipelines.claims.gallery import Gallery
from pipelines.claims.seen import Seen
from schemas.configs import EncoderConfig

TEXTS_AT_ONCE = 256
ITEMS_AT_ONCE = 128
PAIRS_AT_ONCE = 512


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, both sides.

    Attributes:
      record: its training.json.
      seen: what its vision backbone saw of photos, for other checkpoints too.
    """

    encoder: Any
    scorer: PairScorer
    record: dict[str, Any]
    seen: Seen

    @property
    def beta(self) -> float:
        """The weight of the fast score, fitted on validation pictures when it was trained."""
        return float(self.record["fusion_beta"])

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return int(self.record["parameters"])

    @property
    def pixels(self) -> PixelSpec:
        """How it wants its pictures."""
        spec: PixelSpec = self.encoder.pixels
        return spec


def open_checkpoint(path: str, seen: Seen) -> Checkpoint:
    """A checkpoint folder, or `builtin:<name>`.

    Args:
      seen: what is shared with checkpoints of the same backbone.

    Raises:
      ModelError: it cannot be loaded, or was not trained here.
    """
    config = EncoderConfig(path=path, dtype="float32")
    folder: Path = resolve(config)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    one = Checkpoint(load_dual(config, device="cpu"), load_scorer(config, device="cpu"), record, seen)
    seen.share(one.encoder.model)  # that of the scorer too: of one config they are one
    return one


@dataclass(frozen=True)
class Scores:
    """All pairs of a gallery.

    Attributes:
      texts, items: unit vectors float32 (Q, D), (N, D) by column.
      targets: the item each text is of, int64 (Q,).
      pairs: `slow`, or None where the vectors alone were asked for.
      seconds: spent on "texts", "items" (their vectors), "caches" and "pairs", as if no other model had looked before.
      subjects: see Gallery.
    """

    texts: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    targets: np.ndarray
    pairs: np.ndarray | None
    seconds: dict[str, float]
    subjects: np.ndarray | None = None

    @property
    def slow(self) -> np.ndarray:
        """Scores of all pairs by the slow side, float32 (Q, N).

        Raises:
          ValueError: they were not asked for.
        """
        if self.pairs is None:
            raise ValueError("expected scores of all pairs, got vectors alone; ask for the slow side too")
        return self.pairs

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
        return self._part(np.flatnonzero(self.targets < count), np.arange(min(count, self.count)))

    def paired(self) -> "Scores":
        """The same with one text an item, the first, and no item without: text i is of item i."""
        items, texts = np.unique(self.targets, return_index=True)
        return self._part(texts, items)

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.items.values())))

    def _part(self, texts: np.ndarray, items: np.ndarray) -> "Scores":
        """Those texts and items; `items` rises."""
        return Scores(
            {name: one[texts] for name, one in self.texts.items()},
            {name: one[items] for name, one in self.items.items()},
            np.searchsorted(items, self.targets[texts]),
            None if self.pairs is None else self.pairs[np.ix_(texts, items)],
            self.seconds,
            None if self.subjects is None else self.subjects[texts],
        )


def score_all(model: Checkpoint, gallery: Gallery, *, slow: bool = True) -> Scores:
    """Both sides, the slow one exhaustively: Q * N pair evaluations; without `slow` the vectors alone."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started, credit = time.perf_counter(), model.seen.credit
        found = work()
        seconds[name] = time.perf_counter() - started + model.seen.credit - credit
        return found

    texts = timed("texts", lambda: encode_texts(model.encoder, gallery.captions))
    items = timed("items", lambda: encode_items(model.encoder, gallery.pixels))
    pairs = None
    if slow:
        caches = timed("caches", lambda: cache_items(model.scorer, gallery.pixels))
        pairs = timed("pairs", lambda: score_pairs(model.scorer, gallery.captions, caches))
    return Scores(texts, items, gallery.targets, pairs, seconds, gallery.subjects)


def encode_texts(encoder: Any, captions: Sequence[str]) -> dict[str, np.ndarray]:
    """Vectors (Q, D) by column."""
    starts = range(0, len(captions), TEXTS_AT_ONCE)
    parts = [encoder.encode_text(captions[start : start + TEXTS_AT_ONCE]) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def encode_items(encoder: Any, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """Vectors (N, D) by column."""
    parts = [encoder.encode_visual(some) for some in torch.split(pixels, ITEMS_AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cache_items(scorer: PairScorer, pixels: torch.Tensor) -> torch.Tensor:
    """What the slow side keeps of each item, (N, V, C)."""
    return torch.cat([scorer.visual_cache(some) for some in torch.split(pixels, ITEMS_AT_ONCE)])


def score_pairs(scorer: PairScorer, captions: Sequence[str], caches: torch.Tensor) -> np.ndarray:
    """float32 (Q, N)."""
    out = np.empty((len(captions), len(caches)), np.float32)
    for row, caption in enumerate(captions):
        for start in range(0, len(caches), PAIRS_AT_ONCE):
            some = caches[start : start + PAIRS_AT_ONCE]
            out[row, start : start + len(some)] = scorer.score([caption] * len(some), some)
    return out
