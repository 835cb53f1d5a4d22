"""The training losses of all architectures, as functions of plain tensors.

Letters: B rows of this process, N columns (all processes), P pairs, m negatives, H hidden words, W vocabulary.
"""

from typing import Literal

import torch
from torch.nn import functional

IGNORED = -100
"""A label that no loss counts."""


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B, N) of unit vectors (B, D) and (N, D), in float32 also where the rest is computed in less."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().T


def info_nce(similarity: torch.Tensor, positives: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Cross entropy to the positives of each row, shared equally among them (ALBEF's image-text contrast).

    Args:
      similarity: (B, N) cosines.
      positives: bool (B, N), at least one a row.
      temperature: scalar.

    Returns:
      Mean over rows.
    """
    target = positives / positives.sum(1, keepdim=True)
    return -(target * functional.log_softmax(similarity / temperature, dim=1)).sum(1).mean()


def matching(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Does the pair match? Cross entropy over the pairs whose label is not IGNORED.

    Args:
      logits: (P, 2): no, yes.
      labels: int64 (P,), 0, 1 or IGNORED.
    """
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED)


def distillation(
    teacher: torch.Tensor,
    student: torch.Tensor,
    valid: torch.Tensor,
    *,
    temperature: float,
    kind: Literal["kl", "ce", "mse"],
    stop_gradient: bool = True,
) -> torch.Tensor:
    """Pulls the student's distribution over each row's candidates to the teacher's.

    Args:
      teacher: (B, 1+m) pair scores.
      student: (B, 1+m) the dual encoder's logits (already divided by its own temperature) of the same candidates.
      valid: bool (B, 1+m); False where there was no candidate.
      temperature: of the teacher.
      kind: "kl" and "ce" differ by the teacher's entropy; "mse" compares probabilities.
      stop_gradient: no gradient reaches the teacher; False is an ablation.

    Returns:
      Mean over rows.
    """
    lowest = torch.finfo(torch.float32).min
    teacher = teacher.detach() if stop_gradient else teacher
    wanted = (teacher.float() / temperature).masked_fill(~valid, lowest).log_softmax(1)
    got = student.float().masked_fill(~valid, lowest).log_softmax(1)
    probability = wanted.exp()
    if kind == "mse":
        return ((probability - got.exp()) ** 2).masked_fill(~valid, 0.0).sum(1).mean()
    cross = -(probability * got.masked_fill(~valid, 0.0)).sum(1)
    if kind == "ce":
        return cross.mean()
    return (cross + (probability * wanted.masked_fill(~valid, 0.0)).sum(1)).mean()


def masked_words(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of hidden words; 0 where none is hidden.

    Args:
      logits: (H, W) of the H hidden words.
      labels: int64 (H,).
    """
    return functional.cross_entropy(logits.float(), labels, reduction="sum") / max(1, len(labels))
