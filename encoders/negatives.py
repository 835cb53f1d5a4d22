"""Which pairs are positives, which negatives are taken, and which words are hidden.

Everything random draws from a generator that is passed in, so that a step depends on its seed alone.
Letters: B rows, N columns, m negatives, L words.
"""

from typing import Literal

import torch

from encoders.losses import IGNORED


def positive_mask(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pairs of the same item, whatever their place in the batch: bool (B, N) from int64 item ids (B,), (N,)."""
    return rows[:, None] == columns[None, :]


def sample_negatives(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    count: int,
    *,
    temperature: float | torch.Tensor,
    how: Literal["sampled", "top", "random"],
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws m negatives for each row, never a positive, never the same twice.

    Drawing without replacement with probability proportional to softmax(similarity / temperature) is taking the
    top m of the logits plus Gumbel noise.

    Args:
      similarity: (B, N) cosines; no gradient is taken.
      positives: bool (B, N).
      count: m.
      temperature: of the softmax.
      how: "sampled" as above, "top" the m most similar, "random" uniformly.

    Returns:
      indices int64 (B, min(m, N)) and valid bool of the same shape: False where a row has fewer than m negatives.
    """
    logits = similarity.detach().float() / temperature
    if how == "random":
        logits = torch.zeros_like(logits)
    if how != "top":
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        logits = logits - torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
    values, indices = logits.masked_fill(positives, -torch.inf).topk(min(count, logits.shape[1]), dim=1)
    return indices, values > -torch.inf


def mask_words(
    ids: torch.Tensor, maskable: torch.Tensor, *, fraction: float, mask_id: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides single words at random.

    Args:
      ids: int64 (B, L).
      maskable: bool (B, L), False at padding and special tokens.
      fraction: of the maskable words.

    Returns:
      ids with `mask_id` at the hidden places, and labels: the word there, IGNORED elsewhere.
    """
    hidden = maskable & (torch.rand(ids.shape, generator=generator, device=ids.device) < fraction)
    return ids.masked_fill(hidden, mask_id), ids.masked_fill(~hidden, IGNORED)


def mask_category(
    ids: torch.Tensor, category: torch.Tensor, *, mask_id: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides all words of one category of each text (all its colours, say), so that only the picture can tell them.

    Args:
      ids: int64 (B, L).
      category: int64 (W,), category of each word of the vocabulary, -1 for none.

    Returns:
      As mask_words; a text without a word of any category is left whole.
    """
    kinds = category[ids]  # (B, L)
    count = int(category.max()) + 1  # categories
    present = (kinds[:, :, None] == torch.arange(count, device=ids.device)).any(1)  # (B, categories)
    noise = torch.rand(present.shape, generator=generator, device=ids.device)
    chosen = noise.masked_fill(~present, -1.0).argmax(1)  # (B,)
    hidden = kinds == chosen[:, None]
    return ids.masked_fill(hidden, mask_id), ids.masked_fill(~hidden, IGNORED)
