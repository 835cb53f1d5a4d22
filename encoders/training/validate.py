"""Recall on a held-out gallery, text to image, fast and reranked; and the weight that fuses the two scores.

Letters: Q captions, N items, K candidates, V tokens, C width, D embedding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from encoders.architectures.base import RetrievalModel
from encoders.base import PixelSpec
from encoders.layers import join_groups
from encoders.training.batches import Gallery, to_visual, tokenise

LEVEL = "embedding"
"""The vectors recall is measured with: the finest."""

BETAS = (0.0, *np.geomspace(0.25, 4096.0, 29).tolist())
"""Fusion weights tried; 0 is the slow side alone."""


@dataclass(frozen=True)
class Recall:
    """Shares in percent.

    Attributes:
      fast: R@1, R@5, R@10 of the vectors.
      reranked: R@1 after the slow side re-scored the best K.
      fused: R@1 of slow + beta * fast.
      beta: the weight with the best fused R@1 here.
    """

    fast: tuple[float, float, float]
    reranked: float
    fused: float
    beta: float

    def __str__(self) -> str:
        """One line."""
        r1, r5, r10 = self.fast
        return (
            f"fast R@1/5/10 {r1:.1f} {r5:.1f} {r10:.1f}, reranked R@1 {self.reranked:.1f}, "
            f"fused {self.fused:.1f} at beta {self.beta:.2f}"
        )

    def as_dict(self) -> dict[str, float]:
        """Flat, for logs and files."""
        r1, r5, r10 = self.fast
        return {
            "fast_r1": r1,
            "fast_r5": r5,
            "fast_r10": r10,
            "reranked_r1": self.reranked,
            "fused_r1": self.fused,
            "fusion_beta": self.beta,
        }


@torch.inference_mode()
def validate(
    model: RetrievalModel,
    gallery: Gallery,
    *,
    tokenizer: PreTrainedTokenizerFast,
    spec: PixelSpec,
    depth: int,
    max_queries: int,
    shortlist: bool = True,
    batch_size: int = 128,
) -> Recall:
    """Recall of a model; it is put in eval mode and back.

    Args:
      depth: K.
      shortlist: candidates are the best by the vectors; False, where these mean nothing yet: the target and its
        neighbours in the gallery.
      max_queries: captions used, evenly spread over the gallery.
      batch_size: captions encoded at once; pictures, which are larger, a quarter.
    """
    training = model.training
    model.train(False)
    device = next(model.parameters()).device
    chosen = np.unique(np.linspace(0, len(gallery.captions) - 1, min(max_queries, len(gallery.captions))).astype(int))
    captions = [gallery.captions[i] for i in chosen]
    targets = gallery.targets[chosen]
    cache, cache_mask, pictures = _encode_gallery(model, gallery, spec, device, batch_size // 4)

    fast = np.empty((len(captions), len(pictures)), np.float32)
    depth = min(depth, len(pictures))
    neighbours = torch.from_numpy(_neighbours(targets, depth, len(pictures))).to(device)
    slow = np.empty((len(captions), depth), np.float32)
    candidates = np.empty((len(captions), depth), np.int64)
    for start in range(0, len(captions), batch_size):
        part = slice(start, min(start + batch_size, len(captions)))
        ids, mask = tokenise(tokenizer, captions[part], max_words=model.config.max_words, device=device)
        vectors = model.text_vectors(ids, mask)[LEVEL]
        with torch.autocast(device.type, enabled=False):  # in bfloat16 many would tie, and ties count against us
            similarity = vectors.float() @ pictures.T
        best = similarity.topk(depth, dim=1).indices if shortlist else neighbours[part]  # (b, K)
        rows = torch.arange(len(ids), device=device).repeat_interleave(depth)
        pair_mask = cache_mask[best.flatten()] if cache_mask is not None else None
        scores = model.pair_scores(ids, mask, rows, cache[best.flatten()], pair_mask)
        slow[part] = scores.float().view(-1, depth).cpu().numpy()
        fast[part] = similarity.cpu().numpy()
        candidates[part] = best.cpu().numpy()
    model.train(training)
    return recall(fast, slow, candidates, targets)


def recall(fast: np.ndarray, slow: np.ndarray, candidates: np.ndarray, targets: np.ndarray) -> Recall:
    """Recall from scores; ties count against the model.

    Args:
      fast: (Q, N).
      slow: (Q, K), of candidates int64 (Q, K).
      targets: int64 (Q,).
    """
    own = np.take_along_axis(fast, targets[:, None], 1)
    rank = (fast >= own).sum(1)  # from 1; includes itself
    at = [float(100 * (rank <= k).mean()) for k in (1, 5, 10)]
    near = np.take_along_axis(fast, candidates, 1)
    hit = candidates == targets[:, None]
    by_beta = [_first(slow + np.float32(beta) * near, hit) for beta in BETAS]
    best = int(np.argmax(by_beta))
    return Recall((at[0], at[1], at[2]), by_beta[0], by_beta[best], float(BETAS[best]))


def _first(scores: np.ndarray, hit: np.ndarray) -> float:
    """Share in percent of rows whose hit is strictly best."""
    own = np.where(hit, scores, -np.inf).max(1)
    others = np.where(hit, -np.inf, scores).max(1)
    return float(100 * (own > others).mean())


def _neighbours(targets: np.ndarray, depth: int, items: int) -> np.ndarray:
    """Indices int64 (Q, K): K successive items of the gallery, around each target."""
    first = np.clip(targets - depth // 2, 0, items - depth)
    found: np.ndarray = first[:, None] + np.arange(depth)
    return found


def _encode_gallery(
    model: RetrievalModel, gallery: Gallery, spec: PixelSpec, device: torch.device, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Caches (N, V, C), padded where groups differ, their mask (N, V) or None, and vectors (N, D)."""
    caches, vectors = [], []
    for group in gallery.visuals:
        for start in range(0, len(group), batch_size):
            part = to_visual(torch.from_numpy(group[start : start + batch_size]), spec, device)
            caches.append(model.visual_cache(part))
            vectors.append(model.visual_vectors(part)[LEVEL].float())
    cache, mask = join_groups(caches)
    return cache, mask, torch.cat(vectors)
