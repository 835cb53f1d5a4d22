"""Exhaustive search against a whole sort in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.index.exact import exact_ranks, exact_scores, exact_search, rescore
from pipelines.index.parts import Block
from schemas.errors import InputError


def blocks(ids: np.ndarray, items: np.ndarray, size: int) -> list[Block]:
    return [Block(ids[i : i + size], items[i : i + size]) for i in range(0, len(ids), size)]


@st.composite
def tied_worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Few distinct values, so that most scores tie; ids in no order; k up to more than there are items."""
    rows, queries, dim = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = rng.integers(-1, 2, (rows, dim)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, dim)).astype(np.float32)
    ids = rng.permutation(1000)[:rows].astype(np.int64) + 2**60
    return ids, items, asked, draw(st.integers(1, rows + 5)), draw(st.integers(1, rows))


@given(tied_worlds())
def test_ties_go_to_the_smaller_id_and_k_may_exceed_the_items(world):
    from itertools import pairwise

    ids, items, asked, k, size = world
    scores, found = exact_search(blocks(ids, items, size), asked, k)
    full = asked.astype(np.float64) @ items.T
    for query in range(len(asked)):
        expected = sorted(zip(-full[query], ids.tolist(), strict=True))[:k]
        assert found[query].tolist() == [number for _, number in expected]
        assert scores[query].tolist() == [-score for score, _ in expected]
        assert all(a >= b for a, b in pairwise(scores[query].tolist()))


@given(tied_worlds())
def test_ranks_count_ties_against_the_best_relevant_item(world):
    ids, items, asked, k, size = world
    relevant = [ids[q % len(ids) :: 7].tolist() + [5] for q in range(len(asked))]
    ranks = exact_ranks(blocks(ids, items, size), asked, relevant)
    full = asked.astype(np.float64) @ items.T
    for query, mine in enumerate(relevant):
        is_mine = np.isin(ids, mine)
        best = full[query][is_mine].max()
        assert ranks[query] == 1 + (full[query][~is_mine] >= best).sum()


def test_a_query_whose_items_are_absent_has_rank_zero():
    items = np.eye(3, dtype=np.float32)
    ranks = exact_ranks([Block(np.array([1, 2, 3]), items)], items[:2], [[99], [2]])
    assert ranks.tolist() == [0, 1]


def test_real_vectors_match_a_whole_sort_whatever_the_blocks(world, oracle):
    expected = oracle(world.ids, world.vectors, world.queries, 15)
    for size in (1, 77, 600):
        scores, ids = exact_search(blocks(world.ids, world.vectors, size), world.queries, 15)
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(scores, expected[0])


def test_identical_items_in_different_blocks_tie_exactly():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 512)).astype(np.float32)
    items, ids = np.repeat(one, 37, axis=0), np.arange(37)[::-1].copy()
    scores, found = exact_search(blocks(ids, items, 5), rng.normal(size=(3, 512)).astype(np.float32), 9)
    assert found.tolist() == [list(range(9))] * 3
    assert (scores == scores[:, :1]).all()


def test_pairs_are_scored_and_sorted_exactly(world, oracle):
    scores, ids = oracle(world.ids, world.vectors, world.queries, 8)
    parts = blocks(world.ids, world.vectors, 100)
    shuffled = ids[:, ::-1]
    np.testing.assert_array_equal(exact_scores(parts, world.queries, shuffled), scores[:, ::-1])
    np.testing.assert_array_equal(rescore(parts, world.queries, shuffled)[1], ids)


def test_a_pair_without_a_vector_is_named(world):
    with pytest.raises(InputError, match="item 12345: not in the embedding parts"):
        exact_scores(blocks(world.ids, world.vectors, 100), world.queries[:1], np.array([[12345]]))


def test_no_results_and_other_widths_are_refused():
    block = [Block(np.array([1]), np.ones((1, 3), np.float32))]
    with pytest.raises(InputError, match="k: expected 1 or more, got 0"):
        exact_search(block, np.ones((1, 3), np.float32), 0)
    with pytest.raises(InputError, match="4 wide, items 3"):
        exact_search(block, np.ones((1, 4), np.float32), 1)
