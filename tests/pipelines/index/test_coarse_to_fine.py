"""The search through levels against a whole sort at each of them, and what it costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.index.coarse_to_fine import (
    CANDIDATES_AT_ONCE,
    CoarseToFine,
    Levels,
    default_shortlist,
    doubled,
    multiply_adds,
)
from pipelines.index.exact import nearest_rows
from schemas.errors import InputError, StaleError


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def scores_of(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    return (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def whole_sorts(ids, levels, queries, shortlist, k):
    """Sorts whole, level by level, every item in a list of Python tuples."""
    kept = ids.tolist()
    place = {number: row for row, number in enumerate(kept)}
    for vectors, query, count in zip(levels, queries, [*shortlist, k], strict=True):
        scores = scores_of(vectors, query)
        ranked = sorted((-float(scores[place[number]]), number) for number in kept)
        kept = [number for _, number in ranked[:count]]
    return kept, [-score for score, _ in ranked[:k]]


def make(seed: int, items: int, dims: tuple[int, ...], *, ties: bool = False):
    """Ids that rise but not by one, vectors of each level, one query; with ties, few distinct vectors."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10 * items, items, replace=False)).astype(np.int64)
    if ties:
        levels = [unit(rng.choice([-1.0, 1.0], (items, width))) for width in dims]
    else:
        levels = [unit(rng.normal(size=(items, width))) for width in dims]
    return ids, levels, [unit(rng.normal(size=(1, width)))[0] for width in dims]


def exhaustive(ids: np.ndarray, vectors: np.ndarray):
    """A first level that looks at everything, in no particular order."""

    def first(queries: np.ndarray, count: int) -> np.ndarray:
        return np.stack([ids[nearest_rows(vectors, query, count)][::-1] for query in queries])

    return first


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 80),
    dims=st.sampled_from([(2, 5), (3, 4, 9), (1, 2, 3, 4)]),
    shares=st.lists(st.integers(1, 60), min_size=3, max_size=3),
    k=st.integers(1, 12),
    ties=st.booleans(),
)
def test_the_answers_are_those_of_a_whole_sort_at_each_level(seed, items, dims, shares, k, ties):
    ids, levels, query = make(seed, items, dims, ties=ties)
    shortlist = tuple(sorted(shares, reverse=True)[: len(dims) - 1])
    search = CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, tuple(levels[1:])), shortlist)
    scores, found = search.search([q[None] for q in query], k)
    expected, best = whole_sorts(ids, levels, query, [max(k, kept) for kept in shortlist], k)
    assert found[0].tolist() == expected
    assert scores[0].tolist() == best


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(1, 60), k=st.integers(1, 70), ties=st.booleans())
def test_the_nearest_rows_are_the_first_of_a_whole_sort(seed, items, k, ties):
    _, (vectors,), (query,) = make(seed, items, (4,), ties=ties)
    scores = scores_of(vectors, query)
    expected = sorted(sorted(range(items), key=lambda row: (-scores[row], row))[:k])
    assert nearest_rows(vectors, query, k).tolist() == expected


def test_nearest_rows_do_not_depend_on_what_lies_around_them():
    rng = np.random.default_rng(0)
    vectors, query = unit(rng.normal(size=(5000, 48))), unit(rng.normal(size=(1, 48)))[0]
    near = vectors + 1e-8 * rng.normal(size=vectors.shape).astype(np.float32)  # products that differ in the last bit
    both = unit(np.concatenate([vectors, near]))
    best = nearest_rows(both, query, 500)
    shuffled = rng.permutation(len(both))
    again = np.sort(shuffled[nearest_rows(both[shuffled], query, 500)])
    scores = scores_of(both, query)
    np.testing.assert_array_equal(np.sort(scores[best]), np.sort(scores[again]))
    last = scores[best].min()
    assert set(best[scores[best] > last]) == set(again[scores[again] > last])


def test_scores_of_two_levels_are_never_in_one_list():
    """The item best at the coarse level is the worst at the fine one; it must come last, whatever its coarse score."""
    ids = np.array([3, 5, 9])
    coarse = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    fine = np.array([[0.1, 0.99498744], [0.5, 0.8660254], [0.3, 0.9539392]], np.float32)
    query = np.array([[1, 0]], np.float32)
    search = CoarseToFine(exhaustive(ids, coarse), Levels(ids, (fine,)), (2,))
    scores, found = search.search([query, query], 2)
    assert found.tolist() == [[5, 3]]
    np.testing.assert_allclose(scores, [[0.5, 0.1]], atol=1e-6)


