"""Coarse to fine: an index of narrow vectors names many items, wider ones of only those choose and order the answers.

  C_1     = the K_1 items that the index finds at the coarsest level
  C_m     = the K_m items of C_{m-1} that score highest at level m, for 1 < m < M
  answers = the items of C_{M-1} by their score at the finest level

Multiply-adds a query: N d_1 + sum_{m>1} K_{m-1} d_m, against N d_M of exhaustive search at the finest level. Nothing
outside C_{M-1} is an answer: scores of two levels are never in one list. Scores above the first level are exact (see
`exact`), equal ones by smaller id, so the answers depend on C_1 and the vectors alone.

Source: HiVLP (Chen et al., arXiv 2205.12105), its search; the K_m are not known and ours.
Letters: M levels, m one of them, N items, Q queries, K_m items kept, d_m width of level m.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.index.exact import nearest_rows, pair_scores
from schemas.errors import InputError, StaleError

LEAST_SHORTLIST = 50
FIRST_SHARE = 10
"""K_1 is a tenth of the items."""

LATER_SHARE = 5
"""Each further K_m is a fifth of the one before."""

CANDIDATES_AT_ONCE = 1 << 22
"""Ids asked of the index at once, all queries together: 48 MiB with their scores."""

First = Callable[[np.ndarray, int], np.ndarray]
"""The index: (queries float32 (Q, d_1), K) -> ids int64 (Q, K), distinct in a row."""


@dataclass(frozen=True)
class Stacked:
    """Arrays (rows, width) as if they stood on top of each other, never copied into one.

    Attributes:
      arrays: of one width and dtype.
      starts: int64 (arrays + 1,), the first row of each, and the number of all.
    """

    arrays: tuple[np.ndarray, ...]
    starts: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of all."""
        return int(self.starts[-1]), self.arrays[0].shape[1]

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.arrays[0].itemsize

    def take(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """Some rows, as `np.ndarray.take` along the first axis gives them."""
        found = np.empty((len(rows), self.shape[1]), self.arrays[0].dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            found[mine] = self.arrays[number].take(rows[mine] - self.starts[number], axis=axis)
        return found


@dataclass(frozen=True)
class Levels:
    """The vectors above the coarsest level, a row an item; memory-mapped, only the rows asked for are read.

    Attributes:
      ids: int64 (N,), rising.
      vectors: float32 or float16 (N, d_m) of each level above the first, coarse to fine; L2 norm 1.
      places: int64 (N,), the row of each id in `vectors`; None where they are in the order of `ids`.
    """

    ids: np.ndarray
    vectors: tuple[np.ndarray | Stacked, ...]
    places: np.ndarray | None = None

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of items int64 (K,), rising.

        Raises:
          StaleError: an item has no row.
        """
        wanted = np.sort(ids)  # neighbours in the file are read together
        rows = np.searchsorted(self.ids, wanted)
        known = rows < len(self.ids)
        known[known] = self.ids[rows[known]] == wanted[known]
        if not known.all():
            raise StaleError(f"item {wanted[~known][0]}: in the index, but without vectors of the finer levels")
        return rows

    def descend(
        self, rows: np.ndarray, queries: Sequence[np.ndarray], keep: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """From C_1 to the answers of one query.

        Args:
          rows: C_1, int64 (K_1,), rising.
          queries: float32 (d_m,) of each level above the first.
          keep: K_m of the levels between the first and the last.
          k: answers wanted.

        Returns:
          Exact finest scores float32 (k,), falling, and ids int64 (k,); fewer where `rows` are.
        """
        for vectors, query, count in zip(self.vectors[:-1], queries[:-1], keep, strict=True):
            rows = rows[nearest_rows(self._gathered(vectors, rows), query, count)]
        finest = self._gathered(self.vectors[-1], rows)
        best = nearest_rows(finest, queries[-1], k)
        scores = pair_scores(queries[-1], finest, best)
        order = np.lexsort((best, -scores))  # rows rise with ids
        return scores[order], self.ids[rows[best[order]]]

    def _gathered(self, vectors: np.ndarray | Stacked, rows: np.ndarray) -> np.ndarray:
        places = rows if self.places is None else self.places[rows]
        return vectors.take(places, axis=0).astype(np.float32, copy=False)


@dataclass(frozen=True)
class CoarseToFine:
    """A search through all levels. It changes nothing, so one serves all threads.

    Attributes:
      first: the index.
      levels: all above it.
      shortlist: K_m of each level but the last.
      factor: least K_m in multiples of k: where many are wanted, many must be looked at.
    """

    first: First
    levels: Levels
    shortlist: tuple[int, ...]
    factor: int = 1

    def search(self, queries: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query.

        Args:
          queries: float32 (Q, d_m) of each level, coarse to fine.
          k: 1 or more. Where `factor` times k is more than a K_m, that level keeps so many.

        Returns:
          Exact scores at the finest level, float32 (Q, min(k, N)), falling, and ids int64; equal scores by smaller id.

        Raises:
          InputError: k below 1, or vectors of other widths.
          StaleError: the index holds an item that the levels do not.
        """
        items = len(self.levels.ids)
        if k < 1:
            raise InputError(f"k: expected 1 or more, got {k}")
        widths, wanted = [q.shape[1] for q in queries[1:]], [v.shape[1] for v in self.levels.vectors]
        if widths != wanted:
            raise InputError(f"queries above the first level: expected widths {wanted}, got {widths}")
        count, k = len(queries[0]), min(k, items)
        first, *keep = (min(items, max(kept, self.factor * k)) for kept in self.shortlist)
        scores, ids = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        finer = [np.ascontiguousarray(q, dtype=np.float32) for q in queries[1:]]
        at_once = max(1, CANDIDATES_AT_ONCE // max(1, first))
        for start in range(0, count if items else 0, at_once):
            some = self.first(queries[0][start : start + at_once], first)
            for row, candidates in enumerate(some, start=start):
                rows = self.levels.rows_of(candidates)
                scores[row], ids[row] = self.levels.descend(rows, [q[row] for q in finer], keep, k)
        return scores, ids


def default_shortlist(items: int, levels: int) -> tuple[int, ...]:
    """K_1 = max(50, N / 10), then a fifth of the one before; never more than all.

    >>> default_shortlist(100_000, 3), default_shortlist(60, 2)
    ((10000, 2000), (50,))
    """
    first = max(LEAST_SHORTLIST, items // FIRST_SHARE)
    return tuple(min(items, max(1, first // LATER_SHARE**level)) for level in range(levels - 1))


def doubled(shortlist: Sequence[int], items: int) -> tuple[int, ...]:
    """Twice as many at each level, up to all."""
    return tuple(min(items, 2 * kept) for kept in shortlist)


def multiply_adds(items: int, dims: Sequence[int], shortlist: Sequence[int]) -> int:
    """Of one query, the first level searched exhaustively; with one level and no shortlist, of a flat search.

    >>> multiply_adds(100_000, (8, 32), (10_000,)), multiply_adds(100_000, (32,), ())
    (1120000, 3200000)
    """
    looked_at = [items, *(min(items, kept) for kept in shortlist)]
    return sum(count * width for count, width in zip(looked_at, dims, strict=True))
