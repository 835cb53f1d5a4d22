"""The interval of a mean difference where several queries are of one picture, in one gallery or in several.

Such queries are right or wrong together; pictures are drawn, each with all its queries.
Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (strategy 1).
"""

import numpy as np

from pipelines.evaluate.metrics import LEVEL, RESAMPLES, SEED, Interval


def compare_by_subject(ours: np.ndarray, theirs: np.ndarray, subjects: np.ndarray) -> Interval:
    """The mean over queries of ours - theirs, and the bounds of its 95 % interval (percentiles, seeded).

    Args:
      ours, theirs: one value a query, in the same order, float (Q,).
      subjects: what each query is of, int64 (Q,).

    Raises:
      ValueError: there are no queries.
    """
    if not len(ours):
        raise ValueError("expected one query or more, got none")
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    _, place = np.unique(subjects, return_inverse=True)
    sums, counts = np.bincount(place, differences), np.bincount(place)
    draws = np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    low, high = np.quantile(draws @ sums / (draws @ counts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(differences.mean()), float(low), float(high))
