"""Ranks and recalls from matrices of scores; equal scores count against the model.

Letters: Q texts, N items, K candidates.
"""

import numpy as np

GAP = 0.95
"""Share of the way from fast to exhaustive that counts as all of it (FS3)."""


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each text's item, from 1, int64 (Q,): items that score as high come before it.

    Args:
      scores: (Q, N), higher is better.
      targets: int64 (Q,).

    >>> ranks(np.array([[3.0, 1.0, 3.0]]), np.array([0]))
    array([2])
    """
    own = np.take_along_axis(scores, targets[:, None], 1)
    found: np.ndarray = (scores >= own).sum(1)
    return found


def shortlist(fast: np.ndarray, depth: int) -> np.ndarray:
    """The K best items of each text by the fast side, int64 (Q, K); of equal ones the first."""
    return np.argsort(-fast, axis=1, kind="stable")[:, :depth]


def reranked(fast: np.ndarray, slow: np.ndarray, targets: np.ndarray, depth: int, *, beta: float = 0.0) -> np.ndarray:
    """Ranks after the best K by `fast` were ordered by slow + beta * fast; the others keep their places behind.

    Args:
      fast, slow: (Q, N).
      depth: K.

    Returns:
      int64 (Q,), from 1.
    """
    near = shortlist(fast, depth)
    scores = np.take_along_axis(slow, near, 1) + beta * np.take_along_axis(fast, near, 1)
    hit = near == targets[:, None]
    own = np.where(hit, scores, -np.inf).max(1, keepdims=True)
    inside = hit.any(1)
    return np.where(inside, (scores >= own).sum(1), np.maximum(ranks(fast, targets), depth + 1))


def hits(rank: np.ndarray, k: int = 1) -> np.ndarray:
    """100 where the item is among the first k, else 0: float64 (Q,), whose mean is R@k in percent."""
    return 100.0 * (rank <= k)


def recall(rank: np.ndarray, k: int = 1) -> float:
    """R@k in percent."""
    return float(hits(rank, k).mean())


def pair_recalls(square: np.ndarray) -> np.ndarray:
    """What each pair adds to mR, in percent: float64 (N,), whose mean is mR; text i belongs to item i, (N, N)."""
    own = np.arange(len(square))
    found: np.ndarray = np.mean([hits(ranks(one, own), k) for one in (square, square.T) for k in (1, 5, 10)], axis=0)
    return found


def mean_recall(square: np.ndarray) -> float:
    """mR: the mean of R@1, R@5 and R@10 of both directions, in percent; text i belongs to item i, (N, N)."""
    return float(pair_recalls(square).mean())


def depth_for_gap(fast: np.ndarray, slow: np.ndarray, targets: np.ndarray, depths: tuple[int, ...]) -> int | None:
    """The least K of `depths` that wins back `GAP` of what exhaustive scoring gains at R@1; None: it gains nothing."""
    low, high = recall(ranks(fast, targets)), recall(ranks(slow, targets))
    if high <= low:
        return None
    for depth in depths:
        if recall(reranked(fast, slow, targets, depth)) >= low + GAP * (high - low):
            return depth
    return None