def test_more_answers_than_the_shortlist_lengthen_it():
    ids, levels, query = make(1, 40, (2, 3, 6))
    search = CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, tuple(levels[1:])), (10, 2))
    found = search.search([q[None] for q in query], 30)[1][0]
    assert found.tolist() == whole_sorts(ids, levels, query, [30, 30], 30)[0]
    everything = search.search([q[None] for q in query], 1000)[1][0]
    assert sorted(everything.tolist()) == ids.tolist()


def test_with_everything_kept_it_is_exhaustive_search(oracle):
    ids, levels, _ = make(2, 300, (2, 8))
    queries = unit(np.random.default_rng(3).normal(size=(7, 8)))
    search = CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, (levels[1],)), (300,))
    scores, found = search.search([queries[:, :2], queries], 10)
    expected_scores, expected = oracle(ids, levels[1], queries, 10)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, expected_scores)


def test_many_queries_are_asked_of_the_index_in_turns(monkeypatch):
    ids, levels, _ = make(4, 50, (2, 8))
    queries = unit(np.random.default_rng(3).normal(size=(9, 8)))
    asked = []

    def first(some: np.ndarray, count: int) -> np.ndarray:
        asked.append(len(some))
        return exhaustive(ids, levels[0])(some, count)

    search = CoarseToFine(first, Levels(ids, (levels[1],)), (20,))
    whole = search.search([queries[:, :2], queries], 5)
    assert asked == [9]
    monkeypatch.setattr("pipelines.index.coarse_to_fine.CANDIDATES_AT_ONCE", 80)
    again = search.search([queries[:, :2], queries], 5)
    assert asked == [9, 4, 4, 1]
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert CANDIDATES_AT_ONCE > 80


def test_what_does_not_fit_is_refused():
    ids, levels, query = make(5, 10, (2, 4))
    search = CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, (levels[1],)), (5,))
    with pytest.raises(InputError, match="k: expected 1 or more"):
        search.search([q[None] for q in query], 0)
    with pytest.raises(InputError, match=r"expected widths \[4\], got \[3\]"):
        search.search([query[0][None], query[1][None, :3]], 1)
    strangers = CoarseToFine(lambda queries, k: np.full((len(queries), k), 10_000), search.levels, (5,))
    with pytest.raises(StaleError, match="item 10000: in the index, but without vectors"):
        strangers.search([q[None] for q in query], 1)


def test_no_queries_give_no_answers():
    ids, levels, _ = make(6, 10, (2, 4))
    search = CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, (levels[1],)), (5,))
    scores, found = search.search([np.empty((0, 2), np.float32), np.empty((0, 4), np.float32)], 3)
    assert scores.shape == found.shape == (0, 3)


def test_shortlists_are_a_tenth_and_then_fifths_and_never_more_than_there_are():
    assert default_shortlist(2240, 2) == (224,)
    assert default_shortlist(1000, 4) == (100, 20, 4)
    assert default_shortlist(300, 2) == (50,)
    assert default_shortlist(7, 3) == (7, 7)
    assert doubled((200, 40), 300) == (300, 80)


def test_multiply_adds_are_counted_level_by_level():
    ids, levels, query = make(7, 500, (2, 4, 8))
    counted = []

    class Counting(np.ndarray):
        """Counts the numbers of the rows that are taken."""

        def take(self, rows, axis):
            counted.append(len(rows) * self.shape[1])
            return np.asarray(self).take(rows, axis=axis)

    watched = tuple(level.view(Counting) for level in levels[1:])
    CoarseToFine(exhaustive(ids, levels[0]), Levels(ids, watched), (100, 20)).search([q[None] for q in query], 10)
    assert counted == [100 * 4, 20 * 8]
    assert 500 * 2 + sum(counted) == multiply_adds(500, (2, 4, 8), (100, 20))
    assert multiply_adds(500, (8,), ()) == 4000
    assert multiply_adds(50, (2, 8), (100,)) == 50 * 2 + 50 * 8
