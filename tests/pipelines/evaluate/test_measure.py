"""The pieces of a measurement against hand-made tables and brute force."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.evaluate import measure
from pipelines.evaluate.measure import Data, by_slow_score, compare_sides
from pipelines.evaluate.metrics import Judged, Results


def data(slow: list[float], final: list[int]) -> Data:
    """Two queries with three candidates each, items 0 to 5; item 1 and item 5 are relevant."""
    query = np.array([0, 0, 0, 1, 1, 1])
    item = np.arange(6)
    return Data(
        query_ids=pa.array(["a", "b"]),
        texts=np.zeros((2, 2), np.float32),
        measured=np.array([0, 1]),
        judged=Judged(np.array([0, 1]), np.array([1, 5])),
        videos=np.array([False, True]),
        fast=Results(query, item, np.array([1, 2, 3, 1, 2, 3])),
        final=Results(query, item, np.array(final)),
        slow=np.array(slow, np.float32),
    )


def test_the_slow_order_keeps_ties_as_the_fast_side_had_them_and_missing_ones_last():
    found = by_slow_score(data([1, 1, 2, np.nan, 0, -1], [1] * 6))
    assert found.item.tolist() == [2, 0, 1, 4, 5, 3]
    assert found.rank.tolist() == [1, 2, 3, 1, 2, 3]


def test_both_sides_are_measured_on_the_same_queries():
    some = data([0] * 6, [2, 1, 3, 2, 3, 1])
    found = compare_sides(some, some.judged, some.measured)
    assert (found["fast"]["R@1"], found["reranked"]["R@1"]) == (0.0, 1.0)
    assert found["fast"]["RR"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["gain"]["R@1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["reranked"]["median_rank"] == 1.0


def test_relevant_values_are_grouped_by_the_ones_wanted():
    left, right = np.array([3, 1, 3, 2]), np.array([30, 10, 31, 20])
    assert measure._relevant(left, right, np.array([1, 3, 4])) == [[10], [30, 31], []]


def test_a_sample_is_fair_seeded_and_rising():
    numbers = np.arange(1000) * 2
    found = measure._sample(numbers, 100)
    assert found.tolist() == sorted(set(found.tolist()) & set(numbers.tolist()))
    assert len(found) == 100
    assert found.tolist() == measure._sample(numbers, 100).tolist()
    assert 800 < found.mean() < 1200
    assert measure._sample(numbers, 1000) is numbers
