"""What of the index being served goes into the next one: nothing, its centroids, its files, or all but the tuning.

train    from the parts alone
merge    the same centroids and codebooks, all parts merged anew
append   its files as they are; new items in a segment of their own, removed ones marked deleted
tune     its files as they are, measured with other queries

Appending and marking cost what changed, merging a copy of the lists, training the sample and every vector.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipelines.index.plan import Change, IndexPlan
from schemas.configs import Index
from schemas.manifests import EmbeddingManifest, Lineage

Action = Literal["train", "merge", "append", "tune"]


class Decision(NamedTuple):
    """What to do and, for people, why."""

    action: Action
    reason: str


def decide(plan: IndexPlan, config: Index) -> Decision:
    """From manifests alone; `drifted` may still overrule it.

    Args:
      plan: of the next index.
    """
    change = plan.change
    if change is None:
        return Decision("train", "there is no index to build on")
    lineage = change.built.lineage
    if lineage is None or not (change.added or change.removed):
        return Decision("tune", "the same items, other queries")
    limits, moved = config.append, added_rows(change) + removed_rows(change)
    changed = lineage.changed + moved
    if changed > limits.max_changed * lineage.rows:
        return Decision(
            "train",
            f"{changed} items came or went since it was trained for {lineage.rows}, "
            f"index.append.max_changed is {limits.max_changed:g}",
        )
    segments = change.built.segments
    if len(segments) - config.shards + 1 > limits.max_segments:
        return Decision("merge", f"{len(segments)} segments, index.append.max_segments is {limits.max_segments}")
    whole = sum(segment.ids.rows for segment in segments[: config.shards])
    later = sum(segment.ids.rows for segment in segments[config.shards :])
    unmerged = later + sum(segment.deleted for segment in segments) + moved
    if unmerged > limits.max_unmerged * whole:
        return Decision(
            "merge",
            f"{unmerged} items beside {whole} are new or deleted, index.append.max_unmerged is {limits.max_unmerged:g}",
        )
    return Decision("append", f"{added_rows(change)} items more, {removed_rows(change)} less")


def drifted(lineage: Lineage, *, error: float | None, imbalance: float, config: Index) -> str | None:
    """Why centroids and codebooks no longer fit; None where they do.

    Args:
      error: mean quantization error of the items that are new; None without any.
      imbalance: of the lists as they would be.
    """
    limits = config.append
    if error is not None and error > limits.max_error_ratio * lineage.error and error > 0:
        return (
            f"new items have a quantization error of {error:.4f}, those it was trained for {lineage.error:.4f}; "
            f"index.append.max_error_ratio is {limits.max_error_ratio:g}"
        )
    if imbalance > limits.max_imbalance_ratio * lineage.imbalance:
        return (
            f"the imbalance of the lists is {imbalance:.2f}, it was {lineage.imbalance:.2f}; "
            f"index.append.max_imbalance_ratio is {limits.max_imbalance_ratio:g}"
        )
    return None


def imbalance_of(sizes: np.ndarray) -> float:
    """Lists x sum(size^2) / sum(size)^2: how many times more a search looks at than with lists equally long.

    Source: FAISS, `InvertedLists::imbalance_factor`.

    >>> imbalance_of(np.array([2, 2])), imbalance_of(np.array([4, 0]))
    (1.0, 2.0)

    Args:
      sizes: int64, items in each list; not all 0.
    """
    squares = float((sizes.astype(np.float64) ** 2).sum())
    return round(len(sizes) * squares / float(sizes.sum()) ** 2, 6)


def added_rows(change: Change) -> int:
    """Items in the parts that are new."""
    return _rows(change.added)


def removed_rows(change: Change) -> int:
    """Items in the parts that are gone."""
    return _rows(change.removed)


def _rows(urls: Sequence[str]) -> int:
    return sum(part.data.rows for part in EmbeddingManifest.read_all(urls))
