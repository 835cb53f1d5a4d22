"""Ranks against loops that count; ties against the model; what holds whatever the scores are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.claims.ranks import depth_for_gap, hits, mean_recall, ranks, recall, reranked, shortlist

SCORES = arrays(np.float32, (6, 9), elements=st.integers(0, 4).map(float))  # many ties
TARGETS = arrays(np.int64, 6, elements=st.integers(0, 8))


def counted(row: np.ndarray, target: int) -> int:
    """Rank from 1, items as good as the target before it."""
    return sum(1 for item, score in enumerate(row) if item != target and score >= row[target]) + 1


@given(SCORES, TARGETS)
def test_ranks_are_those_a_loop_counts(scores, targets):
    assert ranks(scores, targets).tolist() == [counted(row, t) for row, t in zip(scores, targets, strict=True)]


@given(SCORES, SCORES, TARGETS, st.integers(1, 9), st.sampled_from([0.0, 0.5, 3.0]))
def test_reranking_orders_the_shortlist_and_nothing_else(fast, slow, targets, depth, beta):
    found = reranked(fast, slow, targets, depth, beta=beta)
    near = shortlist(fast, depth)
    for row, target in enumerate(targets):
        best = near[row].tolist()
        if target not in best:
            assert found[row] > depth
        else:
            mixed = slow[row] + beta * fast[row]
            assert found[row] == counted(mixed[best], best.index(target))


@given(SCORES, SCORES, TARGETS)
def test_all_candidates_without_beta_are_exhaustive_scoring(fast, slow, targets):
    assert reranked(fast, slow, targets, 9).tolist() == ranks(slow, targets).tolist()


@given(SCORES, SCORES, TARGETS, st.integers(1, 9))
def test_reranking_never_finds_more_than_the_shortlist_holds(fast, slow, targets, depth):
    held = (shortlist(fast, depth) == targets[:, None]).any(1)
    assert hits(reranked(fast, slow, targets, depth)).mean() <= 100 * held.mean() + 1e-9


def test_a_collapsed_model_scores_nothing():
    assert recall(ranks(np.zeros((4, 20), np.float32), np.arange(4)), 10) == 0.0


def test_mean_recall_looks_both_ways():
    square = np.array([[2.0, 1.0], [3.0, 0.0]])  # text 0 finds item 0; item 1 finds no text; text 1 is second
    assert mean_recall(np.eye(20)) == 100.0
    assert mean_recall(square) == pytest.approx((50 + 100 + 100 + 0 + 100 + 100) / 6)


def test_the_depth_that_wins_back_the_gap():
    slow = np.eye(3, 10)
    fast = -np.arange(30, dtype=float).reshape(3, 10)  # the items in order, the same for all
    targets = np.arange(3)
    assert depth_for_gap(fast, slow, targets, (1, 2, 3, 5)) == 3
    assert depth_for_gap(slow, slow, targets, (1, 2)) is None  # nothing to win back
    assert depth_for_gap(fast, slow, targets, (1, 2)) is None  # not that deep
