"""Where one more seed is expected to land, from the seeds there are.

Source: Hahn and Meeker, Statistical Intervals, 1991, section 4.7: mean +- t s sqrt(1 + 1 / n), t with n - 1 degrees.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t

LEVEL = 0.95


def next_seed(values: Sequence[float], *, step: float = 0.0) -> tuple[float, float] | None:
    """Bounds that hold the value of another seed in 95 of 100 cases, if seeds spread like a normal distribution.

    They always hold all values there are, and one `step` beyond them: equal values of three seeds do not mean that no
    seed gives another.

    Args:
      values: one a seed.
      step: the least that a value can change by; 100 / Q of a recall in percent over Q queries.

    Returns:
      The bounds; None of one value or of none, which say nothing about spread.

    >>> next_seed([1.0, 1.0], step=0.5)
    (0.5, 1.5)
    """
    if len(values) < 2:
        return None
    count, mean = len(values), float(np.mean(values))
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / count)
    return min(mean - half, min(values) - step), max(mean + half, max(values) + step)
