"""Two generations of one dataset over the queries that were judged in both: paired differences, and who fell."""

from typing import NamedTuple

import numpy as np

from pipelines.evaluate.job import read_data
from pipelines.evaluate.measure import Data
from pipelines.evaluate.metrics import Interval, Results, compare, first_ranks, per_query
from pipelines.evaluate.published import Published
from schemas.parquet import read_table

COMPARED = ("R@1", "R@5", "R@10", "nDCG@10")


class Fallen(NamedTuple):
    """A query whose first relevant item lies deeper than before; rank 0: not among the candidates any more."""

    text: str
    before: int
    now: int


class Comparison(NamedTuple):
    """What became of the quality.

    Attributes:
      queries: judged and measured in both.
      differences: measure -> now - before with its paired bootstrap interval.
      fallen: those that fell furthest, by reciprocal rank, first.
    """

    queries: int
    differences: dict[str, Interval]
    fallen: tuple[Fallen, ...]


def compare_generations(before: Published, now: Published, *, examples: int = 5) -> Comparison | None:
    """The order that is served, now against before; None where no query can be compared.

    Queries are the same by their text; each generation is judged by what it knew to be relevant.
    """
    if before.rankings is None or now.rankings is None:
        return None
    old, new = _Side.of(before), _Side.of(now)
    texts = sorted(old.rows.keys() & new.rows.keys())
    if not texts:
        return None
    then, today = old.values(texts), new.values(texts)
    differences = {name: compare(today[name], then[name]) for name in COMPARED}
    ranks = zip(texts, old.ranks(texts), new.ranks(texts), strict=True)
    fallen = [Fallen(text, int(was), int(is_)) for text, was, is_ in ranks if _worth(is_) < _worth(was)]
    fallen.sort(key=lambda one: (_worth(one.now) - _worth(one.before), one.text))
    return Comparison(len(texts), differences, tuple(fallen[:examples]))


class _Side(NamedTuple):
    """One generation: its measured queries by text."""

    data: Data
    rows: dict[str, int]

    @classmethod
    def of(cls, state: Published) -> "_Side":
        generation, rankings = state.generation, state.rankings
        if rankings is None or generation.rankings is None:
            raise ValueError("a generation without rankings")
        queries_url = state.url(generation.queries)
        data = read_data(state.url(generation.rankings), rankings, queries_url, state.queries)
        table = read_table(state.queries.data.url(queries_url), ["text"]).column("text")
        return cls(data, {table[int(row)].as_py(): int(row) for row in data.measured})

    @property
    def served(self) -> Results:
        return self.data.final if self.data.final is not None else self.data.fast

    def values(self, texts: list[str]) -> dict[str, np.ndarray]:
        return per_query(self.served, self.data.judged, self._numbers(texts))

    def ranks(self, texts: list[str]) -> np.ndarray:
        return first_ranks(self.served, self.data.judged, self._numbers(texts))

    def _numbers(self, texts: list[str]) -> np.ndarray:
        return np.array([self.rows[text] for text in texts], np.int64)


def _worth(rank: int) -> float:
    """Reciprocal rank; 0 where there is none."""
    return 1 / rank if rank else 0.0
