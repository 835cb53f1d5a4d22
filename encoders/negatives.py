"""Which pairs are positives, which negatives are taken, and which words are hidden.

Everything random draws from a generator that is passed in, so that a step depends on its seed alone.
Letters: B rows, N columns, m negatives, L words.
"""

from typing import Literal, NamedTuple

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


class MinedPairs(NamedTuple):
    """The pairs of a matching loss: each text with its own picture, with m hard ones, each picture with m hard texts.

    Attributes:
      rows: int64 (R,), rows of the batch that were mined for; all B of them unless told otherwise.
      texts, pictures: int64 (P,), rows of the batch, P = R (1 + 2m); the R own pairs first, then those of
        `hard_pictures`, then those of `hard_texts`.
      labels: int64 (P,): 1, 0, or IGNORED where a row has fewer than m negatives.
      hard_pictures, hard_texts: int64 (R, m).
      picture_valid, text_valid: bool (R, m), False where there was none.
    """

    rows: torch.Tensor
    texts: torch.Tensor
    pictures: torch.Tensor
    labels: torch.Tensor
    hard_pictures: torch.Tensor
    picture_valid: torch.Tensor
    hard_texts: torch.Tensor
    text_valid: torch.Tensor


def mined_pairs(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    count: int,
    *,
    temperature: float | torch.Tensor,
    how: Literal["sampled", "top", "random"],
    generator: torch.Generator,
    rows: int | None = None,
) -> MinedPairs:
    """Lets a dual encoder choose what its cross encoder learns to tell apart.

    Source: ALBEF's image-text matching; LoopITR takes several negatives.

    Args:
      similarity: (B texts, B pictures) cosines; pair i belongs together.
      positives: bool (B, B).
      count: m a side.
      temperature, how: see `sample_negatives`.
      rows: mine for so many rows of the batch only, drawn at random; negatives still come from all of it.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    if rows is not None and rows < len(own):
        own = torch.randperm(len(own), generator=generator, device=own.device)[:rows]
    hard_pictures, picture_valid = sample_negatives(
        similarity[own], positives[own], count, temperature=temperature, how=how, generator=generator
    )
    hard_texts, text_valid = sample_negatives(
        similarity.T[own], positives.T[own], count, temperature=temperature, how=how, generator=generator
    )
    many = own[:, None].expand_as(hard_pictures).flatten()
    negative = torch.where(torch.cat([picture_valid.flatten(), text_valid.flatten()]), 0, IGNORED)
    return MinedPairs(
        own,
        torch.cat([own, many, hard_texts.flatten()]),
        torch.cat([own, hard_pictures.flatten(), many]),
        torch.cat([torch.ones_like(own), negative]),
        hard_pictures,
        picture_valid,
        hard_texts,
        text_valid,
    )


def nearest(similarity: torch.Tensor, positives: torch.Tensor, count: int) -> torch.Tensor:
    """The k most similar columns of each row, and its positives: bool (B, N).

    Args:
      similarity: (B, N) cosines; no gradient is taken.
      positives: bool (B, N).
      count: k.
    """
    near = similarity.detach().topk(min(count, similarity.shape[1]), dim=1).indices
    return positives.scatter(1, near, True)


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


def hide_words(
    ids: torch.Tensor,
    maskable: torch.Tensor,
    category: torch.Tensor | None,
    *,
    fraction: float,
    mask_id: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`mask_category` where there are categories, else `mask_words`; arguments and results as there."""
    if category is not None:
        return mask_category(ids, category, mask_id=mask_id, generator=generator)
    return mask_words(ids, maskable, fraction=fraction, mask_id=mask_id, generator=generator)


def bags(ids: torch.Tensor, counted: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """How often each word is in each text: float32 (B, W).

    Args:
      ids: int64 (B, L).
      counted: bool (B, L), False at padding and special tokens.
      vocabulary: W.
    """
    empty = torch.zeros(len(ids), vocabulary, device=ids.device)
    return empty.scatter_add_(1, ids, counted.to(empty.dtype))


def word_overlap(ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Cosines (B, B) of the texts' bags of words; 0 for a text without words.

    Args:
      ids, counted: as in `bags`.
    """
    words, places = torch.unique(ids, return_inverse=True)
    found = torch.nn.functional.normalize(bags(places, counted, len(words)), dim=1)
    return found @ found.T


def replace_one_side(chosen: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mismatched pairs: for each, one side of pair i, the text or the picture by the toss of a coin, is replaced.

    Source: Oscar's retrieval data set, which both VLDeformer and Retrieve Fast, Rerank Smart train on.

    Args:
      chosen: int64 (B, m), the items that replace.

    Returns:
      Text rows and picture rows, int64 (B, m) each.
    """
    own = torch.arange(len(chosen), device=chosen.device)[:, None].expand_as(chosen)
    picture = torch.rand(chosen.shape, generator=generator, device=chosen.device) < 0.5
    return torch.where(picture, own, chosen), torch.where(picture, chosen, own)


def one_side_negatives(
    similarity: torch.Tensor,
    positives: torch.Tensor,
    count: int,
    *,
    temperature: float | torch.Tensor,
    how: Literal["sampled", "top", "random"],
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mismatched pairs: in each, the picture or the text of pair i, by the toss of a coin, is replaced.

    Source: Oscar's and Retrieve Fast, Rerank Smart's matching, one random negative for each pair that belongs together.

    Args:
      similarity: (B texts, B pictures) cosines; pair i belongs together.
      positives: bool (B, B).
      count: m for each pair.
      temperature, how: see `sample_negatives`.

    Returns:
      Text rows and picture rows, int64 (B, m), and valid bool (B, m): False where there was no negative.
    """
    pictures, picture_valid = sample_negatives(
        similarity, positives, count, temperature=temperature, how=how, generator=generator
    )
    texts, text_valid = sample_negatives(
        similarity.T, positives.T, count, temperature=temperature, how=how, generator=generator
    )
    own = torch.arange(len(similarity), device=similarity.device)[:, None].expand_as(pictures)
    replaced = torch.rand(pictures.shape, generator=generator, device=similarity.device) < 0.5
    return (
        torch.where(replaced, own, texts),
        torch.where(replaced, pictures, own),
        torch.where(replaced, picture_valid, text_valid),
    )
