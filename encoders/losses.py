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


def info_nce(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    temperature: torch.Tensor,
    among: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy to the positives of each row, shared equally among them (ALBEF's image-text contrast).

    Args:
      similarity: (B, N) cosines.
      positives: bool (B, N), at least one a row.
      temperature: scalar.
      among: bool (B, N), the columns that are contrasted, positives included; None: all.

    Returns:
      Mean over rows.
    """
    target = positives / positives.sum(1, keepdim=True)
    logits = similarity / temperature
    if among is not None:
        logits = logits.masked_fill(~among, torch.finfo(logits.dtype).min)
    return -(target * functional.log_softmax(logits, dim=1)).sum(1).mean()


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
    temperature: float | torch.Tensor,
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


def shifted_triplet(anchors: torch.Tensor, others: torch.Tensor, valid: torch.Tensor, *, margin: float) -> torch.Tensor:
    """[|a_i - o_i| - |a_i - o_{i-1}| + margin]_+ with Euclidean distances: the negative is the row before.

    Source: VLDeformer's ablation (torch's TripletMarginLoss, p = 2).

    Args:
      anchors: (B, D).
      others: (B, D), row i matches anchor i.
      valid: bool (B,), False where the row before is no negative.

    Returns:
      Mean over the valid rows; 0 without any.
    """
    losses = functional.triplet_margin_loss(
        anchors.float(), others.float(), others.roll(1, 0).float(), margin=margin, p=2.0, reduction="none"
    )
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def bag_of_words(logits: torch.Tensor, bags: torch.Tensor) -> torch.Tensor:
    """Which words does the caption have? Mean binary cross entropy.

    Args:
      logits: (B, W).
      bags: bool (B, W), True at the words of the caption.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), bags.float())


def caption_log_likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of log p of the words of each caption, in nats, float32 (P,).

    A sum, for a mean would favour long texts where texts compete for a picture.

    Source: the caption losses of Thinking Fast and Slow and of VirTex.

    Args:
      logits: (N, W), of the N places that are not padding, caption by caption.
      targets: int64 (P, L), IGNORED at padding.
    """
    told = targets != IGNORED
    nats = functional.cross_entropy(logits.float(), targets[told], reduction="none")
    return -nats.new_zeros(targets.shape).masked_scatter(told, nats).sum(1)


LOG_TEMPERATURES = (-14.0, 14.0)
"""Between which natural logarithms `entropy_temperature` looks."""


def entropy_temperature(scores: torch.Tensor, valid: torch.Tensor, *, share: float) -> torch.Tensor:
    """The temperature at which softmax(scores / temperature) is as undecided as asked; scalar float32.

    Log-likelihoods of captions differ by many nats: at temperature 1 a teacher is all but one-hot and teaches no more
    than the labels do.

    Source: papers.md, 1 (b); the paper's own temperature is unknown. Bisection on its logarithm.

    Args:
      scores: (B, m), at least one valid a row; no gradient is taken.
      valid: bool (B, m).
      share: of the largest possible entropy, in mean over rows: mean entropy = share * mean log(valid candidates).
    """
    scores = scores.detach().float()
    lowest = torch.finfo(torch.float32).min
    wanted = share * valid.sum(1).float().log().mean()
    low, high = (torch.full((), value, device=scores.device) for value in LOG_TEMPERATURES)
    for _ in range(32):  # of a range of 28: to 1e-8
        middle = (low + high) / 2
        logs = (scores / middle.exp()).masked_fill(~valid, lowest).log_softmax(1)
        entropy = -(logs.exp() * logs.masked_fill(~valid, 0.0)).sum(1).mean()
        low, high = torch.where(entropy < wanted, middle, low), torch.where(entropy < wanted, high, middle)
    return ((low + high) / 2).exp()


def triplet(
    similarity: torch.Tensor, own: torch.Tensor, positives: torch.Tensor, *, margin: float, hardest: bool = True
) -> torch.Tensor:
    """[margin - own_i + s_ij]_+ for the negatives j of each row, with cosines s.

    Source: VSE++; Retrieve Fast, Rerank Smart takes the hardest in the batch, with distances 1 - s and margin 0.1.

    Args:
      similarity: (B, N) cosines.
      own: (B,), cosines of the pairs that belong together.
      positives: bool (B, N); these are never negatives.
      margin: of cosines.
      hardest: of each row only the most similar negative; False: the mean over all of them.

    Returns:
      Mean over rows; a row without negatives counts 0.
    """
    losses = (margin - own[:, None] + similarity).clamp(min=0).masked_fill(positives, 0.0)
    if hardest:
        return losses.amax(1).mean()
    return (losses.sum(1) / (~positives).sum(1).clamp(min=1)).mean()
