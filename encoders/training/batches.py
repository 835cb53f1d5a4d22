"""What a source gives for each step, what a gallery for validation holds, and both as tensors.

Letters: B captions, F frames, H W pixels, N items, L words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from encoders.base import PixelSpec
from encoders.pixels import normalise


@dataclass(frozen=True)
class Batch:
    """Captions with their pictures.

    Attributes:
      visuals: groups of pictures of one shape, uint8 (B_g, F_g, H, W, 3); or float16 backbone features
        (B_g, F_g, V, C). Their concatenation is in the order of the captions.
      captions: B texts.
      item_ids: int64 (B,); captions with equal ids are of the same picture and never each other's negatives.
      teacher: float32 (B, B), scores of captions and pictures by an earlier rerank, NaN where there is none; or None.
    """

    visuals: tuple[np.ndarray, ...]
    captions: tuple[str, ...]
    item_ids: np.ndarray
    teacher: np.ndarray | None = None


@dataclass(frozen=True)
class Gallery:
    """Items and the captions that should find them.

    Attributes:
      visuals: as in Batch, N items.
      captions: Q texts.
      targets: int64 (Q,), the item each caption belongs to, 0..N-1.
    """

    visuals: tuple[np.ndarray, ...]
    captions: tuple[str, ...]
    targets: np.ndarray


class Source(Protocol):
    """Training data. `batch` is a pure function of its arguments, so that a run resumed at a step sees the same."""

    augment: bool  # pictures may be cropped, flipped and coloured at random
    digest: str  # of what the data is made of

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of a step for the process of this rank."""
        ...

    def words(self) -> list[str]:
        """Distinct words of the captions, sorted."""
        ...

    def categories(self) -> Mapping[str, Sequence[str]]:
        """Words that answer the same question, by its name; empty where the source knows none."""
        ...

    def validation(self) -> Gallery:
        """Held-out items."""
        ...


@runtime_checkable
class FeatureSource(Source, Protocol):
    """A source that can give cached features of a frozen vision backbone in the place of its pictures."""

    def texts(self) -> list[str]:
        """All captions."""
        ...

    def use_features(self, features: Callable[[np.ndarray, str], np.ndarray]) -> None:
        """Called once before training with a function of (pictures uint8 (N, 1, H, W, 3), a name for them)."""
        ...


@dataclass(frozen=True)
class Inputs:
    """A batch on the device.

    Attributes:
      visuals: groups, float (B_g, F_g, 3, H, W), or features (B_g, F_g, V, C).
      ids: int64 (B, L); mask: bool (B, L), True at tokens; maskable: bool (B, L), True at words.
      item_ids: int64 (B,).
      teacher: float32 (B, B) as in Batch, or None.
    """

    visuals: tuple[torch.Tensor, ...]
    ids: torch.Tensor
    mask: torch.Tensor
    maskable: torch.Tensor
    item_ids: torch.Tensor
    teacher: torch.Tensor | None = None


def tokenise(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, max_words: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 (B, L) and mask bool (B, L), padded to the longest; longer texts are cut, their end token kept."""
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # lone surrogates break the Rust side
    encoded = tokenizer(clean, padding=True, truncation=True, max_length=max_words, return_tensors="np")
    ids = torch.from_numpy(np.asarray(encoded["input_ids"], np.int64)).to(device, non_blocking=True)
    mask = torch.from_numpy(np.asarray(encoded["attention_mask"], bool)).to(device, non_blocking=True)
    return ids, mask


def to_visual(group: torch.Tensor, spec: PixelSpec, device: torch.device) -> torch.Tensor:
    """Pixels uint8 (B, F, H, W, 3) -> float32 (B, F, 3, H, W) on the device; features pass as float32."""
    if group.dtype != torch.uint8:
        return group.to(device, non_blocking=True).float()
    flat = normalise(group.flatten(0, 1), spec, device=device, dtype=torch.float32)
    return flat.view(*group.shape[:2], *flat.shape[1:])
